"""Attention for packed rows without flash-attention: one document at a time.

A packed row (see `agent_finetune.collate`) holds several documents end to end. `packed_sdpa` cuts
queries, keys and values at `cu_seq_lens_q` and runs causal attention inside each piece, so that a
document cannot see another, no T x T mask exists, and no time is spent on pairs that do not
attend. It is registered through Transformers' public `AttentionInterface`, and switched on with
the model's own `set_attn_implementation`, for training only: it knows neither padding nor caches.

Axes: b batch (1), h query heads, g key/value heads, t tokens of the row, l tokens of a document,
d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from agent_finetune.errors import ModelError

PACKED = "packed_sdpa"
"""Name under which the attention function is registered."""

_PLAIN_MATH_UP_TO = 768
"""Longest document, in tokens, whose attention is written out as matrix products on a CPU.

Measured in bfloat16 with 9 heads of 64: at 300 tokens forward and backward take a quarter of the
time of torch's fused CPU kernel, near 1000 the two meet. The l x l scores are held for the
backward pass, 30 to 60 kB per token and layer at this length: less than the layer's other
activations.
"""


def register() -> None:
    """Make `packed_sdpa` known to Transformers. Doing it again changes nothing."""
    AttentionInterface.register(PACKED, packed_sdpa)


def packed_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of a packed row.

    Args:
        module: The calling layer; not looked at.
        query: (b=1, h, t, d).
        key: (b=1, g, t, d), with h a multiple of g.
        value: (b=1, g, t, d).
        attention_mask: Must be None; `cu_seq_lens_q` says all that there is to say.
        dropout: Share of the attention weights that are zeroed.
        scaling: Factor on the scores; None is 1 / sqrt(d).
        sliding_window: Tokens that a token sees, itself included; None is all before it.
        cu_seq_lens_q: int32 (documents + 1,), where documents begin, and t.
        rest: What Transformers passes besides; a feature among it that would change the result
            (soft-capped scores, attention sinks, a position bias) is refused.

    Returns:
        Attention output (b=1, t, h, d), and None for the weights.

    Raises:
        ModelError: It is called without documents, with a mask, or for a feature it has not.
    """
    if cu_seq_lens_q is None or attention_mask is not None or query.shape[0] != 1:
        raise ModelError(
            f"{PACKED} trains packed rows only: it wants cu_seq_lens_q, no mask and one row, and "
            f"got {tuple(query.shape)}; switch to sdpa for anything else"
        )
    for feature in ("softcap", "s_aux", "position_bias"):
        if rest.get(feature) is not None:
            raise ModelError(f"{PACKED} has no {feature}; train this model with pack off")
    if rest.get("is_causal") is False:
        raise ModelError(f"{PACKED} is causal, and this layer is not; train with pack off")
    # Under autocast rotary embedding leaves queries and keys wider than values.
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype) * scaling, key.to(value.dtype)
    lengths = cu_seq_lens_q.diff().tolist()
    pieces = [
        # A document that fits into the window has nothing to hide.
        _document(q, k, v, dropout, sliding_window if (sliding_window or length) < length else None)
        for q, k, v, length in zip(
            torch.split(query, lengths, dim=2),
            torch.split(key, lengths, dim=2),
            torch.split(value, lengths, dim=2),
            lengths,
            strict=True,
        )
    ]
    return torch.cat(pieces, dim=1), None


def _document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of one document; (1, l, h, d) from (1, h, l, d) and (1, g, l, d) twice."""
    length = query.shape[2]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and length <= _PLAIN_MATH_UP_TO:
        with torch.autocast("cpu", enabled=False):  # it would widen the softmax to float32
            return _plain(query, key, value, dropout, window)
    seen = None if window is None else _seen(length, window, query.device)
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=seen,
        dropout_p=dropout,
        is_causal=seen is None,
        scale=1.0,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2)


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """The same as matrix products; the query heads that share a key head are stacked along l."""
    heads, length, width = query.shape[1:]
    groups = key.shape[1]
    stacked = query.reshape(groups, heads // groups * length, width)
    scores = torch.bmm(stacked, key[0].transpose(1, 2)).view(groups, -1, length, length)
    scores += _hidden(window, query.dtype)[:length, :length]
    weights = F.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    attended = torch.bmm(weights.view(groups, -1, length), value[0])
    return attended.view(1, heads, length, -1).transpose(1, 2)


@lru_cache(maxsize=4)
def _hidden(window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores: minus infinity where a token does not see, else 0.

    One for all lengths: the mask of a shorter document is its upper left corner.
    """
    cpu = torch.device("cpu")
    nothing = torch.zeros(_PLAIN_MATH_UP_TO, _PLAIN_MATH_UP_TO, dtype=dtype)
    return nothing.masked_fill_(~_seen(_PLAIN_MATH_UP_TO, window, cpu), -torch.inf)


def _seen(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which token (row) sees which (column); bool (length, length)."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


@contextmanager
def using(model: Any, name: str) -> Iterator[None]:
    """Run a block with another attention implementation, and put the old one back.

    Args:
        model: `transformers.PreTrainedModel`, the base when an adapter is on it.
        name: What `set_attn_implementation` takes.
    """
    before = model.config._attn_implementation  # no public way to read it
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def can_pack(model: Any) -> bool:
    """Whether documents of a packed row are as good as alone in this model; found out by trying.

    Every layer must be plain full or sliding-window attention that honours `packed_sdpa`:
    layers with a memory of their own (convolutions, state-space and linear attention) would carry
    one document into the next. Two short documents are run packed; the second must come out
    the same whatever the first says, and as it comes out alone with the model's own attention.

    Args:
        model: `transformers.PreTrainedModel`, the base when an adapter is on it.
    """
    if not only_attends(model):
        return False
    training = model.training
    model.eval()
    try:
        return _documents_stay_apart(model)
    except (TypeError, ValueError, ModelError):
        # The model does not take the arguments, or uses a feature that packed_sdpa has not.
        return False
    finally:
        model.train(training)


def only_attends(model: Any) -> bool:
    """Whether the layers say that they are plain full or sliding-window attention.

    Args:
        model: `transformers.PreTrainedModel`, the base when an adapter is on it.
    """
    kinds = model.config.get_text_config().to_dict().get("layer_types") or ()
    return {"full_attention", "sliding_attention"} >= set(kinds)


@contextmanager
def trying(model: Any, function: Callable[..., Any]) -> Iterator[list[int | None]]:
    """Run a block with an attention function, and note each call's sliding window.

    Args:
        model: `transformers.PreTrainedModel`, the base when an adapter is on it.
        function: As `AttentionInterface` takes it.
    """
    windows: list[int | None] = []

    def noted(*inputs: Any, **options: Any) -> Any:
        windows.append(options.get("sliding_window"))
        return function(*inputs, **options)

    AttentionInterface.register("attention_on_trial", noted)
    with using(model, "attention_on_trial"):
        yield windows


def windows_arrive(model: Any, windows: Sequence[int | None]) -> bool:
    """Whether the layers that should have a sliding window pass it to their attention.

    Args:
        model: `transformers.PreTrainedModel`, the base when an adapter is on it.
        windows: What the calls of at least one forward pass were given.
    """
    text = model.config.get_text_config().to_dict()
    first = windows[: model.config.get_text_config().num_hidden_layers]
    if kinds := text.get("layer_types"):
        return [kind == "sliding_attention" for kind in kinds] == [w is not None for w in first]
    return bool(first) and (text.get("sliding_window") is None or None not in first)


def _documents_stay_apart(model: Any) -> bool:
    # Ids from the low middle of the vocabulary, where no special token has a role in the model.
    first, second = [11, 12, 13, 14, 15], [21, 22, 23, 24, 25, 26, 27]
    with torch.no_grad():
        with trying(model, packed_sdpa) as windows:
            packed = _second_document(model, first, second)
            changed = _second_document(model, first[::-1], second)
        alone = model(input_ids=torch.tensor([second], device=model.device), use_cache=False).logits
    packed, changed, alone = packed.float(), changed.float(), alone[0].float()
    scale = alone.abs().max()
    leak = (packed - changed).abs().max() / scale
    likeness = F.cosine_similarity(packed.flatten(), alone.flatten(), dim=0)
    return bool(leak <= 1e-5 and likeness >= 0.999) and windows_arrive(model, windows)


def _second_document(model: Any, first: list[int], second: list[int]) -> torch.Tensor:
    """Logits of the second of two packed documents, (l, vocabulary)."""
    lengths = (len(first), len(second))
    starts = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32, device=model.device)
    positions = [*range(lengths[0]), *range(lengths[1])]
    logits: torch.Tensor = model(
        input_ids=torch.tensor([first + second], device=model.device),
        position_ids=torch.tensor([positions], device=model.device),
        cu_seq_lens_q=starts,
        cu_seq_lens_k=starts,
        max_length_q=max(lengths),
        max_length_k=max(lengths),
        use_cache=False,
    ).logits
    return logits[0, lengths[0] :]
