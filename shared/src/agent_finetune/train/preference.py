"""TRL's DPOTrainer and KTOTrainer on our ids, held to a reference that is named.

TRL renders and tokenizes by itself, and where a prompt is no prefix of prompt and answer it drops
the prompt's end. Here the rows are ids already, and the one step that would touch them is left out.

What the model is held to is measured once, before the first step: a reference does not change, and
neither a second model nor a second adapter stays in memory. Dropout is off throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from agent_finetune.config import Reference, TrainConfig
from agent_finetune.contracts import LoadedModel
from agent_finetune.train import pairs
from agent_finetune.train.heads import AnswerHead
from agent_finetune.train.trainer import MOST_LOGITS, Housekeeping

if TYPE_CHECKING:
    from datasets import Dataset

_COPY = "ref"
"""What TRL calls its copy of the adapter as it was given."""


class Referenced(Housekeeping):
    """What both trainers do in another way than TRL."""

    reference_columns: tuple[str, ...]
    """What `compute_ref_log_probs` answers, as the loss reads it from a batch."""

    def hold_to(self, reference: Reference) -> None:
        """Measure the reference on all rows, and drop the copy of the adapter that TRL made.

        Every process measures all rows. Without an adapter TRL has had it done by now, on the
        weights as they were given.
        """
        model: Any = self.model
        if not isinstance(model, PeftModel):
            return
        if reference == "base":
            model.delete_adapter(_COPY)  # without it, TRL switches the adapter off
        self.train_dataset = self._precompute_ref_logps(
            self.train_dataset, "train", self.args.per_device_train_batch_size
        )
        if self.eval_dataset is not None:
            self.eval_dataset = self._precompute_ref_logps(
                self.eval_dataset, "eval", self.args.per_device_eval_batch_size
            )
        if reference == "current":
            model.delete_adapter(_COPY)
        self.precompute_ref_logps = True

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """TRL's loss; on a CPU the head runs where answers are scored (see `heads`)."""
        head: Any = model if return_outputs or not self._head_fits(inputs) else AnswerHead(model)
        answer: Any = super().compute_loss(head, inputs, return_outputs, num_items_in_batch)
        self.check_finite(answer[0] if return_outputs else answer)
        return answer if return_outputs else self.with_retention(model, answer)

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """As TRL's, through the same head as the loss."""
        trainer: Any = super()
        return trainer.compute_ref_log_probs(
            AnswerHead(model) if self._head_fits(inputs) else model, inputs
        )

    def _head_fits(self, inputs: Any) -> bool:
        trainer: Any = self
        masks = [inputs[key] for key in ("completion_mask", "KL_completion_mask") if key in inputs]
        if masks[0].device.type != "cpu" or trainer.aux_loss_enabled:
            return False
        columns = max(mask.shape[0] * int(mask.any(0).sum()) for mask in masks)
        vocabulary = trainer.model.config.get_text_config().vocab_size
        return bool(columns * vocabulary <= MOST_LOGITS)

    def _prepare_dataset(self, dataset: Dataset, *unused: Any) -> Dataset:
        """Leave our ids as they are."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add the reference's log-probabilities to a dataset.

        TRL's own writes them into a file, named after a digest of the model.
        """
        trainer: Any = self
        columns: dict[str, list[float]] = {column: [] for column in self.reference_columns}
        for start in range(0, len(dataset), batch_size):
            rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
            batch = self._prepare_inputs(trainer.data_collator(rows))
            found = trainer.compute_ref_log_probs(trainer.model, batch)
            for column, values in zip(columns.values(), found, strict=True):
                column += values.tolist()
        for column_name, values in columns.items():
            dataset = dataset.add_column(column_name, values)
        return dataset


class PairTrainer(Referenced, DPOTrainer):
    """Direct preference optimization (arXiv 2305.18290), with a share of imitation."""

    reference_columns = ("ref_chosen_logps", "ref_rejected_logps")


class VerdictTrainer(Referenced, KTOTrainer):
    """Kahneman-Tversky optimization (arXiv 2402.01306)."""

    reference_columns = ("ref_logps", "ref_KL_logps")


def trainer(
    config: TrainConfig,
    loaded: LoadedModel,
    args: Any,
    train_rows: Sequence[Any],
    eval_rows: Sequence[Any],
    callbacks: list[Any],
) -> PairTrainer | VerdictTrainer:
    """The trainer of an objective, its reference not yet measured; see `hold_to`.

    Args:
        config: `objective` is dpo or kto.
        loaded: The model, with the adapter that will be trained, or without one.
        args: Of `arguments.trainer_config`.
        train_rows: `records.PairTokens` or `records.VerdictTokens`.
        eval_rows: The same; may be empty.
        callbacks: Of Transformers.
    """
    pad_id = loaded.tokenizer.pad_token_id or 0
    common = {
        "model": loaded.model,
        "args": args,
        "processing_class": loaded.tokenizer,
        "callbacks": callbacks,
    }
    if config.objective == "dpo":
        return PairTrainer(
            data_collator=DataCollatorForPreference(pad_token_id=pad_id),
            train_dataset=pairs.pair_dataset(train_rows),
            eval_dataset=pairs.pair_dataset(eval_rows) if eval_rows else None,
            **common,
        )
    order = {"batch_size": config.batch_size, "seed": config.seed}
    return VerdictTrainer(
        data_collator=DataCollatorForUnpairedPreference(pad_token_id=pad_id),
        train_dataset=pairs.verdict_dataset(train_rows, **order),
        eval_dataset=pairs.verdict_dataset(eval_rows, **order) if eval_rows else None,
        **common,
    )
