"""`chat`: talk to a live model as an agent would, line by line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from agent_finetune import plugins
from agent_finetune.cli.options import NO_OUTPUT, RESULT, ModelFlags, OutputFlags, log
from agent_finetune.cli.screen import Screen, ask
from agent_finetune.contracts import Engine, EngineConfig, Request, Result
from agent_finetune.errors import ConfigError, DataError, FinetuneError
from agent_finetune.records import Message

DEFAULT = "default"
"""What answers unless another adapter is named: the one of --adapter, or the model alone."""

HELP = """\
/adapter              list the adapters; * is the one that answers
/adapter NAME         let another one answer from now on; the conversation goes on
/adapter NAME=FOLDER  attach one, and let it answer
/reset                forget the conversation, but not the system message
/help                 this
Ctrl-C while it answers stops it, and what came stays; Ctrl-D ends.
A line that begins with a blank is said to the model, even if a / follows."""


def chat(
    *,
    model: ModelFlags,
    adapters: Annotated[tuple[str, ...], Parameter(group=RESULT)] = (),
    tools: Annotated[Path | None, Parameter(group=RESULT)] = None,
    system: Annotated[str | None, Parameter(group=RESULT)] = None,
    max_new_tokens: Annotated[int, Parameter(group=RESULT)] = 256,
    temperature: Annotated[float, Parameter(group=RESULT)] = 0.0,
    top_p: Annotated[float, Parameter(group=RESULT)] = 1.0,
    seed: Annotated[int | None, Parameter(group=RESULT)] = None,
    stop: Annotated[tuple[str, ...], Parameter(group=RESULT)] = (),
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Chat with a model; when it calls a tool, you type the tool's result. Ctrl-D ends.

    Ctrl-C stops an answer; /adapter switches between adapters, /reset forgets the conversation,
    /help tells more.

    Args:
        adapters: More adapters to switch between, each NAME=FOLDER.
        tools: JSON file with the tools to offer, in the shape of OpenAI's `tools`.
        system: System message.
        max_new_tokens: Most tokens of an answer.
        temperature: 0 always takes the likeliest token; higher is more varied.
        top_p: Draw from the likeliest tokens that make up this share of the probability.
        seed: Draw the same answer to the same conversation again.
        stop: Strings that end an answer.
    """
    from agent_finetune.settings import read_settings

    beginning = (Message(role="system", text=system),) if system is not None else ()
    request = Request(
        messages=(*beginning, Message(role="user")),
        tools=_read_tools(tools) if tools else (),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
    )
    named = dict(_name_and_folder(word) for word in adapters)
    engine = plugins.open_engine(EngineConfig(model=model), read_settings())
    try:
        talk = Talk(engine, request, beginning, Screen(sys.stderr if output.json else sys.stdout))
        talk.load(model.model, named)
        talk.run()
    finally:
        engine.close()
    if output.json:
        return output.answer({"messages": [asdict(message) for message in talk.messages]}, "")
    return 0


class Talk:
    """One conversation, typed line by line.

    Args:
        engine: Answers.
        request: How; its messages are replaced by the conversation's.
        beginning: What stays when the conversation is forgotten.
        screen: Shows the answers.
    """

    def __init__(
        self, engine: Engine, request: Request, beginning: Sequence[Message], screen: Screen
    ) -> None:
        self.messages = list(beginning)
        self._engine = engine
        self._request = request
        self._beginning = beginning
        self._screen = screen

    def load(self, model: str, adapters: Mapping[str, Path]) -> None:
        """Load the model and attach adapters, and say so.

        Raises:
            ModelError: The model or an adapter cannot be had.
        """
        self._screen.note(f"loading {model} ...")
        begun = time.perf_counter()
        info = self._engine.info()
        for name, folder in adapters.items():
            self._engine.attach(name, folder)
        self._screen.note(
            f"loaded in {time.perf_counter() - begun:.1f} s: {info.dtype} on {info.device}, "
            f"context of {info.context} tokens; /help tells the commands"
        )

    def run(self) -> None:
        """Take lines until there are no more."""
        while (line := ask("you")) is not None:
            try:
                if line.startswith("/"):
                    self._obey(line)
                elif line.strip():
                    self._say(line.strip())
            except FinetuneError as error:
                if not sys.stdin.isatty():
                    raise  # whoever wrote the lines beforehand cannot answer it
                log(f"error: {error}")

    def _say(self, line: str) -> None:
        """Let a line be answered, with the user playing the tools that are called."""
        before = len(self.messages)
        self.messages.append(Message(role="user", text=line))
        try:
            result = self._answer()
            while result.finish != "cancelled" and (played := _play_tools(result.message)):
                self.messages += played
                result = self._answer()
        except FinetuneError:
            self._forget(before)  # or the next line would fail as this one did
            raise
        if not result.usage.completion_tokens:
            self._forget(before)  # cancelled before anything came

    def _forget(self, before: int) -> None:
        del self.messages[before:]
        self._screen.note("that line is left out of the conversation")

    def _answer(self) -> Result:
        request = replace(self._request, messages=tuple(self.messages))
        result = self._screen.follow(self._engine.stream(request))
        self.messages.append(result.message)
        return result

    def _obey(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        if command == "/adapter":
            self._switch(argument) if argument else self._list()
        elif command == "/reset" and not argument:
            self.messages = list(self._beginning)
            self._screen.note("the conversation is forgotten")
        elif command == "/help" and not argument:
            self._screen.note(HELP)
        else:
            raise ConfigError(f"{line!r} is no command; /help lists them")

    def _switch(self, name: str) -> None:
        if "=" in name:
            name, folder = _name_and_folder(name)
            self._engine.attach(name, folder)
        known = (DEFAULT, *self._engine.adapters())
        if name not in known:
            raise ConfigError(f"adapter is {name!r}; legal are {', '.join(known)}")
        self._request = replace(self._request, adapter=None if name == DEFAULT else name)
        self._screen.note(f"{name} answers from now on")

    def _list(self) -> None:
        chosen = self._request.adapter or DEFAULT
        for name, revision in ((DEFAULT, ""), *self._engine.adapters().items()):
            mark = "*" if name == chosen else " "
            self._screen.note(f"{mark} {name} {revision[:19]}".rstrip())


def _name_and_folder(word: str) -> tuple[str, Path]:
    name, _, folder = word.partition("=")
    if not name or not folder or name == DEFAULT:
        raise ConfigError(
            f"an adapter is given as {word!r}; legal is NAME=FOLDER, the name not {DEFAULT!r}"
        )
    return name, Path(folder).expanduser()


def _read_tools(path: Path) -> tuple[Mapping[str, Any], ...]:
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    shaped = isinstance(tools, list) and all(
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
        for tool in tools
    )
    if not shaped:
        raise DataError(
            f"{path}: not a list of {{'type': 'function', 'function': {{'name': ..., ...}}}}"
        )
    return tuple(tools)


def _play_tools(answer: Message) -> list[Message]:
    """Let the user type the results of an answer's calls; empty when one is left out."""
    results = []
    for call in answer.tool_calls:
        text = ask(f"result of {call.name}")
        if not (text and text.strip()):
            return []
        results.append(
            Message(role="tool", text=text.strip(), tool_call_id=call.id, name=call.name)
        )
    return results
