"""`msagent-preprocessor`: a conversation becomes ids and labels, for ModelScope's own trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from modelscope.preprocessors.base import Preprocessor
from modelscope.utils.constant import ModeKeys
from transformers import AutoTokenizer

from agent_finetune.collate import pad
from agent_finetune.config import DataConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.render import Renderer
from agent_finetune.train.job import render
from modelscope_agent_train import sources
from modelscope_agent_train.registration import loaded


class AgentPreprocessor(Preprocessor):  # type: ignore[misc]
    """One conversation in, `input_ids`, `attention_mask` and `labels` out, each one row.

    The model's chat template is used, as in the trainer `agent-sft`: tool results, system and user
    turns have the label -100.
    """

    def __init__(
        self,
        model_dir: str | None = None,
        mode: str = ModeKeys.TRAIN,
        *,
        tokenizer: Any = None,
        max_length: int = 2048,
        format: str = "auto",
        pad_to_max_length: bool = False,
        **kwargs: Any,
    ) -> None:
        """Make one for a tokenizer.

        Args:
            model_dir: Folder of the model, from which the tokenizer is loaded.
            mode: ModelScope's; rows are the same in each.
            tokenizer: Instead of a folder.
            max_length: Most tokens of a row; the oldest turns are left out of a longer one.
            format: Name of the rows' format, or auto.
            pad_to_max_length: Pad on the right, so that ModelScope's default collator can stack
                rows; `collate` pads to the longest instead.
            kwargs: What ModelScope says besides; not looked at.
        """
        super().__init__(mode)
        self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(
            model_dir, local_files_only=True
        )
        self.renderer = Renderer(self.tokenizer)
        self.max_length = max_length
        self.format = format
        self.pad_to_max_length = pad_to_max_length

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The row of a conversation.

        Raises:
            DataError: It cannot be read, or becomes several rows.
        """
        found = sources.read_dataset([[dict(data)]], settings=Settings(), format=self.format)
        config = DataConfig(data="a row", max_length=self.max_length)
        rows = render(self.renderer, found.examples, config, self.max_length).rows
        if len(rows) != 1:
            raise DataError(
                f"the conversation becomes {len(rows)} rows under this chat template, and a "
                "preprocessor answers one; use the trainer agent-sft"
            )
        batch = pad(rows, pad_id=self.tokenizer.pad_token_id or 0)
        row = {name: torch.as_tensor(value)[0] for name, value in batch.items()}
        if self.pad_to_max_length:
            row = {name: self._padded(name, value) for name, value in row.items()}
        return row

    def collate(self, rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """One batch of rows, padded on the right to the longest."""
        return {
            name: torch.nn.utils.rnn.pad_sequence(
                [row[name] for row in rows], batch_first=True, padding_value=self._filling(name)
            )
            for name in rows[0]
        }

    def _padded(self, name: str, value: torch.Tensor) -> torch.Tensor:
        room = self.max_length - len(value)
        return torch.nn.functional.pad(value, (0, room), value=self._filling(name))

    def _filling(self, name: str) -> int:
        fillings = {"labels": -100, "input_ids": int(self.tokenizer.pad_token_id or 0)}
        return fillings.get(name, 0)


loaded(__name__)
