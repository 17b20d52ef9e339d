"""AgentScope 2.x messages, as `Msg.model_dump(mode="json")` writes them, into Examples.

One assistant `Msg` holds everything an agent did in a reply, block after block: text, thinking,
tool calls, tool results, hints, text again. A chat template needs one turn per step, so a `Msg` is
cut where its tool results begin, as AgentScope's own formatters do before they call a model; a
hint becomes a user turn there, and here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_arguments, as_example, as_objects, as_text, as_tools
from agent_finetune.records import Example, Message, Role, Row, ToolCall

FORMAT = "agentscope"
KEYS = ("messages", "context")
"""Where a row keeps its `Msg` list: our own files, and a dumped `AgentState`."""
DONE = ("success", "running")
"""States of a result behind which its call is worth imitating; `running` is what a result has that
nobody gave another. A call that failed, was denied or interrupted is context."""
BLOCKS = ("text", "thinking", "tool_call", "tool_result", "hint", "data")
ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


def is_agentscope(rows: Sequence[Row]) -> bool:
    """Whether the first rows can be nothing but `Msg` dumps: every content block has an id."""
    parsed = list(islice((row for row in rows if row.problem is None), 20))
    return bool(parsed) and all(_is_dump(row.data) for row in parsed)


def read_row(row: Row) -> Example:
    """One conversation: a list of `Msg` dumps, or an object that has one.

    The object has it under `messages`, or under `context` as a dumped `AgentState` does (its
    `summary` comes first, as a user turn, which is how AgentScope sends it), or a `state` that has.
    Neither holds what else the model saw, so `system_prompt` and `tools` (of
    `toolkit.get_tool_schemas()`) may stand beside it; and `agent`, the name under which the model
    spoke: what other assistants said is context then. A `Msg` that a reply left in an error is
    refused.

    Only what went well is trained: not a turn that has a call which failed, was denied, was
    interrupted, still waits or had to be repaired, and not the end of an interrupted reply.
    """
    data = _with_context(row.data)
    key = next((key for key in KEYS if key in data), None)
    if key is None:
        raise DataError(f"no key 'messages' or 'context'; keys are {', '.join(map(repr, data))}")
    messages: list[Message] = []
    if prompt := as_text(data.get("system_prompt"), "system_prompt"):
        messages.append(Message(role="system", text=prompt))
    if summary := as_text(data.get("summary"), "summary"):
        messages.append(Message(role="user", text=summary))
    for index, message in enumerate(as_objects(data[key], key)):
        turns = list(_turns(message, f"{key}[{index}]"))
        if data.get("agent") not in (None, message.get("name")):
            turns = [replace(t, trained=False) if t.role == "assistant" else t for t in turns]
        messages += turns
    return as_example(row, messages, as_tools(data.get("tools")))


@dataclass
class _Step:
    """What the assistant said since the last tool result."""

    results: Mapping[str, str]
    """How each call of the whole message ended, by its id."""
    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    good: bool = True

    def close(self) -> Iterator[Message]:
        """The turn, if anything was said, and an empty step from here on."""
        if self.text or self.thinking or self.calls:
            yield Message(
                role="assistant",
                text="\n".join(self.text),
                thinking="\n".join(self.thinking) or None,
                tool_calls=tuple(self.calls),
                trained=self.good,
            )
        self.text, self.thinking, self.calls, self.good = [], [], [], True


def _turns(message: Mapping[str, Any], what: str) -> Iterator[Message]:
    role = ROLES.get(str(message.get("role")))
    if role is None:
        raise DataError(f"{what}: role is {message.get('role')!r}; legal are {', '.join(ROLES)}")
    if message.get("error"):
        raise DataError(f"{what}: the reply ended in an error; it is nothing to learn from")
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = as_objects(blocks, f"{what}: content")
    if role != "assistant":
        yield Message(role=role, text=as_text(blocks, f"{what}: content"))
        return
    step = _Step(results=_results(blocks))
    for index, block in enumerate(blocks):
        yield from _block(block, step, f"{what}: content[{index}]")
    if message.get("finished_reason") == "interrupted":
        step.good = False
    yield from step.close()


def _block(block: Mapping[str, Any], step: _Step, what: str) -> Iterator[Message]:
    """Add a block to the step, or close the step and give the block's own turn."""
    match block.get("type"):
        case "text":
            if step.calls:  # words after a call whose result is not there belong to the next step
                yield from step.close()
            step.text.append(as_text(block.get("text"), f"{what}: text"))
        case "thinking":
            step.thinking.append(as_text(block.get("thinking"), f"{what}: thinking"))
        case "tool_call":
            ended = step.results.get(
                str(block.get("id")), "success" if _let_go(block) else "asking"
            )
            call, as_said = _call(block, what)
            step.good = step.good and as_said and ended in DONE
            step.calls.append(call)
        case "tool_result":
            yield from step.close()
            yield Message(
                role="tool",
                text=as_text(block.get("output"), f"{what}: output"),
                tool_call_id=block.get("id"),
                name=block.get("name"),
            )
        case "hint":
            yield from step.close()
            yield Message(role="user", text=as_text(block.get("hint"), f"{what}: hint"))
        case kind:
            raise DataError(f"{what} is of type {kind!r}; only {', '.join(BLOCKS[:-1])} are read")


def _results(blocks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    results = (block for block in blocks if block.get("type") == "tool_result")
    return {str(block.get("id")): str(block.get("state", "success")) for block in results}


def _let_go(block: Mapping[str, Any]) -> bool:
    """Whether a call that has no result is one that nobody waits for."""
    return block.get("state", "finished") in ("finished", "allowed")


def _call(block: Mapping[str, Any], what: str) -> tuple[ToolCall, bool]:
    """A call, and whether it is as the model said it: AgentScope repairs JSON that is nearly so."""
    name = block.get("name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{what}: name is {name!r}; expected the tool's name")
    raw = block.get("input")
    as_said = True
    try:
        arguments = as_arguments(raw, f"{what}: input of {name!r}")
    except DataError:
        if not isinstance(raw, str):
            raise
        from json_repair import repair_json

        repaired = repair_json(raw, return_objects=True)
        arguments, as_said = repaired if isinstance(repaired, dict) else {}, False
    return ToolCall(name=name, arguments=arguments, id=block.get("id")), as_said


def _with_context(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object that has the conversation: of the service's session, its state."""
    state = data.get("state")
    if not isinstance(state, Mapping) or not any(key in state for key in KEYS):
        return data
    return {**state, **{key: value for key, value in data.items() if key != "state"}}


def _is_dump(data: Mapping[str, Any]) -> bool:
    data = _with_context(data)
    messages = next((data[key] for key in KEYS if key in data), None)
    return isinstance(messages, list) and bool(messages) and all(map(_is_msg, messages))


def _is_msg(message: object) -> bool:
    if not isinstance(message, Mapping) or not {"name", "role", "content", "id"} <= message.keys():
        return False
    content = message["content"]
    return isinstance(content, list) and all(
        isinstance(block, Mapping) and "id" in block and block.get("type") in BLOCKS
        for block in content
    )
