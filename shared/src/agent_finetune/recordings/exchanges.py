"""Exchanges as JSON and back: what a record holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from agent_finetune.contracts import Exchange, Request, Result, Usage
from agent_finetune.errors import PluginError
from agent_finetune.records import Generation, Message, ToolCall

_PLAIN = {spec.name: spec.default for spec in fields(Message) if spec.name != "role"}
"""Fields of a message that are left out where they hold what they hold by default."""


def to_record(
    exchange: Exchange,
    *,
    model: str,
    adapter: str | None,
    agent: str | None = None,
    session: str | None = None,
    reply: str | None = None,
) -> dict[str, Any]:
    """The record of an exchange, of JSON's types only.

    Keys: id, time, model, adapter, revision, agent, session, reply; `request` with messages, tools
    and settings; `result` with message, finish, usage and broken_calls.
    """
    request, result = exchange.request, exchange.result
    served = result.message.generation
    ids = served.prompt_ids if served else ()
    settings = {spec.name: getattr(request, spec.name) for spec in fields(Request)}
    del settings["messages"], settings["tools"]
    return {
        "id": result.id,
        "time": exchange.time,
        "model": model,
        "adapter": adapter,
        "revision": result.revision,
        "agent": agent,
        "session": session,
        "reply": reply,
        "request": {
            "messages": [_message(message, ids) for message in request.messages],
            "tools": list(request.tools),
            "settings": settings | {"stop": list(request.stop)},
        },
        "result": {
            "message": _message(result.message, ()),
            "finish": result.finish,
            "usage": asdict(result.usage),
            "broken_calls": list(result.broken_calls),
        },
    }


def to_row(record: Mapping[str, Any], cleaned: Mapping[str, Any]) -> dict[str, Any]:
    """What is written for a record that has passed redaction.

    Raises:
        PluginError: It is no record of this generation any more.
    """
    try:
        redacted = None
        if cleaned["result"] != record["result"]:
            redacted = "answer"
        elif cleaned["request"] != record["request"]:
            redacted = "prompt"
        if redacted is not None:
            cleaned = without_ids(cleaned)
        message = to_exchange(cleaned).result.message
        row = {name: cleaned[name] for name in record}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PluginError(
            f"finetune_redact_record answered what is no record any more ({error!r}); a redaction "
            "changes strings and leaves the rest"
        ) from error
    if (row["id"], row["time"]) != (record["id"], record["time"]):
        raise PluginError(f"finetune_redact_record changed the id or time of {record['id']!r}")
    return {**row, "text": storable(message.text.strip()), "redacted": redacted}


def said_message(message: Message) -> dict[str, Any]:
    """An answer that nobody generated, a correction, of JSON's types only."""
    return _message(replace(message, generation=None, trained=True), ())


def read_said(item: Mapping[str, Any]) -> Message:
    """What `said_message` wrote."""
    return _read_message(item, ())


def storable(text: str) -> str:
    """SQLite's strings are UTF-8, which halves of surrogate pairs are not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def without_ids(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without token ids; those of earlier turns go too."""
    request, result = record["request"], record["result"]
    messages = [_no_generation(message) for message in request["messages"]]
    return {
        **record,
        "request": {**request, "messages": messages},
        "result": {**result, "message": _no_generation(result["message"])},
    }


def to_exchange(record: Mapping[str, Any]) -> Exchange:
    """The exchange of a record.

    Raises:
        KeyError, TypeError, ValueError: It was changed into something else on its way.
    """
    request, result = record["request"], record["result"]
    message = _read_message(result["message"], ())
    ids = message.generation.prompt_ids if message.generation else ()
    settings = {**request["settings"], "stop": tuple(request["settings"]["stop"])}
    return Exchange(
        request=Request(
            messages=tuple(_read_message(item, ids) for item in request["messages"]),
            tools=tuple(request["tools"]),
            **settings,
        ),
        result=Result(
            id=record["id"],
            message=message,
            finish=result["finish"],
            revision=record["revision"],
            usage=Usage(**result["usage"]),
            broken_calls=tuple(result["broken_calls"]),
        ),
        time=record["time"],
    )


def _message(message: Message, served: Sequence[int]) -> dict[str, Any]:
    item: dict[str, Any] = {"role": message.role}
    for name, default in _PLAIN.items():
        value = getattr(message, name)
        if value != default:
            item[name] = value
    if message.tool_calls:
        item["tool_calls"] = [
            {"name": call.name, "arguments": dict(call.arguments), "id": call.id}
            for call in message.tool_calls
        ]
    if message.generation:
        item["generation"] = _generation(message.generation, served)
    return item


def _generation(generation: Generation, served: Sequence[int]) -> dict[str, Any]:
    prompt, ids = generation.prompt_ids, list(generation.ids)
    origin = {} if generation.renderer is None else {"renderer": generation.renderer}
    # A turn's prompt is as a rule how the next one's begins: its length says it all, where ids in
    # full would make a conversation's record grow with the square of its turns.
    if served[: len(prompt)] == prompt:
        return {"prompt_ids": len(prompt), "ids": ids, **origin}
    return {"prompt_ids": list(prompt), "ids": ids, **origin}


def _read_message(item: Mapping[str, Any], served: Sequence[int]) -> Message:
    values = {name: item[name] for name in _PLAIN if name in item}
    values["tool_calls"] = tuple(ToolCall(**call) for call in item.get("tool_calls", ()))
    for call in values["tool_calls"]:
        if not isinstance(call.name, str) or not isinstance(call.arguments, Mapping):
            raise TypeError(f"a call of {call.name!r:.60} with {call.arguments!r:.60}")
    if generation := item.get("generation"):
        prompt = generation["prompt_ids"]
        values["generation"] = Generation(
            prompt_ids=tuple(served[:prompt] if isinstance(prompt, int) else prompt),
            ids=tuple(generation["ids"]),
            renderer=generation.get("renderer"),
        )
    return Message(role=item["role"], **values)


def _no_generation(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "generation"}
