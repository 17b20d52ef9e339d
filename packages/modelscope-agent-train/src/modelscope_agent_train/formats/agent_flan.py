"""Agent-FLAN (internlm; seven splits), into Examples.

    {"id": "x", "conversation": [
      {"role": "system", "content": "You are a assistant who ...", "loss": false},
      {"role": "user", "content": "What is the tool you want to use", "loss": false},
      {"role": "assistant", "content": "Tool: f", "loss": true}]}

Most splits take a call apart into questions and answers, on purpose: they teach to choose a tool
and its arguments as conversation, and stay words. The ReAct splits that list their tools (as JSON
or Python behind "utilize external tools") become calls of these tools; there, what a user's or
system's turn says behind `Response:` is a tool's result. A ReAct row that calls anything that is
not in its list stays words as a whole. `loss: false` is context only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.records import Example, Message, Row
from modelscope_agent_train.formats import repair, steps, turns
from modelscope_agent_train.formats.agentinstruct import trained

FORMAT = "agent_flan"
KEY = "conversation"
LEGAL = ("system", "user", "assistant")
LABELS = ("Thought", "Action", "Action Input", "ActionInput", "Final Answer", "FinalAnswer")
LISTED = re.compile(
    r"external tools[^\n]*?[.:]\s*(?P<tools>\[.*?\])\s*"
    r"To use a tool, please (?:use|response with) the following format:.*?(?:Begin!|\Z)",
    re.DOTALL,
)
RESPONSE = re.compile(r"\s*(?:Response|Observation)[ \t]*:[ \t]*(?P<inside>.*)", re.DOTALL)


def fits(data: Mapping[str, Any]) -> bool:
    """Whether a row has its turns under `conversation`, and `loss` on every one of them."""
    found = turns.glimpse(data, KEY)
    return bool(found) and all(
        "role" in turn and "content" in turn and isinstance(turn.get("loss"), bool)
        for turn in found
    )


is_agent_flan = turns.mostly(fits)


def read_row(row: Row) -> Example:
    """One conversation, as words or as calls of the tools that its system prompt lists.

    Raises:
        DataError: A turn cannot be read, or `loss` is true on none of them.
    """
    read = []
    for what, turn in turns.turns(row, KEY):
        role = turns.role(turn, what, LEGAL, "role")
        text = turns.said(turn, what, "content").strip()
        learned = trained(turn, what) or role != "assistant"
        read.append(Message(role=role, text=text, trained=learned))
    called = _as_calls(read)
    messages, tools = called or (read, [])
    dialogue = turns.Dialogue()
    dialogue.add(*messages)
    return dialogue.example(row, tools)


def _as_calls(
    read: Sequence[Message],
) -> tuple[list[Message], list[Mapping[str, Any]]] | None:
    """The turns with calls of the tools listed; None where they are not all ReAct of these."""
    system = next((m for m in read if m.role == "system" and LISTED.search(m.text)), None)
    if system is None or not any(
        m.role == "assistant" and steps.CALLS.search(m.text) for m in read
    ):
        return None
    try:
        with repair.noted() as made:
            said, tools = _without_tools(system.text)
            names = {tool["function"]["name"] for tool in tools}
            messages: list[Message] = []
            for message in read:
                if message is system:
                    messages += [replace(message, text=said)] if said else []
                elif message.role == "assistant":
                    messages += _steps(message, names)
                else:
                    messages.append(_result(message, messages))
    except DataError:
        return None  # words it stays: nothing of it is lost
    repair.note(*made)
    return messages, tools


def _steps(message: Message, names: set[str]) -> list[Message]:
    made = list(steps.messages(message.text, "", LABELS))
    if any(call.name not in names for step in made for call in step.tool_calls):
        raise DataError("a call of a tool that is not listed")
    return [replace(step, trained=message.trained) for step in made]


def _result(message: Message, before: Sequence[Message]) -> Message:
    match = RESPONSE.fullmatch(message.text)
    if match is None or not before or not before[-1].tool_calls:
        return message
    return Message(role="tool", text=match["inside"].strip())


def _without_tools(text: str) -> tuple[str, list[Mapping[str, Any]]]:
    match = LISTED.search(text)
    assert match is not None
    listed = turns.objects(repair.load_value(match["tools"]).value, "tools")
    rest = (text[: match.start("tools")].strip(), text[match.end() :].strip())
    return "\n\n".join(filter(None, rest)), [_tool(each) for each in listed]


def _tool(each: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool as lagent lists it: parameters with types in capitals, the required ones beside."""
    parameters = each.get("parameters")
    if isinstance(parameters, list):
        needed = each.get("required") or []
        parameters = [
            {**p, "type": str(p["type"]).lower()} if isinstance(p, Mapping) and "type" in p else p
            for p in parameters
        ]
        schema = dict(turns.json_schema(parameters, "parameters"))
        schema["required"] = [name for name in schema["properties"] if name in needed]
        parameters = schema
    return turns.tool(each.get("name"), each.get("description"), parameters, "tools")
