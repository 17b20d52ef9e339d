"""Many LoRA adapters on one base at once, each token of a forward pass through its own.

PEFT mixes adapters per row of a padded batch. The engine lays rows end to end in one row, so it
adds to the output of each layer here, through torch's forward hooks; the base is never changed.
The matrices of all adapters of a layer lie end to end, and a pass costs each layer two matrix
products, and one fill with zeros where tokens of different owners meet. DoRA (arXiv 2402.09353)
also stretches each feature that the layer gives; how far is known once the adapter is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch

from agent_finetune.engine.lora_files import AdapterFile, Target, open_adapter
from agent_finetune.engine.lora_layer import Layer, Now, Stretching, to_device

Run: TypeAlias = tuple[str | None, int]
Cut: TypeAlias = "tuple[Layer, torch.Tensor, torch.Tensor, torch.Tensor]"

CUTS_KEPT = 32


class AdapterBank:
    """LoRA adapters of one base, any number of them active in one forward pass.

    Every method, and every forward pass, belongs to one thread: the one that runs the model.

    Args:
        model: `transformers.PreTrainedModel`, quantized by bitsandbytes or not, without PEFT.
        dtype: Number format that adapters are held and computed in. None is the format that the
            base's hidden states have, which is also what a quantized base computes with; any
            other costs two casts per layer.
    """

    def __init__(self, model: Any, *, dtype: torch.dtype | None = None) -> None:
        self._model = model
        self._dtype: torch.dtype = dtype or model.get_input_embeddings().weight.dtype
        self._layers: dict[str, Layer] = {}
        self._numbers: dict[str, int] = {}
        self._next_number = 0
        self._cuts: dict[frozenset[str], list[Cut]] = {}
        self._runs: tuple[Run, ...] = ()
        self._plan: list[tuple[Layer, Now]] = []
        self._in_use = False

    def keys(self) -> tuple[str, ...]:
        """Adapters held, in the order they came."""
        return tuple(self._numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held, the base's own left out."""
        return sum(layer.nbytes for layer in self._layers.values())

    def add(self, key: str, folder: Path) -> None:
        """Read an adapter in PEFT's format. After an error the bank is what it was before.

        Raises:
            ModelError: It is neither LoRA nor DoRA on linear layers, or does not fit the base.
            ValueError: The key is taken.
        """
        self._check_idle()
        if key in self._numbers:
            raise ValueError(f"an adapter {key!r} is held already; remove it first")
        with open_adapter(folder, self._model) as file:
            self._forget_plans()
            try:
                for target in file.targets:
                    self._stack(key, target, file)
            except BaseException:
                self._unstack(key)
                raise
        self._numbers[key] = self._next_number
        self._next_number += 1

    def remove(self, key: str) -> None:
        """Let go of an adapter and its memory.

        Raises:
            KeyError: There is none of this key.
        """
        self._check_idle()
        del self._numbers[key]
        self._forget_plans()
        self._unstack(key)

    @contextmanager
    def using(self, segments: Sequence[Run]) -> Iterator[None]:
        """Say whose tokens the forward pass inside computes.

        Segments equal to those of the pass before, as from one decode step to the next, cost
        nothing new. Nothing here waits for the device.

        Args:
            segments: Runs of tokens (key, count), in the order of the B * T hidden states; None
                is the base alone. A run of no tokens is fine.

        Raises:
            KeyError: There is no adapter of this key.
            ModelError: From the forward pass: a layer sees other than the sum of all counts.
        """
        self._check_idle()
        runs = tuple(run for run in segments if run[1])
        if runs != self._runs:
            self._plan = self._make_plan(runs)
            self._runs = runs
        plan = self._plan
        self._in_use = True
        for layer, now in plan:
            layer.now = now
        try:
            yield
        finally:
            for layer, _ in plan:
                layer.now = None
            self._in_use = False

    def _check_idle(self) -> None:
        if self._in_use:
            raise RuntimeError("the bank is in use by a forward pass")

    def _forget_plans(self) -> None:
        """Plans hold views of the stacked matrices, which would keep replaced ones in memory."""
        self._cuts.clear()
        self._runs, self._plan = (), []

    def _make_plan(self, runs: tuple[Run, ...]) -> list[tuple[Layer, Now]]:
        """What each layer adds in a pass of these runs; layers that add nothing are left out."""
        owners = {key for key, _ in runs}
        active = frozenset(key for key in owners if key is not None)
        if unknown := active - self._numbers.keys():
            raise KeyError(f"no adapter {min(unknown)!r}; there are {', '.join(self._numbers)}")
        if not active:
            return []
        tokens = sum(count for _, count in runs)
        cuts = self._cut(active)
        stretching = Stretching(runs)
        if len(owners) == 1:
            return [
                (layer, Now(down, up, None, tokens, stretching.of(layer)))
                for layer, down, up, _ in cuts
            ]
        numbers = torch.tensor([-1 if key is None else self._numbers[key] for key, _ in runs])
        by_token = numbers.repeat_interleave(torch.tensor([count for _, count in runs]))
        rows: dict[torch.device, torch.Tensor] = {}
        foreign: dict[int, torch.Tensor] = {}
        for *_, columns in cuts:
            if columns.device not in rows:
                rows[columns.device] = to_device(by_token[:, None], columns.device)
            if id(columns) not in foreign:  # layers alike share one tensor, and so one mask
                foreign[id(columns)] = rows[columns.device] != columns  # (T, R)
        return [
            (layer, Now(down, up, foreign[id(columns)], tokens, stretching.of(layer)))
            for layer, down, up, columns in cuts
        ]

    def _cut(self, active: frozenset[str]) -> list[Cut]:
        """Of each layer, the stacked matrices from the first to the last active adapter.

        Returns:
            Layer, A of shape (in, R), B of shape (R, out), and of each of the R columns the
            number of the adapter that it belongs to.
        """
        if active in self._cuts:
            return self._cuts[active]
        if len(self._cuts) >= CUTS_KEPT:
            self._cuts.clear()
        cuts: list[Cut] = []
        alike: dict[tuple[Any, ...], torch.Tensor] = {}
        for layer in self._layers.values():
            start, stop = layer.span(active)
            if start == stop:
                continue
            device = layer.down.device
            kind = (device, start, stop, *layer.ranks.items())
            if kind not in alike:
                owners = [
                    self._numbers[key] for key, rank in layer.ranks.items() for _ in range(rank)
                ]
                alike[kind] = to_device(torch.tensor(owners[start:stop]), device)
            cuts.append((layer, layer.down[start:stop].t(), layer.up[start:stop], alike[kind]))
        self._cuts[active] = cuts
        return cuts

    def _stack(self, key: str, target: Target, file: AdapterFile) -> None:
        """Put an adapter's two matrices of one layer after those that are there."""
        device = target.module.weight.device
        down, up = (matrix.to(device) for matrix in file.matrices(target, self._dtype))
        stretch = file.stretch(target)
        layer = self._layers.get(target.name)
        # cat copies even a single matrix: what hangs on the file must not outlive it.
        down = torch.cat([layer.down, down] if layer else [down])
        up = torch.cat([layer.up, up.t()] if layer else [up.t()])
        if layer is None:
            layer = self._layers[target.name] = Layer(target.name, target.module)
        layer.down, layer.up = down, up
        layer.ranks[key] = target.rank
        if stretch is not None:
            layer.stretches[key] = stretch.to(device, self._dtype)

    def _unstack(self, key: str) -> None:
        """Take an adapter out of every layer that has it; a layer left empty loses its hook."""
        for name, layer in list(self._layers.items()):
            if key not in layer.ranks:
                continue
            start, stop = layer.span({key})
            del layer.ranks[key]
            layer.stretches.pop(key, None)
            if layer.ranks:
                layer.down = torch.cat([layer.down[:start], layer.down[stop:]])
                layer.up = torch.cat([layer.up[:start], layer.up[stop:]])
            else:
                layer.handle.remove()
                del self._layers[name]
