"""Data sets read as one: whole, or as many examples of each and of all as were asked for."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from agent_finetune import plugins, readers
from agent_finetune.contracts import Reading, Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.readers import OpenedSource, ReadResult
from agent_finetune.readers.sources import LOADERS
from agent_finetune.records import BadRow, Example
from modelscope_agent_train.opening import (
    Data,
    check_name,
    names_of,
    open_dataset,
    sample_names,
)

if TYPE_CHECKING:
    from agent_finetune.config import BadRowPolicy
    from modelscope_agent_train.hub import Hub

__all__ = ["Data", "check_names", "names_of", "open_dataset", "read_dataset", "sample_names"]

_COUNT = re.compile(r"(?P<name>.+)#(?P<count>\d+)")


def read_dataset(
    names: Sequence[Data],
    *,
    settings: Settings,
    format: str = "auto",
    on_bad_row: BadRowPolicy = "stop",
    sample: int = -1,
    seed: int = 42,
    hub: Hub = "auto",
    split: str = "train",
    local_files_only: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> ReadResult:
    """Read several data sets as one.

    Args:
        names: As for `open_dataset`; `NAME#N` takes N rows of that one, by the seed.
        settings: Token and cache.
        format: A format's name for all of them, or auto, found for each.
        on_bad_row: `stop` raises at the first row that does not read, `skip` keeps it in `bad`.
        sample: Most examples of all together, drawn by the seed; -1 takes all, in order.
        seed: Of every draw.
        hub: Where ids are looked up.
        split: Which split.
        local_files_only: Never touch the network.
        report: Gets a line for each data set, and where it has fewer rows than its #N asks for.

    Raises:
        ConfigError: `sample` or an N is not legal.
        DataError: A data set is not found, a row is bad and the policy is stop, or none reads.
    """
    if sample != -1 and sample < 1:
        raise ConfigError(f"dataset_sample is {sample!r}; give 1 or more, or -1 for all")
    streams: list[_Stream] = []
    for data in names:
        name, count = _asked(data)
        found = open_dataset(
            name,
            settings=settings,
            hub=hub,
            split=split,
            local_files_only=local_files_only,
            report=report,
        )
        drawn = sample != -1 or count is not None
        streams.append(_stream(found, count, format, seed, drawn=drawn))
    result = _collect(streams, on_bad_row, sample, seed)
    for stream in streams:
        report(f"data: {stream.source.name}, format {stream.reading.format}, {stream.rows} rows")
        if stream.most is not None and stream.most > stream.rows:
            report(f"{stream.source.name}: {stream.most} asked for, {stream.rows} there, all taken")
    return result


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are nowhere, before anything is fetched.

    Raises:
        ConfigError: An N is not legal.
        DataError: A name is no file, no shipped sample, and no id that a hub could know.
    """
    for name in names:
        check_name(str(_asked(name)[0]))


@dataclass(kw_only=True, slots=True)
class _Stream:
    """One data set, while it is read."""

    source: OpenedSource
    reading: Reading
    items: Iterator[Example | BadRow]
    rows: int
    """Rows there are."""
    most: int | None
    """Examples to take; None is all."""
    taken: int = 0

    @property
    def full(self) -> bool:
        return self.most is not None and self.taken >= self.most


def _asked(data: Data) -> tuple[Data, int | None]:
    """A name, and how many rows of it."""
    match = _COUNT.fullmatch(data) if isinstance(data, str) else None
    if match is None or Path(data).expanduser().exists():
        return data, None
    if not int(match["count"]):
        raise ConfigError(f"{data}: #0 takes no rows; give 1 or more, or leave it out for all")
    return match["name"], int(match["count"])


def _stream(
    source: OpenedSource, most: int | None, format: str, seed: int, *, drawn: bool
) -> _Stream:
    """Rows are shuffled before they are made examples, so that 100 of a million cost 100."""
    if not drawn:
        reading = plugins.read_examples(source, format)
        listed = list(reading.items)
        return _Stream(
            source=source, reading=reading, items=iter(listed), rows=len(listed), most=None
        )
    draw = random.Random(seed)
    if _is_read_by_its_rows(source):
        rows = source.rows
        order = draw.sample(range(len(rows)), len(rows))
        shuffled = OpenedSource(source.name, source.path, lambda: [rows[i] for i in order])
        reading = plugins.read_examples(shuffled, format)
        return _Stream(
            source=source, reading=reading, items=iter(reading.items), rows=len(rows), most=most
        )
    reading = plugins.read_examples(source, format)
    listed = list(reading.items)
    draw.shuffle(listed)
    return _Stream(source=source, reading=reading, items=iter(listed), rows=len(listed), most=most)


def _is_read_by_its_rows(source: OpenedSource) -> bool:
    """False where a plugin reads the file itself, a database for example."""
    if source.path is None or source.path.is_dir():
        return True
    return source.path.suffix in LOADERS and not readers.is_database(source.path)


def _collect(
    streams: Sequence[_Stream], on_bad_row: BadRowPolicy, sample: int, seed: int
) -> ReadResult:
    examples: list[Example] = []
    bad: list[BadRow] = []
    for stream in _turns(streams, seed, mixed=sample != -1):
        if len(examples) == sample:
            break
        for item in stream.items:
            if isinstance(item, Example):
                examples.append(item)
                stream.taken += 1
                break
            if on_bad_row == "stop":
                raise DataError(f"{item.source}: {item.reason}")
            bad.append(item)
    left_out: Counter[str] = Counter()
    for stream in streams:
        left_out.update(stream.reading.left_out)
    if not examples:
        first = f"; the first: {bad[0].source}: {bad[0].reason}" if bad else ""
        names = ", ".join(stream.source.name for stream in streams)
        raise DataError(f"{names}: none of {len(bad)} rows could be read{first}")
    return ReadResult(
        format="+".join(dict.fromkeys(stream.reading.format for stream in streams)),
        examples=tuple(examples),
        bad=tuple(bad),
        digest=_digest(streams),
        left_out=dict(left_out),
    )


def _turns(streams: Sequence[_Stream], seed: int, *, mixed: bool) -> Iterator[_Stream]:
    """Which data set gives the next example: one after the other, or each by its share."""
    turns = list(chain.from_iterable([stream] * stream.rows for stream in streams))
    if mixed:
        random.Random(seed).shuffle(turns)
    return (stream for stream in turns if not stream.full)


def _digest(streams: Sequence[_Stream]) -> str:
    """A data set's own, or one over those of all."""
    each = [stream.reading.digest or stream.source.digest for stream in streams]
    if len(each) == 1:
        return each[0]
    return f"sha256:{hashlib.sha256(chr(10).join(each).encode()).hexdigest()}"
