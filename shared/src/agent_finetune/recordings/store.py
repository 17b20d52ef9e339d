"""The recordings: generations and what was said about them, on disk and only with consent."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from agent_finetune import plugins
from agent_finetune.contracts import Exchange
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.recordings.database import FEEDBACK, GENERATIONS, Database
from agent_finetune.recordings.exchanges import (
    read_said,
    said_message,
    storable,
    to_exchange,
    to_record,
    to_row,
)
from agent_finetune.recordings.recording import (
    Feedback,
    Recording,
    feedback_row,
    messages_row,
    to_example,
    to_shape,
)
from agent_finetune.records import Example, Message

ExportFormat = Literal["messages", "feedback"]
_PAGE = 200
"""Rows that are held in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Which:
    """Which generations are meant: those that meet every condition that is given."""

    adapter: str | None = None
    """Only those of this adapter."""
    agent: str | None = None
    """Only those of the agent of this name."""
    session: str | None = None
    """Only those of this conversation."""
    reply: str | None = None
    """Only the steps of this reply."""
    since: float | None = None
    """Only those of this time or later, seconds since the epoch."""
    before: float | None = None
    """Only those earlier than this, seconds since the epoch."""


ALL = Which()


class Recordings:
    """Generations and feedback in one SQLite file. Opening it is the consent: nothing else records.

    Any number of processes and threads may use it at once. Every record and every feedback passes
    `plugins.redact_record` before it is written. Where that changes anything, the record's exact
    token ids are dropped, because ids decode to what was taken out, and `redacted` says so. It is
    then found by its id, and no longer by the text that was said.

    Args:
        path: The file.
        create: Make it, and its folder, when missing; only their owner can read them.

    Raises:
        ConfigError: The file is missing and not to be made, or is something else.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self._database = Database(path, create=create)
        self.path = self._database.path

    def add(
        self,
        exchange: Exchange,
        *,
        model: str = "",
        adapter: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        reply: str | None = None,
    ) -> None:
        """Record a generation.

        Args:
            exchange: The exact request and result, with ids, revision and time.
            model: What the user calls the base.
            adapter: The adapter that spoke; None is the one that the request names.
            agent: Name of the agent that asked.
            session: What its host calls the conversation.
            reply: What its host calls the reply that this generation is a step of.

        Raises:
            DataError: A generation of this id is recorded.
            PluginError: A plugin's redaction does not answer a record.
            ConfigError: The file cannot be written.
        """
        adapter = exchange.request.adapter if adapter is None else adapter
        record = to_record(
            exchange, model=model, adapter=adapter, agent=agent, session=session, reply=reply
        )
        said = json.dumps(record)
        # A copy, so that a plugin that cleans in place is noticed, and changes no live request.
        row = to_row(json.loads(said), plugins.redact_record(json.loads(said)))
        try:
            self._database.write(insert(GENERATIONS).values(row))
        except IntegrityError as error:
            raise DataError(
                f"{self.path}: generation {exchange.result.id!r} is recorded"
            ) from error

    def feedback(
        self,
        id: str,
        *,
        value: bool | None = None,
        correction: str | Message | None = None,
        reward: float | None = None,
        comment: str | None = None,
    ) -> None:
        """Attach what somebody said to a generation; of each kind the newest will count.

        Args:
            id: The generation's id, `Result.id`.
            value: Thumbs up or down.
            correction: What the answer should have been; as a message where it should have
                called a tool.
            reward: Any number, the higher the better.
            comment: For people; nothing is learnt from it.

        Raises:
            DataError: There is no such generation, nothing is said, or a value is not legal.
            ConfigError: The file cannot be written.
        """
        said = {"value": value, "correction": correction, "reward": reward, "comment": comment}
        _check_said(said)
        if isinstance(correction, Message):
            said["correction"] = json.loads(json.dumps(said_message(correction)))
        now = time.time()
        cleaned = plugins.redact_record(copy.deepcopy({"id": id, "time": now, **said}))
        kept = {name: cleaned.get(name) for name in said}
        row = {"generation": id, "time": now, "said": {**kept, "redacted": kept != said}}
        try:
            self._database.write(insert(FEEDBACK).values(row))
        except IntegrityError as error:
            raise DataError(f"{self.path}: no generation {id!r} is recorded") from error

    def by_id(self, id: str) -> Exchange | None:
        """The exchange whose result has this id."""
        found = self._first(id)
        return None if found is None else found.exchange

    def by_text(self, text: str) -> Sequence[Exchange]:
        """Every exchange whose answer's text holds `text`, the oldest first.

        Of the empty text, those whose answer has no text beside its calls.
        """
        said = GENERATIONS.c.text
        holds = func.instr(said, storable(text)) > 0 if text.strip() else said == ""
        return [recording.exchange for recording in self._pages(holds)]

    def show(self, id: str) -> Recording:
        """One generation with its feedback.

        Raises:
            DataError: There is no such generation.
        """
        found = self._first(id)
        if found is None:
            raise DataError(f"{self.path}: no generation {id!r} is recorded")
        return found

    def list(self, which: Which = ALL, *, limit: int | None = None) -> Sequence[Recording]:
        """Generations, the newest first, at most `limit` of them."""
        query = select(GENERATIONS).where(*_conditions(which))
        query = query.order_by(GENERATIONS.c.number.desc()).limit(limit)
        with self._database.reading() as connection:
            return _recordings(connection, query)

    def read(self, which: Which = ALL) -> Iterator[Recording]:
        """Generations, the oldest first, a page at a time."""
        return self._pages(*_conditions(which))

    def examples(self, which: Which = ALL) -> Iterator[Example]:
        """Demonstrations, the oldest first: answers that are whole and were not judged bad.

        Left out are answers that were cut short, were redacted or hold a broken call, and those
        with a thumb down or a correction. Only the answer is trained, by its exact ids unless the
        prompt was redacted.
        """
        for recording in self.read(which):
            if recording.not_to_imitate is None:
                yield to_example(recording, f"{self.path.name}:{recording.id}")

    def judgements(self, which: Which = ALL) -> Iterator[dict[str, Any]]:
        """Feedback as `feedback.read_feedback` takes it, one item for each judged generation.

        `{"id", "correction"}`, `{"id", "label"}` or `{"id", "reward"}`; this object itself is where
        the ids are looked up. Redacted answers and corrections are left out.
        """
        for recording in self.read(which):
            shape = to_shape(recording)
            if shape is not None:
                yield shape

    def export(
        self, format: ExportFormat = "messages", which: Which = ALL
    ) -> Iterator[Mapping[str, Any]]:
        """Rows for other programs, the oldest first, complete without this file.

        Args:
            format: `messages`: every whole answer behind its prompt, as OpenAI's files have it.
                `feedback`: every judged one, as a pair, a verdict or a rewarded completion.
            which: Of these only.
        """
        for recording in self.read(which):
            if format == "feedback":
                row = feedback_row(recording)
            else:
                row = None if recording.flaw else messages_row(recording)
            if row is not None:
                yield row

    def delete(
        self, which: Which = ALL, *, ids: Sequence[str] = (), everything: bool = False
    ) -> int:
        """Delete generations with their feedback, and overwrite their place in the file.

        Args:
            which: Only these.
            ids: Of them only these.
            everything: All there are; the one way to give no condition.

        Returns:
            How many were deleted.

        Raises:
            ConfigError: No condition and not `everything`, or both; or another process was reading
                all the time, and what was deleted can still be found on the disk.
        """
        conditions = _conditions(which)
        if ids:
            conditions.append(GENERATIONS.c.id.in_(ids))
        if bool(conditions) == everything:
            raise ConfigError("say what to delete: ids, an adapter, a date or everything")
        deleted = self._database.write(delete(GENERATIONS).where(*conditions))
        self._database.scrub()
        return deleted

    def _first(self, id: str) -> Recording | None:
        with self._database.reading() as connection:
            found = _recordings(connection, select(GENERATIONS).where(GENERATIONS.c.id == id))
        return found[0] if found else None

    def _pages(self, *conditions: Any) -> Iterator[Recording]:
        """In short views of the file: a long one would keep its log from being emptied."""
        number = 0
        while True:
            query = select(GENERATIONS).where(GENERATIONS.c.number > number, *conditions)
            query = query.order_by(GENERATIONS.c.number).limit(_PAGE)
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
                recordings = _with_feedback(connection, rows)
            yield from recordings
            if len(rows) < _PAGE:
                return
            number = rows[-1].number


def _conditions(which: Which) -> list[Any]:
    conditions: list[Any] = []
    if which.adapter is not None:
        conditions.append(GENERATIONS.c.adapter == which.adapter)
    for column in ("agent", "session", "reply"):
        if (wanted := getattr(which, column)) is not None:
            conditions.append(GENERATIONS.c[column] == wanted)
    if which.since is not None:
        conditions.append(GENERATIONS.c.time >= which.since)
    if which.before is not None:
        conditions.append(GENERATIONS.c.time < which.before)
    return conditions


def _recordings(connection: Connection, query: Select[Any]) -> Sequence[Recording]:
    return _with_feedback(connection, connection.execute(query).all())


def _with_feedback(connection: Connection, rows: Sequence[Row[Any]]) -> Sequence[Recording]:
    said: dict[str, list[Feedback]] = {row.id: [] for row in rows}
    ids = list(said)
    for start in range(0, len(ids), _PAGE):
        some = FEEDBACK.c.generation.in_(ids[start : start + _PAGE])
        for row in connection.execute(select(FEEDBACK).where(some).order_by(FEEDBACK.c.number)):
            said[row.generation].append(_feedback(row))
    return [_recording(row, said[row.id]) for row in rows]


def _recording(row: Row[Any], said: Sequence[Feedback]) -> Recording:
    try:
        exchange = to_exchange(row._asdict())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{row.id!r}: {type(error).__name__}: {error}"
        ) from error  # file: `reading`
    return Recording(
        exchange=exchange,
        model=row.model,
        adapter=row.adapter,
        agent=row.agent,
        session=row.session,
        reply=row.reply,
        redacted=row.redacted,
        feedback=tuple(said),
    )


def _feedback(row: Row[Any]) -> Feedback:
    said = dict(row.said)
    if isinstance(said["correction"], Mapping):
        said["correction"] = read_said(said["correction"])
    return Feedback(time=row.time, **said)


def _check_said(said: Mapping[str, Any]) -> None:
    value, reward = said["value"], said["reward"]
    if not isinstance(value, bool | None):
        raise DataError(f"value is {value!r}; legal are True, False and None")
    if reward is not None and (isinstance(reward, bool) or not math.isfinite(reward)):
        raise DataError(f"reward is {reward!r}; it must be a finite number")
    for name in ("correction", "comment"):
        if isinstance(said[name], str) and not said[name].strip():
            raise DataError(f"{name} is {said[name]!r}; it must say something")
    correction = said["correction"]
    if isinstance(correction, Message):
        if correction.role != "assistant":
            raise DataError(f"correction is of {correction.role!r}; it must be an assistant's")
        if not (correction.text.strip() or correction.tool_calls):
            raise DataError("correction has no words and no calls; it must say something")
    if all(item is None for item in said.values()):
        raise DataError("nothing is said; give a value, a correction, a reward or a comment")
