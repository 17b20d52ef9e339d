"""OpenAI's chat dicts, which are what every API of AutoGen is brought to, as kernel messages.

One reading for all: the same conversation reaches the model as the same token ids, whichever API
it comes through, and the same again when it is trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.readers.chat import as_message, as_objects
from agent_finetune.records import Message


def to_messages(messages: Iterable[Mapping[str, Any]], key: str = "messages") -> list[Message]:
    """Chat dicts as the model is to see them.

    Results of parallel tool calls under `tool_responses` become a tool turn each, None content is
    no text, and arguments become objects. Where several speak as users, as in a group chat, the
    texts of all but the first begin with a name.

    Args:
        messages: With the roles system, user, assistant, tool and function.
        key: What they are called in messages.

    Raises:
        DataError: A dict is no chat message; its place is named.
    """
    return with_speakers(list(unrolled(messages, key)))


def unrolled(messages: Iterable[Mapping[str, Any]], key: str) -> Iterator[Message]:
    """Each message as it is, and results that lie together in one as a turn each."""
    for index, message in enumerate(messages):
        what = f"{key}[{index}]"
        if not message.get("tool_responses"):
            yield as_message(_readable(message), what)
            continue
        responses = as_objects(message["tool_responses"], f"{what}: tool_responses")
        for number, response in enumerate(responses):
            turn = {"role": "tool", **response}
            yield as_message(turn, f"{what}: tool_responses[{number}]")
        if message.get("role") != "tool":  # a tool message's own text repeats its responses
            yield as_message(_readable(message), what)


def _readable(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message, and if it is an assistant's with calls that do not parse, as context only.

    Hosts keep such a call beside the error that they answered it with. No chat template can write
    it, so it is shown without arguments.
    """
    calls = message.get("tool_calls") or ()
    if isinstance(calls, str) or all(_parses(call) for call in calls):
        return message
    shown = [
        call if _parses(call) else {**call, "function": {**call["function"], "arguments": "{}"}}
        for call in calls
    ]
    return {**message, "tool_calls": shown, "weight": 0}


def _parses(call: Any) -> bool:
    """Whether arguments that a model wrote are an object; what has no such text is not judged."""
    function = call.get("function") if isinstance(call, Mapping) else None
    said = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(said, str) or not said:
        return True
    try:
        return isinstance(strictjson.loads(said), Mapping)
    except DataError:
        return False


def with_speakers(messages: Sequence[Message]) -> list[Message]:
    """Say who speaks where several do, for chat templates print no names.

    The first to speak as a user is not named, everyone else is: what stands there already never
    changes when somebody joins, so that a conversation is trained on as it was served.
    """
    first = next((m.name for m in messages if m.role == "user" and m.name), None)
    return [
        replace(message, text=f"{message.name}: {message.text}")
        if message.role == "user" and message.name and message.name != first
        else message
        for message in messages
    ]
