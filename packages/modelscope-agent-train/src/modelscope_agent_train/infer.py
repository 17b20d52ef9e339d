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

from agent_finetune import ending
from agent_finetune.errors import ConfigError, FinetuneError
from agent_finetune.foreign_logs import hush
from modelscope_agent_train.arguments import InferArguments
from modelscope_agent_train.flags import parse
from modelscope_agent_train.infer_requests import (
    asked,
    read_rows,
    read_tools,
    request,
    requests,
    tell,
)

if TYPE_CHECKING:
    from agent_finetune.contracts import Engine, Generation, Request, Result, Settings

AHEAD = 64
"""Rows of a file that are with the engine at once."""


def main(argv: Sequence[str] | None = None, *, prog: str = "modelscope-agent-train infer") -> int:
    """Read flags and answer; the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    hush()
    try:
        parsed = parse(InferArguments, words, prog=prog)
        if parsed.ignored:
            tell(f"left out: {' '.join(parsed.ignored)}")
        return infer(parsed.arguments)
    except FinetuneError as error:
        tell(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        tell(ending.word(error))
        return ending.code(error)


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
    config, found = checkpoints.configure(arguments, arguments.ckpt_dir, settings, say=tell)
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
        tell(f"{len(lines)} answers: {arguments.output}")
    return 0


def _answered(
    engine: Engine, todo: Sequence[tuple[dict[str, Any], Request]]
) -> Iterator[tuple[dict[str, Any], Result]]:
    """Answers in the rows' order, a few rows ahead of the one that is waited for."""
    waiting: deque[tuple[dict[str, Any], Generation]] = deque()
    for known, one in todo:
        waiting.append((known, engine.stream(one)))
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
