"""One forward pass for many rows at once, without padding.

The new tokens of all rows are laid end to end, (1, T), as in a packed training row: rows that read
their prompt and rows that say their next token share one pass, and no product is spent on padding.
Only attention tells the rows apart: each looks at its own memory. It is registered through
Transformers' public `AttentionInterface`; the rows reach it through the model's `**kwargs`, as
Transformers' own continuous batching does.

Axes: h query heads, g key/value heads, n new tokens of a row, l tokens of a row so far, d head
dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from agent_finetune.engine.memory import Memory
from agent_finetune.errors import ModelError

FLAT = "flat_attention"
"""Name under which the attention function is registered.

Without "sdpa" in it: Transformers refuses names that hold it for models it has no SDPA for, such
as Gemma 2 and gpt-oss, whose own features this one has."""


@dataclass(slots=True)
class Pass:
    """What attention needs to know of a pass; masks are made once and serve every layer."""

    rows: Sequence[tuple[Memory, int]]
    """Each row's memory, and how many new tokens it has."""
    masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)


def flat_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    rows: Pass | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each row to its own memory and its own new tokens.

    Args:
        module: The calling layer; its `layer_idx` says where the keys and values belong.
        query: (1, h, T, d).
        key: (1, g, T, d), with h a multiple of g.
        value: (1, g, T, d of values).
        attention_mask: Must be None.
        dropout: Must be 0; this is for serving.
        scaling: Factor on the scores; None is 1 / sqrt(d).
        sliding_window: Tokens that a token sees, itself included; None is all before it.
        softcap: Scores are squeezed to within plus and minus this, as Gemma 2 does.
        s_aux: (h,) attention sinks, as in gpt-oss.
        rows: The rows, in the order of their tokens.
        rest: What Transformers passes besides.

    Returns:
        Attention output (1, T, h, d of values), and None for the weights.

    Raises:
        ModelError: It is called without rows, with a mask, or for a feature that it has not.
    """
    if rows is None or attention_mask is not None or query.shape[0] != 1:
        raise ModelError(f"{FLAT} serves flat passes only: it wants rows, no mask, and one row")
    if rest.get("position_bias") is not None or rest.get("is_causal") is False:
        raise ModelError(f"{FLAT} has no position bias and is causal; this layer wants otherwise")
    layer: Any = module.layer_idx
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)
    pieces = []
    start = 0
    for memory, new in rows.rows:
        end = start + new
        keys, values = memory.extend(layer, key[0, :, start:end], value[0, :, start:end])
        said = query[0, :, start:end]
        if softcap is None and s_aux is None:
            pieces.append(_attend(said, keys, values, scaling, sliding_window, rows))
        else:
            seen = _seen(rows, new, keys.shape[1], sliding_window, said.device)
            pieces.append(_written_out(said, keys, values, scaling, seen, softcap, s_aux))
        start = end
    return torch.cat(pieces).unsqueeze(0), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    window: int | None,
    rows: Pass,
) -> torch.Tensor:
    """One row through torch's fused attention; (n, h, d) from (h, n, d) and (g, l, d) twice."""
    heads, new, _ = query.shape
    groups, length, _ = key.shape
    if new == 1:
        # The query heads of a key head stand as its queries: no mask, no repeated keys.
        if window is not None and window < length:
            key, value = key[:, -window:], value[:, -window:]
        stacked = query.reshape(1, groups, heads // groups, -1)
        seen = F.scaled_dot_product_attention(stacked, key[None], value[None], scale=scaling)
        return seen.reshape(1, heads, -1)
    fresh = new == length and (window is None or window >= length)
    mask = None if fresh else _seen(rows, new, length, window, query.device)
    if mask is not None and heads != groups:
        # Fused kernels take no mask beside grouped heads.
        key = key.repeat_interleave(heads // groups, dim=0)
        value = value.repeat_interleave(heads // groups, dim=0)
    attended = F.scaled_dot_product_attention(
        query[None],
        key[None],
        value[None],
        attn_mask=mask,
        is_causal=fresh,
        scale=scaling,
        enable_gqa=fresh and heads != groups,
    )
    return attended[0].transpose(0, 1)


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    seen: torch.Tensor,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One row as matrix products, for what torch's fused attention cannot do; (n, h, d)."""
    heads, new, width = query.shape
    groups, length, _ = key.shape
    stacked = query.reshape(groups, heads // groups * new, width)
    scores = torch.bmm(stacked, key.transpose(1, 2)).view(heads, new, length) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        # A sink takes its share of the attention, and gives nothing back.
        column = sinks.to(scores.dtype).view(heads, 1, 1).expand(heads, new, 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)[..., :length]
    attended = torch.bmm(weights.reshape(groups, -1, length), value)
    return attended.view(heads, new, -1).transpose(0, 1)


def _seen(
    rows: Pass, new: int, length: int, window: int | None, device: torch.device
) -> torch.Tensor:
    """Which new token (row) sees which token (column); bool (new, length)."""
    made = rows.masks.get((new, length, window))
    if made is None:
        # The last new token is the last token of all.
        made = torch.ones(new, length, dtype=torch.bool, device=device).tril(length - new)
        if window is not None:
            made = made.triu(length - new + 1 - window)
        rows.masks[new, length, window] = made
    return made


def register() -> None:
    """Make `flat_attention` known to Transformers. Doing it again changes nothing."""
    AttentionInterface.register(FLAT, flat_attention)
