"""Events of AG2 1.x as OpenAI's chat dicts, in which every API of AutoGen meets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ag2.compact import CompactionSummary
from ag2.events import (
    BaseEvent,
    DataInput,
    Input,
    ModelRequest,
    ModelResponse,
    TextInput,
    ToolCallEvent,
    ToolResultEvent,
    ToolResultsEvent,
)
from ag2.exceptions import UnsupportedInputError, UnsupportedToolError
from ag2.tools.final import FunctionToolSchema

if TYPE_CHECKING:
    from ag2.tools.schemas import ToolSchema

PROVIDER = "autogen-finetune"
"""What responses of ours say under `provider`."""
THINKING = "thinking"
"""Key under which a message's `metadata`, or the `vendor_metadata` of a first call without words
beside it, keeps what the model thought; AG2's own event of it is not in the history."""

Dicts = list[dict[str, Any]]


class Serializer(Protocol):
    """What AG2 writes data with; `Agent.serializer`."""

    def encode(self, message: Any) -> bytes: ...


def to_dicts(
    events: Iterable[BaseEvent],
    prompt: Iterable[str],
    serializer: Serializer,
    *,
    own: Callable[[ModelResponse], bool] | None = None,
) -> Dicts:
    """A history as the model is shown it; events that are no part of the conversation are left out.

    Args:
        events: The history.
        prompt: System prompts, which become one.
        serializer: Writes data that is no text.
        own: Whether the model that learns said a response; others have `weight` 0. None takes all
            for its own.

    Raises:
        UnsupportedInputError: A request or a result holds what is no text, such as an image.
    """
    system = "\n".join(part for part in prompt if part)
    first: Dicts = [{"role": "system", "content": system}] if system else []
    return [*first, *_Turns(serializer, own).of(events)]


class _Turns:
    """One walk over a history.

    Where a tool ends the turn, AG2 keeps its result beside the calls and not as an answer to them,
    and words that it says in the model's name; the result is put where a template needs it.
    """

    def __init__(self, serializer: Serializer, own: Callable[[ModelResponse], bool] | None) -> None:
        self._serializer = serializer
        self._own = own
        self._open: list[str] = []
        """Calls that were not answered yet."""
        self._asked: set[str] = set()
        self._results: dict[str, ToolResultEvent] = {}

    def of(self, events: Iterable[BaseEvent]) -> Iterator[dict[str, Any]]:
        for event in events:
            if isinstance(event, ToolResultEvent):
                self._results[event.parent_id] = event
            elif isinstance(event, ToolResultsEvent):
                self._open = []
                yield from map(self._result, event.results)
            elif isinstance(event, ModelResponse):
                yield from self._response(event)
            elif isinstance(event, ModelRequest):
                yield from self._closed()
                yield {"role": "user", "content": self._text(event.parts)}
            elif isinstance(event, CompactionSummary):
                yield from self._closed()
                summary = f"[Summary of earlier conversation]\n{event.summary}"  # as AG2 says it
                yield {"role": "user", "content": summary}

    def _response(self, response: ModelResponse) -> Iterator[dict[str, Any]]:
        calls = [call for call in response.tool_calls.calls if call.id not in self._asked]
        if response.response_force and response.message is None and not calls:
            return  # AG2 hands calls that it does not make itself to who asked, once more
        yield from self._closed()
        self._open = [call.id for call in calls]
        self._asked.update(self._open)
        said: dict[str, Any] = {"role": "assistant", "content": response.content or ""}
        kept = response.metadata or (calls[0].vendor_metadata if calls else {})
        if kept.get(THINKING):
            said["reasoning_content"] = kept[THINKING]
        if calls:
            said["tool_calls"] = [_call(call) for call in calls]
        if self._own is not None and not self._own(response):
            said["weight"] = 0
        yield said

    def _closed(self) -> Iterator[dict[str, Any]]:
        """Results of calls that the conversation went on from without an answer to them."""
        results = [self._results[id] for id in self._open if id in self._results]
        self._open = []
        yield from map(self._result, results)

    def _result(self, event: ToolResultEvent) -> dict[str, Any]:
        return {
            "role": "tool",
            "tool_call_id": event.parent_id,
            **({"name": event.name} if event.name else {}),
            "content": self._text(event.result.parts),
        }

    def _text(self, parts: Iterable[Input]) -> str:
        return "\n".join(map(self._part, parts))

    def _part(self, part: Input) -> str:
        if isinstance(part, TextInput):
            return str(part.content)
        if isinstance(part, DataInput):
            return self._serializer.encode(part.data).decode()
        raise UnsupportedInputError(type(part).__name__, PROVIDER)


def _call(call: ToolCallEvent) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def to_tools(tools: Iterable[ToolSchema]) -> tuple[Mapping[str, Any], ...]:
    """Tools as OpenAI's dicts.

    Raises:
        UnsupportedToolError: One is not a function of this process but a service of some provider.
    """
    return tuple(map(_tool, tools))


def _tool(tool: ToolSchema) -> Mapping[str, Any]:
    if not isinstance(tool, FunctionToolSchema):
        raise UnsupportedToolError(tool.type, PROVIDER)
    function = tool.function
    return {
        "type": "function",
        "function": {
            "name": function.name,
            "description": function.description,
            "parameters": function.parameters or {"type": "object", "properties": {}},
        },
    }
