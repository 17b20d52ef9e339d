"""Conversations out of the database of AgentScope's agent service."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from agent_finetune.contracts import Reading, Source
from agent_finetune.errors import DataError
from agent_finetune.readers import convert, is_database
from agent_finetune.records import BadRow, Example, Row
from agentscope_finetune import records

_TABLES = {"agents", "sessions", "messages", "credentials"}
_QUERY = """
SELECT sessions.id, sessions.payload, agents.payload
FROM sessions LEFT JOIN agents ON agents.id = sessions.agent_id
ORDER BY sessions.created_at, sessions.id
"""


def is_storage(path: Path | None) -> bool:
    """Whether a path is an SQLite file of `agentscope.app.storage.AsyncSQLAlchemyStorage`."""
    if path is None or not is_database(path):
        return False
    with closing(_open(path)) as connection:
        try:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            return {name for (name,) in found} >= _TABLES
        except sqlite3.DatabaseError:
            return False


def read_storage(source: Source) -> Reading:
    """The sessions of a database, the oldest first, one example each; `FILE#AGENT`: of one agent.

    The service does not store which tools a session had. Sessions in which nobody has spoken, or
    nothing of what the agent said went well, are left out.

    Raises:
        DataError: The agent has no session.
    """
    from agent_finetune.recordings.reading import asked_agent

    assert source.path is not None
    agent = asked_agent(source.name, source.path)
    rows = list(_sessions(source.path, agent))
    if agent is not None and not rows:
        raise DataError(f"{source.name}: no session of an agent {agent!r}")
    spoken = [row for row in rows if row.data["state"].get("context")]
    read = list(convert(spoken, records.read_row))
    good = [item for item in read if isinstance(item, BadRow) or _has_good(item)]
    left_out = {"nobody spoke": len(rows) - len(spoken), "nothing went well": len(read) - len(good)}
    return Reading(
        format=records.FORMAT,
        items=good,
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _has_good(example: Example) -> bool:
    return any(turn.role == "assistant" and turn.trained for turn in example.messages)


def _sessions(path: Path, agent: str | None) -> Iterator[Row]:
    """Sessions as `records.read_row` takes them; of an agent, or all."""
    with closing(_open(path)) as connection:
        found = connection.execute(_QUERY).fetchall()
    for session, stored, stored_agent in found:
        data = json.loads(stored_agent)["data"] if stored_agent else {}
        if agent in (None, data.get("name")):
            state = json.loads(stored).get("state") or {}
            said = {"system_prompt": data.get("system_prompt"), "agent": data.get("name")}
            yield Row(source=f"{path.name}:{session}", data={"state": state, **said})


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
