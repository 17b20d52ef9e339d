"""TRL's SFTTrainer with our batches, and a loss that is cheap where few tokens are trained.

The trainers of preferences share `Housekeeping` with it; see `agent_finetune.train.preference`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput
from trl.trainer.sft_trainer import SFTTrainer

from agent_finetune import adapters, artifacts, plugins
from agent_finetune.collate import IGNORED
from agent_finetune.errors import TrainError
from agent_finetune.records import Tokens
from agent_finetune.train import distributed, folder
from agent_finetune.train.retention import Keeper

MOST_LOGITS = 2**27
"""Most logits held at once: 0.5 GiB in float32, and about three times that with gradients."""


class RowCollator:
    """Batches of dataset rows through the collate hook.

    The dataset carries each row's index, and the row itself goes to the hook: a plugin sees the
    sections and the source, which a dataset of ids and labels has lost.
    """

    def __init__(self, rows: Sequence[Tokens], *, pad_id: int, packed: bool) -> None:
        self.rows = rows
        self.pad_id = pad_id
        self.packed = packed

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        rows = [self.rows[feature["row"]] for feature in features]
        return dict(plugins.collate_batch(rows, pad_id=self.pad_id, packed=self.packed))


class Housekeeping(Trainer):
    """What all three trainers leave behind, and what they keep to themselves."""

    keeper: Keeper | None = None
    """Holds the model to its base while it trains."""

    def with_retention(self, model: Any, loss: torch.Tensor) -> torch.Tensor:
        """A loss, and what keeps the model as it was elsewhere; evaluation sees the first only."""
        if self.keeper is None or not model.training:
            return loss
        adapted = self.accelerator.unwrap_model(model)
        return loss + self.keeper.loss(model, adapted)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write an adapter as `adapters.save` does, and anything else as Transformers does.

        PEFT would ask a hub about the base for every checkpoint.
        """
        weights = None
        if self.is_deepspeed_enabled:
            weights = distributed.gathered(self.model, keep=self.args.should_save)
        elif self.is_fsdp_enabled or not isinstance(self.model, PeftModel):
            super().save_model(output_dir, _internal_call)
            return
        if self.args.should_save:
            place = Path(output_dir or str(self.args.output_dir))
            adapters.save(self.model, self.processing_class, place, weights=weights)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Transformers' checkpoint, into an empty folder; half of one is removed again.

        Raises:
            TrainError: A weight is no number.
            DiskError: There is no room for it.
        """
        check_weights(self.model, self.state.global_step)
        place = Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
        if self.args.should_save:
            folder.drop(place)  # that of a run which was killed; it may be whole until now
        self.args.distributed_state.wait_for_everyone()
        try:
            with artifacts.needing_room(place):
                super()._save_checkpoint(model, trial)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(place, ignore_errors=True)
            raise

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Transformers' step; DeepSpeed's engine also takes the optimizer's step in it.

        Its gradients are in parts and gone afterwards, so that `GradientCheck` comes too late.
        The norm is known here, before anything of the step is written.

        Raises:
            TrainError: The gradient was no number.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        # A loss scale that is too high overflows by design; the engine skips those steps.
        stepped = self.is_deepspeed_enabled and self.accelerator.sync_gradients
        if stepped and not self.args.fp16:
            check_engine(self.accelerator, self.state.global_step + 1)
        return loss

    def create_model_card(self, *unused: Any, **unused_too: Any) -> None:
        """Write none: run.json says what a run was, and TRL's card would sit beside it."""

    def _send_telemetry(self) -> None:
        """Send nothing: whoever trains here has not been asked."""

    def check_finite(self, loss: torch.Tensor) -> None:
        """Stop a run whose loss is no number.

        Raises:
            TrainError: It is not.
        """
        if not torch.isfinite(loss):
            raise not_finite("loss", loss.item(), self.state.global_step + 1)


class SupervisedTrainer(Housekeeping, SFTTrainer):
    """Cross entropy on the trained tokens, the head run only where the next token is trained.

    TRL's own head does that on a GPU, tile by tile, and is used there. On a CPU it scores every
    position in float32, which takes longer than the rest of a small model; there the model's own
    head runs on the trained positions alone, through the public argument `logits_to_keep`.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if return_outputs or not self._head_fits(inputs["labels"]):
            answer = super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
            self.check_finite(answer[0] if return_outputs else answer)
            return answer if return_outputs else self.with_retention(model, answer)
        total, count = trained_loss(model, inputs)
        if num_items_in_batch is None:
            loss = total / count
        else:
            # The count is over all processes, whose gradients DDP averages.
            loss = total / num_items_in_batch * self.accelerator.num_processes
        self.check_finite(loss)
        return self.with_retention(model, loss)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The mean loss over trained tokens, which does not depend on how rows fell into batches.

        Transformers' own averages the means of batches.
        """
        # The engine puts a model that it holds in parts together, layer by layer.
        model: Any = self.model_wrapped if self.is_deepspeed_enabled else self.model
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for inputs in dataloader:
            inputs = self._prepare_inputs(inputs)
            count = (inputs["labels"][:, 1:] != IGNORED).sum()
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
            sums += torch.stack((loss.double() * count, count.double()))
            self.control = self.callback_handler.on_prediction_step(
                self.args, self.state, self.control
            )
        total, trained = self.accelerator.reduce(sums).tolist()
        return EvalLoopOutput(
            predictions=np.empty(0),  # Trainer.evaluate looks at the metrics only
            label_ids=None,
            metrics={f"{metric_key_prefix}_loss": total / trained},
            num_samples=len(dataloader.dataset),
        )

    def _head_fits(self, labels: torch.Tensor) -> bool:
        if labels.device.type != "cpu" or self.aux_loss_enabled:
            return False
        columns = int((labels[:, 1:] != IGNORED).any(0).sum())
        model: Any = self.model
        vocabulary = model.config.get_text_config().vocab_size
        return bool(labels.shape[0] * columns * vocabulary <= MOST_LOGITS)


def trained_loss(model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the cross entropy over trained tokens, in nats, and how many there are.

    Args:
        model: Causal language model whose forward takes `logits_to_keep`.
        inputs: A batch; `labels` are not shifted, shape (B, T).

    Returns:
        Two scalars, float32 and int64.
    """
    targets = inputs["labels"][:, 1:]  # (B, T - 1); the token that position t must predict
    arguments = {name: value for name, value in inputs.items() if name != "labels"}
    # Columns in which any row predicts a trained token. All rows share them, so that the head
    # sees a rectangle (B, columns); the untrained corners of it are ignored below.
    columns = (targets != IGNORED).any(0).nonzero()[:, 0]
    targets = targets[:, columns].flatten()
    logits = model(**arguments, logits_to_keep=columns, use_cache=False).logits
    total = F.cross_entropy(
        logits.flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="sum"
    )
    return total, (targets != IGNORED).sum()


def check_engine(accelerator: Any, step: int) -> None:
    """Stop a run whose engine met a gradient that is no number.

    Args:
        accelerator: Of a run with DeepSpeed.
        step: The step that the engine has just taken.

    Raises:
        TrainError: It did.
    """
    norm = accelerator.deepspeed_engine_wrapped.get_global_grad_norm()
    if norm is not None and not math.isfinite(norm):
        raise not_finite("the gradient", norm, step)


def check_weights(model: Any, step: int) -> None:
    """Refuse to write trained weights that are no numbers.

    Args:
        model: What was trained.
        step: The step that was taken last.

    Raises:
        TrainError: One of them is not; it is named.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.numel() and not torch.isfinite(weight.sum()):
            broken = weight[~torch.isfinite(weight)]
            if len(broken):  # else only their sum is too large
                raise not_finite(f"the weight {name}", broken[0].item(), step)


def not_finite(what: str, value: float, step: int) -> TrainError:
    """The error for a run that has left the real numbers."""
    return TrainError(
        f"step {step}: {what} is {value}; lower learning_rate (to a tenth, say), raise warmup or "
        "lower max_grad_norm, and where dtype is float16 use bfloat16 or float32; all of them ask "
        "for a new out. Nothing of this step is written, and the last checkpoint is kept"
    )
