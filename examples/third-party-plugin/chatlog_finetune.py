"""Reads `.chatlog` files: lines of `me: words` and `bot: words`, a blank line between chats."""

from agent_finetune import DataError, Example, Message, hookimpl
from agent_finetune.contracts import Reading
from agent_finetune.readers import convert
from agent_finetune.records import Row


@hookimpl(tryfirst=True)  # a file type that nobody else knows: see contracts.Source
def finetune_read_examples(source, format):
    if format not in ("auto", "chatlog") or source.path is None or source.path.suffix != ".chatlog":
        return None
    chats = enumerate(source.path.read_text("utf-8").strip().split("\n\n"), 1)
    rows = [Row(source=f"{source.path}: chat {n}", data={"lines": c.split("\n")}) for n, c in chats]
    return Reading(format="chatlog", items=convert(rows, read_chat))


def read_chat(row):
    turns = [line.partition(": ") for line in row.data["lines"]]
    for speaker, _, words in turns:
        if speaker not in ("me", "bot") or not words:
            raise DataError(f"{speaker!r} begins a line; expected 'me: words' or 'bot: words'")
    roles = {"me": "user", "bot": "assistant"}
    messages = [Message(role=roles[speaker], text=words) for speaker, _, words in turns]
    return Example(messages=tuple(messages), source=row.source)
