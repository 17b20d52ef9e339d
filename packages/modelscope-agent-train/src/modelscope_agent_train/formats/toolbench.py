r"""ToolBench (ToolLLaMA's toolllama_G123_*.json, and swift/ToolBench), into Examples.

A row is one step of a trajectory: its turns so far, and the step to learn. The step before is in a
row of its own, so only the last assistant turn is trained; the earlier ones are context.

    {"id": "Step 4: query", "conversations": [
      {"from": "system", "value": "You are AutoGPT, ... access to the following APIs: [{...}]"},
      {"from": "user", "value": "\nquery\nBegin!\n"},
      {"from": "assistant", "value": "\nThought: t\nAction: f\nAction Input: {\"k\": 1}"},
      {"from": "function", "value": "{\"error\": \"\", \"response\": \"...\"}"}, ...

The list of APIs is Python's repr; swift's copy has it under `tools`, and calls `function` `tool`.
The action `Finish` is how ToolBench says its final answer, and becomes the assistant's words; with
`give_up_and_restart` these are the ones that the prompt asks for. So `Finish` is not offered as a
tool, and what the prompt says about it and about the text form is cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import shown
from agent_finetune.records import Example, Message, Row, ToolCall
from modelscope_agent_train.formats import steps, turns

FORMAT = "toolbench"
LEGAL = ("system", "user", "assistant", "function", "tool")
LABELS = ("Thought", "Action", "Action Input")
FINISH = "Finish"
GIVE_UP = "I give up and restart."
OFFERED = re.compile(
    r"\s*Specifically, you have access to the following APIs:\s*(?P<apis>\[.*)", re.S
)
DICTATED = (
    re.compile(
        r"[ \t]*Your output should follow this format:\s*Thought:?\s*Action:?\s*Action Input:?"
    ),
    re.compile(r"^1\.ALWAYS call [^\n]*Finish[^\n]*\n?(?:2\.)?", re.MULTILINE),
)
"""What the prompt says about the text form and about `Finish`."""
BEGIN = re.compile(r"\s*Begin!\s*\Z")


def fits(data: Mapping[str, Any]) -> bool:
    """Whether AutoGPT is told its APIs, or tools come beside an assistant that speaks ReAct."""
    found = turns.glimpse(data)
    if any(turn.get("from") == "system" and _is_prompt(turn.get("value")) for turn in found):
        return True
    return "tools" in data and any(
        turn.get("from") == "assistant" and steps.CALLS.search(str(turn.get("value")))
        for turn in found
    )


is_toolbench = turns.mostly(fits)


def read_row(row: Row) -> Example:
    """One step; `conversations` is a list, or a string of one in Python or JSON.

    Raises:
        DataError: A turn, an API or a step cannot be read, or the last turn is not the assistant's.
    """
    dialogue = turns.Dialogue()
    tools = apis(row.data.get("tools") or [], "tools")
    for what, turn in turns.turns(row):
        role, text = turns.role(turn, what, LEGAL), turns.said(turn, what)
        if role == "assistant":
            said = list(steps.messages(text, what, LABELS)) or [Message(role=role)]
            dialogue.add(*(finished(message, what) for message in said))
            continue
        if role == "system":
            text, listed = without_apis(text, what)
            tools += listed
        elif role == "user":
            text = BEGIN.sub("", text).strip()
        dialogue.add(Message(role=role, text=text))
    return dialogue.example(row, tools, last_only=True)


def without_apis(text: str, what: str) -> tuple[str, list[Mapping[str, Any]]]:
    """A system prompt without its list of APIs and the form that it dictates, and the APIs.

    Raises:
        DataError: The list cannot be read.
    """
    tools: list[Mapping[str, Any]] = []
    if match := OFFERED.search(text):
        end = match["apis"].rfind("]") + 1
        tools = apis(match["apis"][:end], f"{what}: APIs")
        text = text[: match.start()] + match["apis"][end:]
    for dictated in DICTATED:
        text = dictated.sub("", text)
    return text.strip(), tools


def apis(value: object, what: str) -> list[Mapping[str, Any]]:
    """A list of APIs as tools, bare or in OpenAI's form, `Finish` left out."""
    offered = []
    for index, item in enumerate(turns.objects(value, what)):
        api = item.get("function", item)
        if not isinstance(api, Mapping):
            raise DataError(f"{what}[{index}].function is {shown(api)}; expected an object")
        if api.get("name") != FINISH:
            where = f"{what}[{index}]"
            told = api.get("description"), api.get("parameters")
            offered.append(turns.tool(api.get("name"), *told, where))
    return offered


def finished(message: Message, what: str, *, apart: bool = False) -> Message:
    """The turn, with the action `Finish` turned into the words of a final answer.

    A thought stays before the answer, unless one of the two repeats the other.

    Args:
        message: An assistant's turn.
        what: Names it in an error.
        apart: The thought becomes the turn's thinking instead, for a reader that tells both apart.
    """
    ends = [call for call in message.tool_calls if call.name == FINISH]
    if not ends:
        return message
    if len(message.tool_calls) > 1:
        raise DataError(f"{what}: {FINISH} beside another action; it must stand alone")
    thought, answer = message.text.strip(), _answer(ends[0], what)
    if apart:
        return replace(message, text=answer, thinking=thought or None, tool_calls=())
    parts = [answer] if thought in answer else [thought] if answer in thought else [thought, answer]
    return replace(message, text="\n\n".join(parts), tool_calls=())


def _answer(call: ToolCall, what: str) -> str:
    answer = call.arguments.get("final_answer")
    if call.arguments.get("return_type") == "give_up_and_restart" or answer is None:
        return GIVE_UP
    if not isinstance(answer, str):
        raise DataError(f"{what}: final_answer is {shown(answer)}; expected a string")
    return answer.strip()


def _is_prompt(text: object) -> bool:
    return isinstance(text, str) and "You are AutoGPT" in text and OFFERED.search(text) is not None
