"""An object of a schema: how it is asked for, and what is checked of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jsonschema  # type: ignore[import-untyped]
from agentscope.exception import StructuredOutputError
from agentscope.message import Msg, TextBlock, UserMsg
from pydantic import BaseModel

if TYPE_CHECKING:
    from agentscope.model import ChatResponse

Structure: TypeAlias = type[BaseModel] | dict[str, Any]
"""What the host describes an object with: a class of pydantic, or a JSON Schema."""


def schema_of(structure: Structure) -> Mapping[str, Any]:
    """The JSON Schema of a structure."""
    return structure if isinstance(structure, dict) else structure.model_json_schema()


def told(messages: list[Msg], schema: Mapping[str, Any]) -> list[Msg]:
    """A conversation, with what is wanted at its end."""
    wanted = TextBlock(
        text="<system-reminder>Answer with one JSON object of this JSON schema, and nothing else: "
        f"{json.dumps(schema, ensure_ascii=False)}</system-reminder>"
    )
    last = messages[-1]
    if last.role != "user":
        return [*messages, UserMsg(name="user", content=[wanted])]
    return [*messages[:-1], last.model_copy(update={"content": [*last.content, wanted]})]


def checked(answer: ChatResponse, structure: Structure) -> dict[str, Any]:
    """The object that an answer is.

    Raises:
        StructuredOutputError: It was cut off, or breaks a rule that generation was not held to.
    """
    if (reason := answer.metadata["stop_reason"]) != "stop":
        raise StructuredOutputError(
            f"the answer ended before the object was whole ({reason}); allow more max_tokens"
        )
    text = "".join(block.text for block in answer.content if isinstance(block, TextBlock))
    try:
        value = json.loads(text)
        if isinstance(structure, dict):
            jsonschema.validate(value, structure)
        else:
            structure.model_validate(value)
    except (ValueError, jsonschema.ValidationError) as error:
        raise StructuredOutputError(
            f"the answer {text!r} is not what was asked: {error}"
        ) from error
    if not isinstance(value, dict):
        raise StructuredOutputError(f"the answer is {value!r}; it must be an object")
    return value
