"""Recordings as data to train on: demonstrations by the ids with which they were generated."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from agent_finetune.contracts import Reading, Source
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.recordings.exchanges import to_record
from agent_finetune.recordings.recording import Recording, to_example
from agent_finetune.recordings.store import Recordings, Which
from agent_finetune.records import Example

FORMAT = "recordings"


def read_source(source: Source, format: str) -> Reading:
    """Answers that are whole and were not judged bad, the oldest first; see `Recordings.examples`.

    A turn is trained by the ids with which it was generated, where the model that is trained has
    the tokenizer and template of the one that spoke; else its words are rendered (`Generation`).

    Args:
        source: An SQLite file, or `FILE#AGENT`: only what the agent of this name said.
        format: `recordings`, or auto.

    Raises:
        DataError: It is no database, or another program's; it is asked for in another format, or
            the agent said nothing.
    """
    if format not in ("auto", FORMAT):
        raise DataError(f"{source.name}: a database is read as {FORMAT!r}, not as {format!r}")
    assert source.path is not None
    try:
        recordings = Recordings(source.path, create=False)
    except ConfigError as error:
        raise DataError(str(error)) from error
    agent = asked_agent(source.name, source.path)
    examples: list[Example] = []
    left_out: Counter[str] = Counter()
    whole = hashlib.sha256()
    for recording in recordings.read(Which(agent=agent)):
        try:
            whole.update(_written(recording))
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{source.path}: recording {recording.id!r}: {error}") from error
        if reason := recording.not_to_imitate:
            left_out[reason] += 1
        else:
            examples.append(to_example(recording, f"{source.path.name}:{recording.id}"))
    if agent is not None and not examples and not left_out:
        names = sorted({r.agent for r in recordings.read() if r.agent is not None})
        raise DataError(
            f"{source.name}: nothing of an agent {agent!r}; agents are "
            f"{', '.join(map(repr, names)) or '(none)'}"
        )
    return Reading(
        format=FORMAT,
        items=examples,
        left_out=dict(left_out),
        digest=f"sha256:{whole.hexdigest()}",
    )


def asked_agent(name: str, path: Path) -> str | None:
    """The agent of `FILE#AGENT`; None where the name is that of the file alone."""
    return None if Path(name).expanduser() == path else name.partition("#")[2] or None


def _written(recording: Recording) -> bytes:
    """All that counts of a recording, in one line."""
    record = to_record(recording.exchange, model=recording.model, adapter=recording.adapter)
    said = [asdict(feedback) for feedback in recording.feedback]
    return f"{json.dumps([record, said], sort_keys=True)}\n".encode()
