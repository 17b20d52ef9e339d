"""Which rows take part in the next forward pass, and what becomes of what it gives.

A pass holds one token of every row that is answering and a piece of the prompts that are being
read, at most `prefill_chunk` tokens of them, so that a long prompt does not make the others wait.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import torch

from agent_finetune.contracts import Request, Result
from agent_finetune.engine.prefix import PrefixStore, common_length
from agent_finetune.engine.row import Row
from agent_finetune.engine.runner import Bank, Runner, Span
from agent_finetune.engine.sampling import choose
from agent_finetune.errors import EngineError, FinetuneError

logger = logging.getLogger(__name__)

_WORTH_WAITING = 64
"""Tokens of another row's prompt that a row waits for, rather than computing them as well."""

_TOO_LONG = (
    "out of GPU memory with one conversation of {} tokens; shorten it, or serve a smaller or "
    "quantized model"
)


class Scheduler:
    """Moves rows forward, one pass after another. Belongs to one thread.

    Args:
        runner: Runs the model.
        bank: The adapters.
        prefixes: What finished rows leave behind.
        max_batch: Most rows in a pass.
        prefill_chunk: Most prompt tokens in a pass.
        on_done: Gets each row's request and result when it ends, before its readers do.
    """

    def __init__(
        self,
        runner: Runner,
        bank: Bank,
        prefixes: PrefixStore,
        *,
        max_batch: int,
        prefill_chunk: int,
        on_done: Callable[[Request, Result], None],
    ) -> None:
        self._runner = runner
        self._bank = bank
        self._prefixes = prefixes
        self._max_batch = max_batch
        self._chunk = prefill_chunk
        self._on_done = on_done
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []

    @property
    def rows(self) -> Sequence[Row]:
        """Every row that is not done, those that wait their turn included."""
        return [*self._rows, *self._waiting]

    def add(self, row: Row) -> None:
        """Let a row wait its turn."""
        self._waiting.append(row)

    def step(self) -> None:
        """Do one forward pass, or nothing when there are no rows."""
        for row in self.rows:
            if row.generation.cancelled:
                self._end(row, row.end("cancelled"))
        while self._waiting and len(self._rows) < self._max_batch:
            self._rows.append(self._waiting.popleft())
        planned = self._plan()
        # Rows of one adapter side by side, so that the bank sees few runs of tokens.
        planned.sort(key=lambda part: part[0].voice.key or "")
        if not planned:
            return
        try:
            self._advance(planned)
        except Exception as error:  # whatever it is, the rows' readers must hear of it
            logger.exception("a forward pass failed")
            for row, _ in planned:
                self._fail(row, error)

    def _plan(self) -> list[tuple[Row, Sequence[int]]]:
        """The tokens that each row takes to the next pass."""
        planned = []
        budget = self._chunk
        for row in self._rows:
            if row.reading and (budget <= 0 or not self._has_begun(row)):
                continue
            size = budget if row.reading and self._runner.in_pieces else len(row.todo)
            planned.append((row, row.todo[:size]))
            budget -= min(size, len(row.todo)) if row.reading else 0
        return planned

    def _has_begun(self, row: Row) -> bool:
        """Give a row its memory, unless it had better wait for what another row is reading."""
        if row.memory is not None:
            return True
        if not self._runner.in_pieces:
            row.begin(self._runner.memory())
            return True
        same = [r for r in self._rows if r.memory is not None and r.voice.key == row.voice.key]
        for other in same:
            shared = common_length(other.prompt, row.prompt) if other.reading else 0
            if shared - len(other.memory.ids) > _WORTH_WAITING:
                return False
        running = [other.memory for other in same]
        found = self._prefixes.take(row.voice.revision, row.prompt, running)
        row.begin(found or self._runner.memory())
        return True

    def _advance(self, planned: Sequence[tuple[Row, Sequence[int]]]) -> None:
        """Run the pass, and let every row whose prompt is read say its next token."""
        spans = [Span(row.memory, ids, row.voice.key) for row, ids in planned]
        logits = self._forward_or_none(spans)
        if logits is None:
            self._make_room(planned)
            return
        speaking = []
        for place, (row, ids) in enumerate(planned):
            row.todo = row.todo[len(ids) :]
            if not row.todo:
                speaking.append((place, row))
        if not speaking:
            return
        if len(speaking) < len(planned):
            logits = logits[torch.tensor([place for place, _ in speaking], device=logits.device)]
        chosen = choose(logits, [row.sampling for _, row in speaking])
        for (_, row), token in zip(speaking, chosen, strict=True):
            self._take(row, token)

    def _take(self, row: Row, token: int | EngineError) -> None:
        if isinstance(token, EngineError):
            self._fail(row, token)
            return
        try:
            result = row.say(token)
        except FinetuneError as error:  # one row's grammar is not the others' concern
            self._fail(row, error)
            return
        if result is not None:
            self._end(row, result)

    def _forward_or_none(self, spans: Sequence[Span]) -> torch.Tensor | None:
        """None when memory ran out; the error would keep the tensors alive that must go."""
        try:
            return self._runner.forward(spans, self._bank)
        except torch.OutOfMemoryError:
            return None

    def _make_room(self, planned: Sequence[tuple[Row, Sequence[int]]]) -> None:
        """Memory ran out: forget what is kept for later, and go on with half as many rows."""
        self._prefixes.clear()
        if len(planned) == 1:
            row = planned[0][0]
            self._fail(row, EngineError(_TOO_LONG.format(len(row.prompt))))
        else:
            self._max_batch = len(planned) // 2
            logger.warning(
                "out of GPU memory with %d answers at once; going on with %d",
                len(planned),
                self._max_batch,
            )
        for row in self._rows:
            row.rewind()
        self._waiting.extendleft(reversed(self._rows))
        self._rows.clear()
        torch.cuda.empty_cache()

    def _end(self, row: Row, result: Result) -> None:
        self._remove(row)
        if row.memory is not None and self._runner.in_pieces:
            self._prefixes.put(row.voice.revision, row.memory)
        self._on_done(row.request, result)
        row.generation.finish(result)

    def _fail(self, row: Row, error: BaseException) -> None:
        self._remove(row)
        row.generation.fail(error)

    def fail_all(self, error: BaseException) -> None:
        """End every row with an error."""
        for row in self.rows:
            self._fail(row, error)

    def _remove(self, row: Row) -> None:
        if row in self._rows:
            self._rows.remove(row)
        else:
            self._waiting.remove(row)
