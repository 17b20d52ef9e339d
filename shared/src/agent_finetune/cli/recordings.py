"""`recordings`: what was recorded with consent, to be looked at, taken along and deleted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from agent_finetune import artifacts
from agent_finetune.cli.options import NO_OUTPUT, OutputFlags, log
from agent_finetune.cli.table import table
from agent_finetune.records import Message

if TYPE_CHECKING:
    from agent_finetune.recordings import Feedback, Recording, Recordings, Which

recordings = App(
    name="recordings",
    help="List, show, export and delete recorded generations and their feedback.",
    version_flags=[],
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Which generations a verb is about."""

    adapter: str | None = None
    """Only those of this adapter."""
    agent: str | None = None
    """Only those of the agent of this name."""
    session: str | None = None
    """Only those of this conversation."""
    since: datetime | None = None
    """Only those of this time or later, like 2026-01-31 or 2026-01-31T18:00."""
    before: datetime | None = None
    """Only those earlier than this."""


ChosenFlags = Annotated[Chosen, Parameter(name="*")]
ALL = Chosen()


@recordings.command(name="list")
def list_recordings(
    path: Path,
    *,
    chosen: ChosenFlags = ALL,
    number: Annotated[int, Parameter(name=("--number", "-n"))] = 20,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """List generations, the newest first, with what was said about them.

    Args:
        path: The file of the recordings.
        number: Most generations to list.
    """
    found = _open(path).list(_which(chosen), limit=number)
    text = table(
        ("id", "time", "agent", "session", "adapter", "feedback", "answer"),
        [
            (
                r.id,
                _local(r.exchange.time),
                r.agent,
                r.session,
                r.adapter,
                _mark(r),
                _start(r.exchange.result.message),
            )
            for r in found
        ],
        empty=f"{path}: no recordings",
    )
    return output.answer({"recordings": [_as_json(recording) for recording in found]}, text)


@recordings.command
def show(path: Path, id: str, *, output: OutputFlags = NO_OUTPUT) -> int:
    """Show one generation: what was asked and answered, and what was said about it.

    Args:
        path: The file of the recordings.
        id: The generation's id.
    """
    values = _as_json(_open(path).show(id))
    return output.answer(values, json.dumps(values, indent=2, ensure_ascii=True))


@recordings.command
def export(
    path: Path,
    *,
    format: Literal["messages", "feedback"] = "messages",
    out: Path | None = None,
    chosen: ChosenFlags = ALL,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Write rows of JSON that `train` and other programs read.

    Args:
        path: The file of the recordings.
        format: messages: whole answers behind their prompts, as OpenAI's files have them;
            feedback: judged answers, as pairs, verdicts and rewards.
        out: The file to write; standard output when not given.
    """
    store, which = _open(path), _which(chosen)
    lines = [json.dumps(row) for row in store.export(format, which)]
    left = sum(1 for _ in store.read(which)) - len(lines)
    log(f"{len(lines)} exported, {left} left out: {_WHY_LEFT[format]}")
    text = "\n".join(lines)
    if out is None:
        if lines:
            print(text)
        return 0
    artifacts.write_text(out, text + "\n" if lines else "")
    return output.answer({"exported": len(lines), "left_out": left, "out": out}, str(out))


@recordings.command
def delete(
    path: Path,
    *,
    id: tuple[str, ...] = (),
    chosen: ChosenFlags = ALL,
    all: Annotated[bool, Parameter(negative=())] = False,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Delete generations and their feedback for good; conditions narrow each other.

    Args:
        path: The file of the recordings.
        id: Only these.
        all: Everything there is.
    """
    deleted = _open(path).delete(_which(chosen), ids=id, everything=all)
    return output.answer({"deleted": deleted}, f"{deleted} deleted")


_WHY_LEFT = {
    "messages": "cut short, redacted, or with calls that cannot be read",
    "feedback": "not judged, or redacted",
}


def _open(path: Path) -> Recordings:
    from agent_finetune.recordings import Recordings

    return Recordings(path, create=False)


def _which(chosen: Chosen) -> Which:
    from agent_finetune.recordings import Which

    return Which(
        adapter=chosen.adapter,
        agent=chosen.agent,
        session=chosen.session,
        since=None if chosen.since is None else chosen.since.timestamp(),
        before=None if chosen.before is None else chosen.before.timestamp(),
    )


def _as_json(recording: Recording) -> dict[str, Any]:
    from agent_finetune.recordings.exchanges import to_record

    record = to_record(
        recording.exchange,
        model=recording.model,
        adapter=recording.adapter,
        agent=recording.agent,
        session=recording.session,
        reply=recording.reply,
    )
    said = [asdict(feedback) | _corrected(feedback) for feedback in recording.feedback]
    return {**record, "redacted": recording.redacted, "feedback": said}


def _corrected(feedback: Feedback) -> dict[str, Any]:
    from agent_finetune.recordings.exchanges import said_message

    better = feedback.correction
    return {"correction": said_message(better) if isinstance(better, Message) else better}


def _local(time: float) -> str:
    return datetime.fromtimestamp(time).astimezone().isoformat(sep=" ", timespec="seconds")


def _mark(recording: Recording) -> str | None:
    """What was said, as short as it can be."""
    judged = recording.judgement
    if judged is None:
        return None
    marks = [
        {True: "+", False: "-", None: ""}[judged.value],
        "corrected" if judged.correction else "",
        "" if judged.reward is None else f"{judged.reward:g}",
        "comment" if judged.comment else "",
    ]
    return " ".join(filter(None, marks))


def _start(message: Message) -> str:
    calls = ", ".join(f"{call.name}()" for call in message.tool_calls)
    text = " ".join(f"{message.text} {calls}".split())
    return text if len(text) <= 60 else f"{text[:57]}..."
