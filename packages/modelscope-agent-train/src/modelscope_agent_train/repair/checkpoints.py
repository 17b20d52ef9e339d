"""Checkpoints of ModelScope's own trainer: what is written is trained, and can be read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelscope.trainers.hooks.checkpoint.checkpoint_processor import CheckpointProcessor
from modelscope.trainers.hooks.checkpoint.load_checkpoint_hook import LoadCheckpointHook
from peft import PeftModel
from transformers import PreTrainedModel


class RepairedCheckpoints(CheckpointProcessor):  # type: ignore[misc]
    """Checkpoints whose `output` holds the trained weights, and that can be resumed from.

    ModelScope writes `output` before the first step, with `save_pretrained` and a `save_function`
    that does nothing; Transformers 5 does not look at that argument and writes the weights.
    """

    def prepare_output(self, trainer: Any, output_dir: str) -> None:
        super().prepare_output(trainer, output_dir)
        for file in Path(output_dir).glob("*.safetensors*"):
            file.unlink()  # the weights before training

    def link(self, model: Any, src_file: str, output_dir: str) -> None:
        if isinstance(model, (PreTrainedModel, PeftModel)):
            model.save_pretrained(output_dir)
        else:
            super().link(model, src_file, output_dir)

    @staticmethod
    def load_trainer_state(trainer: Any, train_state_file: str, load_all_state: bool) -> Any:
        with numpy_states():
            return CheckpointProcessor.load_trainer_state(trainer, train_state_file, load_all_state)


class RepairedLoading(LoadCheckpointHook):  # type: ignore[misc]
    """Loads with the processor that it was given; ModelScope's makes itself another one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.processor: Any = RepairedCheckpoints()

    def before_run(self, trainer: Any) -> None:
        self.logger = trainer.logger
        if self.checkpoint_file is None:
            return
        meta = self.processor.load_checkpoints(
            self.checkpoint_file, trainer, self.load_all_state, self.strict
        )
        if self.load_all_state:
            self._restore_training_state(trainer, meta)
            _begin_next_epoch(trainer)
        self.rng_state = meta.get("rng_state")
        self.need_load_rng_state = self.load_all_state


@contextmanager
def numpy_states() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` read the state of NumPy's generator, and nothing more."""
    state = np.random.get_state(legacy=False)["state"]["key"]
    reconstruct, _, _ = state.__reduce__()
    allowed = [reconstruct, np.ndarray, np.dtype, type(state.dtype)]
    with torch.serialization.safe_globals(allowed):
        yield


def _begin_next_epoch(trainer: Any) -> None:
    """Go on behind an epoch whose end is in the checkpoint.

    ModelScope would end it a second time, and step its scheduler again. A checkpoint of an epoch
    counts one iteration too many, which tells it from one of that epoch's last iteration.
    """
    done = (trainer._epoch + 1) * trainer.iters_per_epoch
    if trainer._iter > done:
        trainer._epoch, trainer._inner_iter, trainer._iter = trainer._epoch + 1, 0, done
