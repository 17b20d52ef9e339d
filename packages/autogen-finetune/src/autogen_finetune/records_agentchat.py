"""Saved runs and states of AutoGen 0.4 and later, as threads of OpenAI's chat dicts.

A `TaskResult` is everybody's: what is read of it is what one agent heard and said, for each agent
that a model answered for. A state (`save_state()` of an agent or a team) holds each agent's own
model context. AutoGen is not imported; `agentchat.messages` does the same with live objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_objects, shown
from agent_finetune.records import Row
from autogen_finetune.thoughts import split_thought

RUN, STATE, NESTED = "messages", "llm_context", "agent_states"
"""Keys under which a run, an agent's state and a team's state keep what was said."""
BESIDE = ("system_message", "tools")
"""What is in neither and may stand beside it; in a team's, also as an object by agent."""

Dicts = list[dict[str, Any]]
Item = Mapping[str, Any]


def is_message(item: object) -> bool:
    """Whether only AutoGen 0.4 and later writes such a message of a run."""
    return isinstance(item, Mapping) and {"type", "source", "models_usage"} <= item.keys()


def is_saved(data: Item) -> bool:
    """Whether an object is a `TaskResult` or a state."""
    if _is_state(data):
        return True
    messages = data.get(RUN)
    return isinstance(messages, list) and bool(messages) and all(map(is_message, messages))


def sides(row: Row) -> Iterator[Row]:
    """A thread, with its `id`, for each agent of a row; `agent` in the row is the only one then.

    Raises:
        DataError: It holds nothing that a model of such an agent said, or something unreadable.
    """
    wanted = row.data.get("agent")
    found = dict(_states(row.data)) if _is_state(row.data) else _heard_by_each(row.data[RUN])
    if wanted is not None and wanted not in found:
        names = ", ".join(map(repr, found)) or "nobody"
        raise DataError(f"agent is {wanted!r}; a model answered for {names}")
    for name, messages in found.items():
        if wanted in (None, name):
            data = {"id": name, "messages": messages, **_beside(row.data, name)}
            yield Row(source=row.source, data=data)


def _beside(data: Item, agent: str | None) -> dict[str, Any]:
    beside = {key: data[key] for key in BESIDE if key in data}
    return {
        key: value.get(agent) if isinstance(value, Mapping) else value
        for key, value in beside.items()
    }


def _is_state(data: Item) -> bool:
    return any(isinstance(data.get(key), Mapping) for key in (STATE, NESTED, "agent_state"))


def _states(data: Item, name: str | None = None) -> Iterator[tuple[str | None, Dicts]]:
    """Every agent's context in a state, those of teams within a team too."""
    if isinstance(data.get("agent_state"), Mapping):
        yield from _states(data["agent_state"], name)
    for key, state in (data.get(NESTED) or {}).items():
        if isinstance(state, Mapping):
            yield from _states(state, key.split("/")[0])  # before 0.4.9 with the team's id
    if isinstance(data.get(STATE), Mapping):
        messages = as_objects(data[STATE].get("messages") or [], f"{STATE}: messages")
        said = [each for i, message in enumerate(messages) for each in _dicts(message, i, name)]
        if any(message["role"] == "assistant" for message in said):
            yield name, said


def _heard_by_each(messages: Sequence[Item]) -> dict[str | None, Dicts]:
    names = dict.fromkeys(m["source"] for m in messages if _is_answer(m))
    if not names:
        raise DataError("no message has models_usage; no model answered in this run")
    return {name: list(_heard(messages, name)) for name in names}


def _is_answer(message: Item) -> bool:
    """Whether a model made a message: a call, or what it said to others."""
    said = _is_chat(message) or message["type"] == "ToolCallRequestEvent"
    return said and message["models_usage"] is not None


def _is_chat(message: Item) -> bool:
    """Whether others hear a message; events they do not."""
    return not str(message["type"]).endswith("Event")


def _heard(messages: Sequence[Item], name: str) -> Iterator[dict[str, Any]]:
    """What an agent heard and said in a run.

    Summaries of tool calls and handoffs are of AutoGen and not of a model, and are not repeated to
    the agent itself.
    """
    thought: str | None = None
    for index, message in enumerate(messages):
        kind, content = message["type"], message.get("content")
        if message["source"] != name:
            if kind == "HandoffMessage" and message.get("target") == name:
                for place, each in enumerate(as_objects(message.get("context") or [], "context")):
                    yield from _dicts(each, place, name)
            if _is_chat(message):
                said = _chat_text(content, f"messages[{index}]", images="<image>")
                yield {"role": "user", "name": message["source"], "content": said}
        elif kind == "CodeGenerationEvent":
            raise DataError(
                f"messages[{index}]: agent {name!r} ran code, of which a run does not hold all "
                "that its model saw; save the agent's state instead"
            )
        elif kind == "ThoughtEvent":
            thought = content
        elif kind == "ToolCallExecutionEvent":
            yield from _results(content, f"messages[{index}]")
        elif _is_answer(message):
            if isinstance(content, Mapping):
                content = json.dumps(content, ensure_ascii=False)  # as a model writes an object
            elif kind != "ToolCallRequestEvent":
                content = _chat_text(content, f"messages[{index}]", images=None)
            yield _assistant(content, thought, name, f"messages[{index}]")
            thought = None


def _dicts(message: Item, index: int, name: str | None) -> Iterator[dict[str, Any]]:
    """A message as a model client gets it."""
    what, content = f"messages[{index}]", message.get("content")
    match message.get("type"):
        case "SystemMessage":
            yield {"role": "system", "content": content}
        case "UserMessage":
            text = _chat_text(content, what, images=None)
            yield {"role": "user", "name": message.get("source"), "content": text}
        case "AssistantMessage":
            source = message.get("source")
            said = _assistant(content, message.get("thought"), source, what)
            yield said if name in (None, source) else {**said, "weight": 0}
        case "FunctionExecutionResultMessage":
            yield from _results(content, what)
        case other:
            raise DataError(f"{what}: type is {other!r}, which is no message of a model client")


def _chat_text(content: object, what: str, *, images: str | None) -> str:
    """The words of a message; an object is written as AutoGen writes it for others to read."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    if not isinstance(content, list):
        raise DataError(f"{what}: content is {shown(content)}; expected a text")
    if images is None and not all(isinstance(part, str) for part in content):
        raise DataError(f"{what} holds an image; the model reads text only")
    return "\n".join(part if isinstance(part, str) else str(images) for part in content)


def _assistant(content: Any, thought: Any, name: Any, what: str) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "name": name, "content": content}
    thinking = thought
    if not isinstance(content, str):
        thinking, said["content"] = split_thought(thought)
        said["tool_calls"] = [_call(call) for call in as_objects(content, f"{what}: content")]
    return {**said, "reasoning_content": thinking} if thinking else said


def _call(call: Item) -> dict[str, Any]:
    function = {"name": call.get("name"), "arguments": call.get("arguments")}
    return {"id": call.get("id"), "type": "function", "function": function}


def _results(content: object, what: str) -> Iterable[dict[str, Any]]:
    for result in as_objects(content, f"{what}: content"):
        yield {
            "role": "tool",
            "tool_call_id": result.get("call_id"),
            "name": result.get("name"),
            "content": result.get("content"),
        }
