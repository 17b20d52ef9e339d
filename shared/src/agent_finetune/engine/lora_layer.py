"""One linear layer, and what its adapters add to the tokens of a pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from agent_finetune.errors import ModelError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class Stretch(NamedTuple):
    """By how much more than 1 DoRA multiplies what a layer gives."""

    rows: torch.Tensor
    """(K, out); row 0 is nothing, where several owners meet."""
    which: torch.Tensor | None
    """Of each token its row, (T,); None: there is one row, and it is everyone's."""


class Now(NamedTuple):
    """What a layer adds in one pass of T tokens."""

    down: torch.Tensor
    """A, (in, r)."""
    up: torch.Tensor
    """B with its scale, (r, out)."""
    foreign: torch.Tensor | None
    """The (T, r) places where token and adapter do not belong together; None: there are none."""
    tokens: int
    """T."""
    stretch: Stretch | None
    """None where no adapter of the pass is DoRA."""


class Stretching:
    """The stretches of one pass; layers alike share one tensor of rows' numbers.

    Args:
        runs: Runs of tokens (key, count).
    """

    def __init__(self, runs: Sequence[tuple[str | None, int]]) -> None:
        self._runs = runs
        self._active = dict.fromkeys(key for key, _ in runs if key is not None)
        self._which: dict[Any, torch.Tensor] = {}

    def of(self, layer: Layer) -> Stretch | None:
        """That of a layer."""
        keys = tuple(key for key in self._active if key in layer.stretches)
        if not keys:
            return None
        rows = torch.stack([layer.stretches[key] for key in keys])
        if len({key for key, _ in self._runs}) == 1:
            return Stretch(rows, None)
        if (keys, rows.device) not in self._which:
            numbers = [keys.index(key) + 1 if key in keys else 0 for key, _ in self._runs]
            counts = torch.tensor([count for _, count in self._runs])
            which = torch.tensor(numbers).repeat_interleave(counts)
            self._which[keys, rows.device] = to_device(which, rows.device)
        return Stretch(
            torch.cat([torch.zeros_like(rows[:1]), rows]), self._which[keys, rows.device]
        )


class Layer:
    """The adapters of one linear layer, and the forward hook that adds them to its output.

    Attributes:
        down: A of all adapters, (R, in).
        up: B of all adapters with their scale, transposed, (R, out): adapters lie in whole rows,
            so that a cut is contiguous and aligned for the device whatever the ranks are.
        ranks: Of each adapter, in the order of its rows; they add up to R.
        stretches: Of each DoRA adapter, by how much more than 1 it multiplies each feature, (out,).
        now: What to add in the pass under way.
    """

    __slots__ = ("down", "handle", "module", "name", "now", "ranks", "stretches", "up")

    down: torch.Tensor
    up: torch.Tensor

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        self.name = name
        self.module = module
        self.ranks: dict[str, int] = {}
        self.stretches: dict[str, torch.Tensor] = {}
        self.now: Now | None = None
        self.handle: RemovableHandle = module.register_forward_hook(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters' tensors."""
        return sum(each.nbytes for each in (self.down, self.up, *self.stretches.values()))

    def span(self, keys: Collection[str]) -> tuple[int, int]:
        """From the first row of the first of these adapters to the last row of the last."""
        start = stop = end = 0
        for key, rank in self.ranks.items():
            if key in keys:
                start = start if stop else end
                stop = end + rank
            end += rank
        return start, stop

    def __call__(self, module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if self.now is None:
            return
        down, up, foreign, tokens, stretch = self.now
        hidden = args[0].reshape(-1, down.shape[0])
        if hidden.shape[0] != tokens:
            raise ModelError(
                f"layer {self.name} computes {hidden.shape[0]} tokens and the segments count "
                f"{tokens}; an adapter on a layer that sees only some of the tokens must be "
                "merged: agent-finetune merge"
            )
        if hidden.dtype is not down.dtype:
            hidden = hidden.to(down.dtype)
        low = torch.mm(hidden, down)  # (T, r)
        if foreign is not None:
            # A fill and no product: what another's adapter makes of a token may be too large for
            # float16, and infinity times 0 is not 0. B is finite (add has looked), so a token
            # gets exactly 0 from the adapters of others.
            low.masked_fill_(foreign, 0)
        flat = output.view(-1, up.shape[1])
        # In place: the output is this layer's own, and nobody has seen it yet.
        if stretch is not None:
            _stretch(flat, module.bias, stretch)
        if flat.dtype is up.dtype:
            flat.addmm_(low, up)
        else:
            flat.add_(torch.mm(low, up))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy from the CPU without waiting for what the device is doing."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _stretch(output: torch.Tensor, bias: torch.Tensor | None, stretch: Stretch) -> None:
    """Multiply what a layer gives, without its bias, by 1 + stretch, in place."""
    rows = stretch.rows if stretch.which is None else stretch.rows[stretch.which]
    plain = output if bias is None else output - bias
    # A token of no DoRA adapter gets exactly what it had: it is given 0 times itself.
    output.add_((plain * rows).to(output.dtype))
