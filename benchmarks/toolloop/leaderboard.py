"""Questions of the Berkeley Function Calling Leaderboard, continued to a result and an answer.

The leaderboard ends with the call. What a function would give back is made up here, of the kind
that its name promises, and the answer says it; AgentScope's loop lays the conversation out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from agentscope.tool import FunctionTool

from agent_finetune.records import Example

from .loop import ALLOWED
from .questions import outcome
from .teaching import Lesson


def lesson(example: Example, r: random.Random) -> Lesson:
    """The question as a conversation that goes on to an answer."""
    call = example.messages[-1].tool_calls[0]
    functions = [tool["function"] for tool in example.tools]
    described = next(f for f in functions if f["name"] == call.name)
    result, answer = outcome(call, str(described.get("description", "")), r)
    return Lesson(
        request=example.messages[0].text,
        tools=tuple(_tool(function, result) for function in functions),
        calls=(call,),
        answer=answer,
    )


def _tool(function: Mapping[str, Any], result: Any) -> FunctionTool:
    return FunctionTool(
        _giving(result),
        name=function["name"],
        description=function.get("description"),
        input_schema=ordered(function.get("parameters") or {"type": "object", "properties": {}}),
        permission=ALLOWED,
    )


def _giving(result: Any) -> Callable[..., Any]:
    def give(**_: Any) -> Any:
        return result

    return give


def ordered(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with its keys in the order of those that AgentScope makes of Python functions.

    pydantic sorts the keys of a schema, and leaves properties in the order of the arguments.
    """
    made = {key: schema[key] for key in sorted(schema)}
    if isinstance(properties := schema.get("properties"), Mapping):
        made["properties"] = {
            name: ordered(inner) if isinstance(inner, Mapping) else inner
            for name, inner in properties.items()
        }
    if isinstance(items := schema.get("items"), Mapping):
        made["items"] = ordered(items)
    return made
