"""Answers of the engine as AutoGen 0.4 takes them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autogen_core import FunctionCall
from autogen_core.models import CreateResult, RequestUsage

from agent_finetune.contracts import FinishReason, Result
from autogen_finetune.thoughts import join_thought

if TYPE_CHECKING:
    from autogen_core.models._types import FinishReasons

FINISH: Mapping[FinishReason, FinishReasons] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "function_calls",
}
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')


def to_create_result(
    result: Result, tools: Sequence[Mapping[str, Any]], usage: RequestUsage
) -> CreateResult:
    """An answer; one that calls tools has its words and its thinking in `thought`.

    Args:
        result: The answer.
        tools: Tools that were offered.
        usage: Tokens of all that was generated for it.
    """
    calls = _calls(result, tools)
    finish = FINISH[result.finish]
    if calls and finish == "stop":
        finish = "function_calls"
    message = result.message
    return CreateResult(
        finish_reason=finish,
        content=calls or message.text,
        usage=usage,
        cached=False,
        thought=join_thought(message.thinking, message.text) if calls else message.thinking or None,
    )


def _calls(result: Result, tools: Sequence[Mapping[str, Any]]) -> list[FunctionCall]:
    calls = [
        FunctionCall(
            id=_new_id(),
            name=call.name,
            arguments=json.dumps(call.arguments, ensure_ascii=False),
        )
        for call in result.message.tool_calls
    ]
    names = [str(tool["function"]["name"]) for tool in tools]
    return calls + [_broken(raw, names) for raw in result.broken_calls]


def _new_id() -> str:
    """A fresh id of nine letters and digits, since Mistral's templates refuse others."""
    return secrets.token_hex(5)[:9]


def _broken(raw: str, names: Sequence[str]) -> FunctionCall:
    """A call whose arguments are no JSON, so that no host makes it and the model hears why."""
    found = _NAME.search(raw)
    name = found.group(1) if found else next((name for name in names if name in raw), "unknown")
    try:
        json.loads(raw)
    except ValueError:
        return FunctionCall(id=_new_id(), name=name, arguments=raw)
    return FunctionCall(id=_new_id(), name=name, arguments=f"not a call: {raw}")
