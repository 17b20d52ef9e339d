"""What `infer` asks: questions, rows of files, and the tools that are offered with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import DataError
from modelscope_agent_train.arguments import InferArguments

if TYPE_CHECKING:
    from agent_finetune.contracts import Request, Settings
    from agent_finetune.records import Message, Row

QUESTION = ("query", "prompt", "question", "instruction")
"""Keys of a row that is a plain question."""


def asked(
    arguments: InferArguments, question: str, system: str | None, tools: Sequence[Mapping[str, Any]]
) -> Request:
    """A question as a request."""
    from agent_finetune.records import Message

    beginning = (Message(role="system", text=system),) if system else ()
    return request(arguments, (*beginning, Message(role="user", text=question)), tools)


def request(
    arguments: InferArguments, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> Request:
    """Messages as a request; greedy unless `do_sample`."""
    from agent_finetune.contracts import Request

    drawn: dict[str, Any] = {}
    if arguments.do_sample:
        drawn = {
            "temperature": arguments.temperature,
            "top_k": arguments.top_k,
            "top_p": arguments.top_p,
            "seed": arguments.seed,
        }
    return Request(
        messages=tuple(messages),
        tools=tuple(tools),
        max_new_tokens=arguments.max_new_tokens,
        **drawn,
    )


def read_rows(arguments: InferArguments, settings: Settings) -> Sequence[Row]:
    """The rows of `--input`.

    Raises:
        DataError: There are none, or one does not parse.
    """
    from modelscope_agent_train import sources

    source = sources.open_dataset(
        arguments.input,
        settings=settings,
        hub=arguments.hub,  # type: ignore[arg-type]
        local_files_only=arguments.local_files_only,
        report=tell,
    )
    rows = list(source.rows)
    if arguments.dataset_sample != -1:
        rows = rows[: arguments.dataset_sample]
    if not rows:
        raise DataError(f"--input {arguments.input}: no rows")
    for row in rows:
        if row.problem is not None:
            raise DataError(f"{row.source}: {row.problem}")
    return rows


def requests(
    rows: Sequence[Row],
    arguments: InferArguments,
    system: str | None,
    tools: Sequence[Mapping[str, Any]],
) -> list[tuple[dict[str, Any], Request]]:
    """What each row asks, and what is known of it.

    A row with a question in one of `QUESTION`, or with messages that end with the user, is asked as
    it is. One of any format of training data is asked what its last assistant turn answers, which
    is written beside the answer as `right`.

    Raises:
        DataError: A row is of no known form; it is named.
    """
    return [_of_row(row, arguments, system, tools) for row in rows]


def read_tools(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Tools of a JSON file, in OpenAI's shape or as plain functions.

    Raises:
        DataError: It holds no list of tools.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--tools {path}: {error}") from error
    return _tools(content, f"--tools {path}")


def _of_row(
    row: Row,
    arguments: InferArguments,
    system: str | None,
    tools: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], Request]:
    from agent_finetune import plugins
    from agent_finetune.readers import OpenedSource
    from agent_finetune.records import Example, Message

    known: dict[str, Any] = {"source": row.source}
    if "id" in row.data:
        known["id"] = row.data["id"]
    own = row.data.get("tools")
    question = next((row.data[key] for key in QUESTION if key in row.data), None)
    if isinstance(question, str) and not {"messages", "conversations", "output"} & row.data.keys():
        offered = tools if own is None else _tools(own, row.source)
        return known | {"question": question}, asked(arguments, question, system, offered)
    (read,) = plugins.read_examples(
        OpenedSource(row.source, None, lambda: [row]), arguments.format
    ).items
    if not isinstance(read, Example):
        raise DataError(f"{read.source}: {read.reason}")
    messages, right = list(read.messages), None
    places = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if read.accepted is None and places:
        right, messages = messages[places[-1]], messages[: places[-1]]
    if system and messages[0].role != "system":
        messages.insert(0, Message(role="system", text=system))
    if right is not None:
        known["right"] = {
            "text": right.text,
            "calls": [{"name": c.name, "arguments": dict(c.arguments)} for c in right.tool_calls],
        }
    return known, request(arguments, messages, read.tools or tools)


def _tools(content: object, what: str) -> tuple[Mapping[str, Any], ...]:
    if isinstance(content, str):
        try:
            content = json.loads(content)
        except ValueError as error:
            raise DataError(f"{what}: tools do not parse: {error}") from error
    listed = content if isinstance(content, list) else [content]
    tools = []
    for place, item in enumerate(listed):
        function = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(
                f"{what}: tool {place + 1} is {str(item)[:120]!r}; it must be "
                "{'type': 'function', 'function': {'name': ..., 'parameters': {...}}}"
            )
        tools.append({"type": "function", "function": function})
    return tuple(tools)


def tell(line: str) -> None:
    """Tell the user what happens, on stderr."""
    print(line, file=sys.stderr, flush=True)
