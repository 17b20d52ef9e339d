"""`agent-sft`: ModelScope's trainer, whose loop is the kernel's.

It takes the arguments of `EpochBasedTrainer` and promises hooks what that promises them. Model,
data and configuration are read when it is made; `train` hands them to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from modelscope.utils.constant import ModeKeys

from agent_finetune import evaluate as kernel_evaluation
from agent_finetune import plugins
from agent_finetune.config import AdapterConfig, RunConfig
from agent_finetune.contracts import TrainJob, TrainResult
from agent_finetune.errors import ConfigError
from agent_finetune.train import distributed
from modelscope_agent_train import registration
from modelscope_agent_train.native import data, outputs, restoring
from modelscope_agent_train.native.answering import answer
from modelscope_agent_train.native.hook_runner import HookRunner
from modelscope_agent_train.native.prepared_trainer import PreparedTrainer


class AgentTrainer(PreparedTrainer):
    """Fine-tunes a causal language model on the conversations of an agent."""

    def train(
        self, checkpoint_path: str | None = None, load_all_state: bool = True, **_: Any
    ) -> TrainResult:
        """Train, and leave behind what the configuration asks for.

        Under torchrun every process calls this.

        Args:
            checkpoint_path: A checkpoint of `work_dir/checkpoints` to go on from; the newest whole
                one there is taken, and must be this.
            load_all_state: Legal is True: a checkpoint is gone on from with its optimizer.
            _: `strict`; a checkpoint that does not fit is always an error.

        Raises:
            FinetuneError: Something the user must change; the message says what.
        """
        if not self.train_data.rows:
            raise ConfigError("there is no train_dataset; give one")
        if not load_all_state:
            raise ConfigError("load_all_state is False; give the checkpoint as model instead")
        config = RunConfig(
            model=self.loaded.config,
            data=self.data_config,
            out=self.work_dir,
            lora=self.adapter or AdapterConfig(),
            train=replace(self.translation.train, resume=checkpoint_path is not None),
        )
        distributed.check(config)
        outputs.check_push(self.translation.push)
        if checkpoint_path is not None:
            restoring.check_newest(Path(self.work_dir), Path(checkpoint_path))
        job = TrainJob(
            config=config,
            loaded=self.loaded,
            train_rows=self.train_data.rows,
            eval_rows=self.eval_data.rows,
            eval_examples=self.eval_data.examples[: config.train.eval_generate],
            out=Path(self.work_dir),
            callbacks=(HookRunner(self),),
            facts={"data": {"train": self.train_data.facts, "eval": self.eval_data.facts}},
        )
        result = plugins.train_adapter(job)
        outputs.write(self, result)
        return result

    def evaluate(
        self,
        checkpoint_path: str | None = None,
        saving_fn: Callable[..., Any] | None = None,
        **_: Any,
    ) -> Mapping[str, float]:
        """Measure the model on eval_dataset.

        Args:
            checkpoint_path: Measure these weights: a checkpoint, an adapter or a model folder.
            saving_fn: Called with each example and the model's answer to it, as `predict` does.
            _: `strict`; weights that do not fit are always an error.

        Raises:
            ConfigError: There is no eval_dataset.
        """
        if not self.eval_data.rows:
            raise ConfigError("there is no eval_dataset; give one")
        if checkpoint_path is not None:
            restoring.load_weights(self.model, Path(checkpoint_path))
        self._mode = ModeKeys.EVAL
        self._invoke("before_val")
        batch = self.translation.train.batch_size
        loss = kernel_evaluation.evaluate_loss(
            self.loaded, self.eval_data.rows, batch_size=batch
        ).loss
        count = self.translation.train.eval_generate
        tools = {}
        if examples := self.eval_data.examples[:count]:
            tools = dict(kernel_evaluation.evaluate(self.loaded, examples).metrics)
        self._metric_values = _named(loss) | tools
        if saving_fn is not None:
            answer(self.loaded, self.renderer, self.eval_data.examples, saving_fn)
        self._invoke("after_val")
        self._mode = ModeKeys.TRAIN
        return self._metric_values

    def predict(
        self,
        predict_datasets: Any,
        saving_fn: Callable[..., Any] | None = None,
        checkpoint_path: str | None = None,
        strict: bool = False,
    ) -> list[dict[str, Any]]:
        """Let the model give the answer that each conversation ends with.

        Args:
            predict_datasets: As train_dataset; an assistant turn at the end is what is answered.
            saving_fn: Called with `inputs` (`messages`, `tools`, `id`) and `outputs` of each.
            checkpoint_path: As in `evaluate`.
            strict: Weights that do not fit are always an error.

        Returns:
            `text`, `thinking`, and `calls` with `name` and `arguments`, of each.
        """
        if checkpoint_path is not None:
            restoring.load_weights(self.model, Path(checkpoint_path))
        examples = data.examples_of(predict_datasets, self.data_config, self.settings)
        return answer(self.loaded, self.renderer, examples, saving_fn)

    def take_metrics(self, metrics: Mapping[str, float]) -> None:
        """Keep an evaluation of the kernel under ModelScope's names."""
        found = _named(float(metrics["eval_loss"]))
        if self.translation.train.eval_generate:
            found |= restoring.tool_metrics(Path(self.work_dir))
        self._metric_values = found


def _named(loss: float) -> dict[str, float]:
    """A mean loss in nats under each name that configurations know it by."""
    perplexity = float(torch.tensor(loss, dtype=torch.float64).exp())
    return {"loss": loss, "eval_loss": loss, "ppl": perplexity, "agent-ppl": perplexity}


registration.loaded(__name__)
