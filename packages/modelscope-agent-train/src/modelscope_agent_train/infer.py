"""`llm_infer.py`: let a model answer one question, a file of rows, or whoever types.

Answers come through the kernel's live engine, as they come to an agent.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import ConfigError, DataError, FinetuneError
from modelscope_agent_train.arguments import InferArguments
from modelscope_agent_train.flags import parse

if TYPE_CHECKING:
    from agent_finetune.contracts import Engine, Generation, Request, Result, Settings
    from agent_finetune.records import Message, Row

QUESTION = ("query", "prompt", "question", "instruction")
"""Keys of a row that is a plain question."""
AHEAD = 64
"""Rows of a file that are with the engine at once."""


def main(argv: Sequence[str] | None = None, *, prog: str = "modelscope-agent-train infer") -> int:
    """Read flags and answer; the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        parsed = parse(InferArguments, words, prog=prog)
        if parsed.ignored:
            _tell(f"left out: {' '.join(parsed.ignored)}")
        return infer(parsed.arguments)
    except FinetuneError as error:
        _tell(f"error: {error}")
        return 2


def infer(arguments: InferArguments, *, settings: Settings | None = None) -> int:
    """Answer what the flags name; the exit code.

    Raises:
        FinetuneError: Something the user must change; the message says what.
    """
    from agent_finetune import plugins
    from agent_finetune.contracts import EngineConfig
    from agent_finetune.settings import read_settings
    from modelscope_agent_train.evaluation import checkpoints

    _check(arguments)
    settings = settings or read_settings()
    if arguments.local_files_only:
        settings = replace(settings, offline=True)
    rows = read_rows(arguments, settings) if arguments.input else []
    tools = read_tools(Path(arguments.tools)) if arguments.tools else ()
    config, found = checkpoints.configure(arguments, arguments.ckpt_dir, settings, say=_tell)
    system = arguments.system or (found.system if found else None)
    engine = plugins.open_engine(EngineConfig(model=config), settings)
    try:
        if arguments.input:
            return _file(engine, arguments, requests(rows, arguments, system, tools))
        if arguments.query is not None:
            return _one(engine, arguments, asked(arguments, arguments.query, system, tools))
        return _talk(engine, arguments, system, tools)
    finally:
        engine.close()


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
        report=_tell,
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


def answer_row(result: Result) -> dict[str, Any]:
    """An answer as JSON."""
    message = result.message
    return {
        "text": message.text,
        "thinking": message.thinking,
        "calls": [
            {"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls
        ],
        "broken": list(result.broken_calls),
        "finish": result.finish,
        "prompt_tokens": result.usage.prompt_tokens,
        "answer_tokens": result.usage.completion_tokens,
    }


def _check(arguments: InferArguments) -> None:
    if arguments.input and arguments.query is not None:
        raise ConfigError("--query and --input are both given; give one question, or a file")
    if arguments.output and not arguments.input:
        raise ConfigError("--output takes the answers to --input; give that as well")
    if arguments.legacy_format:
        raise ConfigError(
            "--legacy_format true: a checkpoint trained with it carries the 2023 form as its chat "
            "template and is answered in it; leave the flag out"
        )


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


def _one(engine: Engine, arguments: InferArguments, request: Request) -> int:
    from agent_finetune.cli.screen import Screen

    screen = Screen(sys.stdout)
    if arguments.stream:
        screen.follow(engine.stream(request))
        return 0
    result = engine.generate(request)
    print(_shown(result), flush=True)
    return 0


def _shown(result: Result) -> str:
    lines = [result.message.text] if result.message.text else []
    lines += [
        f"calls {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})"
        for call in result.message.tool_calls
    ]
    lines += [f"a tool call that does not parse: {raw}" for raw in result.broken_calls]
    return "\n".join(lines)


def _file(
    engine: Engine, arguments: InferArguments, todo: Sequence[tuple[dict[str, Any], Request]]
) -> int:
    from agent_finetune.artifacts import write_text
    from agent_finetune.evaluate import progress

    lines = []
    with progress("answers") as on_progress:
        for known, result in _answered(engine, todo):
            line = json.dumps(known | answer_row(result), ensure_ascii=False)
            # A model may write half a surrogate pair, which JSON can say and UTF-8 cannot.
            lines.append(line.encode(errors="backslashreplace").decode())
            if arguments.output is None:
                print(lines[-1], flush=True)
            on_progress(len(lines), len(todo))
    if arguments.output is not None:
        write_text(Path(arguments.output), "".join(f"{line}\n" for line in lines))
        _tell(f"{len(lines)} answers: {arguments.output}")
    return 0


def _answered(
    engine: Engine, todo: Sequence[tuple[dict[str, Any], Request]]
) -> Iterator[tuple[dict[str, Any], Result]]:
    """Answers in the rows' order, a few rows ahead of the one that is waited for."""
    waiting: deque[tuple[dict[str, Any], Generation]] = deque()
    for known, request in todo:
        waiting.append((known, engine.stream(request)))
        if len(waiting) >= AHEAD:
            first, generation = waiting.popleft()
            yield first, generation.result()
    for known, generation in waiting:
        yield known, generation.result()


def _talk(
    engine: Engine,
    arguments: InferArguments,
    system: str | None,
    tools: Sequence[Mapping[str, Any]],
) -> int:
    from agent_finetune.cli.chat import Talk
    from agent_finetune.cli.screen import Screen
    from agent_finetune.records import Message

    beginning = (Message(role="system", text=system),) if system else ()
    first = request(arguments, (*beginning, Message(role="user")), tools)
    talk = Talk(engine, first, beginning, Screen(sys.stdout))
    talk.load(arguments.model_id_or_path or arguments.model_type or str(arguments.ckpt_dir), {})
    talk.run()
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
