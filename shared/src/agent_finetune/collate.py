"""Rows of tokens to the tensors of one forward pass: laid end to end, or padded.

Packing spends no arithmetic on padding. Rows lie one after another in a single row (1, T);
`position_ids` restart at each of them, and `cu_seq_lens_q` says where each begins. These are the
flash-attention arguments of Transformers, so `flash_attention_2` and `packed_sdpa` (see
`agent_finetune.attention`) both keep the documents apart.

Labels are not shifted: whoever computes the loss compares position t with the label at t + 1.
A row's first token has nothing before it to be predicted from, so its label is always -100. In a
packed row that also keeps it from being predicted by the document before.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from agent_finetune.contracts import Batch
from agent_finetune.errors import DataError
from agent_finetune.records import Tokens

IGNORED = -100
"""Label of a position whose token is not trained; what torch's cross entropy leaves out."""


class PaddedBatch(Batch):
    """Rows of one length; all tensors are int64 of shape (B, T)."""

    attention_mask: Any


class PackedBatch(Batch):
    """Rows end to end; `input_ids`, `labels` and `position_ids` are int64 of shape (1, T)."""

    position_ids: Any
    cu_seq_lens_q: Any
    cu_seq_lens_k: Any
    max_length_q: int
    max_length_k: int


def pad(rows: Sequence[Tokens], *, pad_id: int, multiple_of: int = 1) -> PaddedBatch:
    """Right-pad rows to one length, and hide padding and untrained tokens from the loss.

    Args:
        rows: B tokenized examples, of any lengths.
        pad_id: Token id written into the padding.
        multiple_of: Round T up to a multiple of this many tokens.

    Returns:
        int64 tensors of shape (B, T): `input_ids`; `attention_mask`, 1 on real tokens; `labels`,
        the ids where `trained`, else -100.

    Raises:
        DataError: A row has no trained token after its first; its source is in the message.

    Example:
        >>> rows = [Tokens(ids=(5, 6, 7), trained=(False, True, True), sections=(None,) * 3),
        ...         Tokens(ids=(8, 9), trained=(True, True), sections=(None,) * 2)]
        >>> pad(rows, pad_id=0)["labels"].tolist()
        [[-100, 6, 7], [-100, 9, -100]]
    """
    longest = max(len(row.ids) for row in rows)
    width = -(-longest // multiple_of) * multiple_of
    gaps = [width - len(row.ids) for row in rows]
    return PaddedBatch(
        input_ids=torch.tensor(
            [row.ids + (pad_id,) * gap for row, gap in zip(rows, gaps, strict=True)]
        ),
        attention_mask=torch.tensor(
            [[1] * len(row.ids) + [0] * gap for row, gap in zip(rows, gaps, strict=True)]
        ),
        labels=torch.tensor(
            [
                _labels(row, index) + [IGNORED] * gap
                for index, (row, gap) in enumerate(zip(rows, gaps, strict=True))
            ]
        ),
    )


def pack(rows: Sequence[Tokens]) -> PackedBatch:
    """Lay rows end to end, and hide untrained tokens from the loss.

    Args:
        rows: Tokenized examples of T tokens together; each becomes a document of its own.

    Returns:
        int64 tensors of shape (1, T): `input_ids`; `position_ids`, from 0 in each document;
        `labels`, the ids where `trained`, else -100. int32 tensors of shape (documents + 1,):
        `cu_seq_lens_q` and `cu_seq_lens_k`, where documents begin, and T. Ints: `max_length_q`
        and `max_length_k`, tokens in the longest document.

    Raises:
        DataError: A row has no trained token after its first; its source is in the message.

    Example:
        >>> rows = [Tokens(ids=(5, 6, 7), trained=(False, True, True), sections=(None,) * 3),
        ...         Tokens(ids=(8, 9), trained=(True, True), sections=(None,) * 2)]
        >>> pack(rows)["labels"].tolist()
        [[-100, 6, 7, -100, 9]]
    """
    lengths = [len(row.ids) for row in rows]
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return PackedBatch(
        input_ids=torch.tensor([[id_ for row in rows for id_ in row.ids]]),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        labels=torch.tensor(
            [[label for index, row in enumerate(rows) for label in _labels(row, index)]]
        ),
        cu_seq_lens_q=starts,
        cu_seq_lens_k=starts,
        max_length_q=max(lengths),
        max_length_k=max(lengths),
    )


def _labels(row: Tokens, index: int) -> list[int]:
    if not any(row.trained[1:]):
        raise DataError(
            f"{row.source or f'row {index} of the batch'}: none of its {len(row.ids)} tokens is "
            "trained (the first one cannot be); it needs an assistant turn whose sections are on"
        )
    return [IGNORED] + [
        id_ if trained else IGNORED
        for id_, trained in zip(row.ids[1:], row.trained[1:], strict=True)
    ]
