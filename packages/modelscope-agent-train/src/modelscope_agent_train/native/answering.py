"""What a model answers to conversations, in the form of ModelScope's `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agent_finetune import generate
from agent_finetune.contracts import LoadedModel
from agent_finetune.records import Example
from agent_finetune.render import Renderer


def answer(
    loaded: LoadedModel,
    renderer: Renderer,
    examples: Sequence[Example],
    saving_fn: Callable[..., Any] | None,
) -> list[dict[str, Any]]:
    """The turn that each conversation ends with, as the model says it.

    Args:
        loaded: Model and tokenizer.
        renderer: Of the tokenizer.
        examples: Conversations; an assistant turn at the end is left out, and answered.
        saving_fn: Called with `inputs` (`messages`, `tools`, `id`) and `outputs` of each.

    Returns:
        `text`, `thinking`, and `calls` with `name` and `arguments`, of each.
    """
    asked = [_asked(example) for example in examples]
    prompts = [
        renderer.prompt_ids(renderer.said_messages(each.messages), each.tools) for each in asked
    ]
    answers = generate.complete(
        loaded, prompts, stop_ids=renderer.stop_ids, stop_strings=renderer.stop_strings
    )
    found = []
    for example, ids in zip(asked, answers, strict=True):
        turn = renderer.parse(ids, example.tools)
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.calls]
        outputs = {"text": turn.text, "thinking": turn.thinking, "calls": calls}
        found.append(outputs)
        if saving_fn is not None:
            inputs = {"id": example.id, "messages": example.messages, "tools": example.tools}
            saving_fn(inputs, outputs)
    return found


def _asked(example: Example) -> Example:
    """The conversation up to the answer that it ends with."""
    last = example.messages[-1]
    if last.role != "assistant" or len(example.messages) == 1:
        return example
    return replace(example, messages=example.messages[:-1])
