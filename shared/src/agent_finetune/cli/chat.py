"""`chat`: talk to a model as an agent would, line by line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Parameter

from agent_finetune.cli.options import NO_OUTPUT, RESULT, ModelFlags, OutputFlags, log
from agent_finetune.errors import DataError
from agent_finetune.records import Message

if TYPE_CHECKING:
    from agent_finetune.contracts import LoadedModel
    from agent_finetune.render import Renderer

Tools = Sequence[Mapping[str, Any]]


def chat(
    *,
    model: ModelFlags,
    tools: Annotated[Path | None, Parameter(group=RESULT)] = None,
    system: Annotated[str | None, Parameter(group=RESULT)] = None,
    max_new_tokens: Annotated[int, Parameter(group=RESULT)] = 256,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Chat with a model; when it calls a tool, you type the tool's result. Ctrl-D ends.

    Args:
        tools: JSON file with the tools to offer, in the shape of OpenAI's `tools`.
        system: System message.
        max_new_tokens: Most tokens of an answer.
    """
    from agent_finetune import adapters
    from agent_finetune.render import Renderer
    from agent_finetune.settings import read_settings

    offered = _read_tools(tools) if tools else ()
    loaded = adapters.open_model(model, read_settings())
    renderer = Renderer(loaded.tokenizer)
    screen = sys.stderr if output.json else sys.stdout
    messages = [Message(role="system", text=system)] if system else []
    while line := _ask("you"):
        messages.append(Message(role="user", text=line))
        messages.append(_answer(loaded, renderer, messages, offered, max_new_tokens, screen))
        while results := _results(messages[-1]):
            messages += results
            messages.append(_answer(loaded, renderer, messages, offered, max_new_tokens, screen))
    if output.json:
        return output.answer({"messages": [asdict(message) for message in messages]}, "")
    return 0


def _read_tools(path: Path) -> Tools:
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    shaped = isinstance(tools, list) and all(
        isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools
    )
    if not shaped:
        raise DataError(f"{path}: not a list of {{'type': 'function', 'function': {{...}}}}")
    return tuple(tools)


def _ask(who: str) -> str:
    """One line of stdin; empty at its end."""
    print(f"{who}> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _results(answer: Message) -> list[Message]:
    """Let the user play the tools that an answer calls; empty when it calls none."""
    results = []
    for call in answer.tool_calls:
        log(f"calls {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})")
        if not (text := _ask(f"result of {call.name}")):
            return []
        results.append(Message(role="tool", text=text, tool_call_id=call.id, name=call.name))
    return results


def _answer(
    loaded: LoadedModel,
    renderer: Renderer,
    messages: Sequence[Message],
    tools: Tools,
    max_new_tokens: int,
    screen: TextIO,
) -> Message:
    """Generate one turn, showing its words as they come."""
    import torch
    from transformers import TextStreamer

    class Screen(TextStreamer):
        """Words as they come, through the hook that Transformers documents for it."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            print(text, end="\n" if stream_end else "", file=screen, flush=True)

    said = renderer.said_messages(messages)
    prompt = torch.tensor([renderer.prompt_ids(said, tools)], device=loaded.device)
    generated = loaded.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(renderer.stop_ids),
        pad_token_id=loaded.tokenizer.pad_token_id,
        stop_strings=list(renderer.stop_strings) or None,
        tokenizer=loaded.tokenizer,
        streamer=Screen(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    turn = renderer.parse(generated[0, prompt.shape[1] :].tolist(), tools)
    for broken in turn.broken:
        log(f"a tool call that does not parse: {broken}")
    return Message(role="assistant", text=turn.text, thinking=turn.thinking, tool_calls=turn.calls)
