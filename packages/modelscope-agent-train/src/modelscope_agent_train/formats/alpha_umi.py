"""alpha-UMi (X-PLUG/Multi-LLM-Agent): ToolBench for a planner, a caller and a summarizer.

Three forms are read:

- raw (`raw_data_stage_1.json`): `tools`, `instruction` and `chains`, a whole trajectory in OpenAI's
  roles. Its calls become calls, `Finish` the final answer with the thought before it as thinking,
  which is the planner's, and all assistant turns are trained but those with `valid: false`. A
  user's turn that reproaches earlier attempts, which has it too, is kept: the answer refers to it.
- rendered (`train_{backbone,planner,caller,summarizer}.json`): `tools`, `history`, `input` and
  `target`. The prompt is the user's turn, the target the assistant's.
- the hub's copy (alpha-umi-toolbench-processed-v2): `conversations` of two turns, the prompt and
  the target, by `caller`, `conclusion` or `assistant`.

A rendered prompt begins with the list of APIs, one JSON object a line. They become the tools
offered and are cut, with the lines that dictate `Action:` and `Action Input:`; a target that has
these two becomes a call. The prompt holds the history as text, so no observation is ever trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_message, missing_key, shown
from agent_finetune.records import Example, Message, Row
from modelscope_agent_train.formats import repair, steps, toolbench, turns

FORMAT = "alpha_umi"
TARGETS = ("caller", "conclusion", "assistant", "planner")
LISTED = re.compile(
    r"\AYou have assess to the following apis:\s*?\n(?P<apis>(?:[ \t]*\{[^\n]*\n)*)\s*"
)
SUMMARY = "Make a conclusion based on the conversation history:"
ASKS = re.compile(r"\s*(?:assistant|caller|conclusion):\s*\Z")
DICTATED = re.compile(
    r"(?: in the following format:\n)?^Action: the name of api that should be called[^\n]*\n"
    r"Action Input: the api call request\.?\n?",
    re.MULTILINE,
)
LABELS = ("Action", "Action Input")


def fits(data: Mapping[str, Any]) -> bool:
    """Whether a row is a raw trajectory, or begins with one of the prompts, their typo and all."""
    if {"tools", "instruction", "chains"} <= data.keys():
        return True
    if {"tools", "history", "input", "target"} <= data.keys():
        return _is_prompt(data["input"])
    found = turns.glimpse(data)
    return (
        len(found) == 2
        and found[0].get("from") == "user"
        and found[1].get("from") in TARGETS
        and _is_prompt(found[0].get("value"))
    )


is_alpha_umi = turns.mostly(fits)


def read_row(row: Row) -> Example:
    """One trajectory, or one prompt and its target.

    Raises:
        DataError: A key is missing, or a turn or a tool cannot be read.
    """
    if "chains" in row.data:
        return _read_raw(row)
    if "target" in row.data:
        return _read_rendered(row, row.data.get("input"), row.data["target"], "input", "target")
    if "conversations" not in row.data:
        raise DataError(missing_key(row, "chains, target or conversations"))
    found = turns.turns(row)
    if len(found) != 2:
        raise DataError(f"conversations has {len(found)} turns; expected a prompt and its target")
    (asked, prompt), (answered, target) = found
    turns.role(prompt, asked, ("user",))
    if target.get("from") not in TARGETS:
        raise DataError(
            f"{answered}: from is {shown(target.get('from'))}; legal: {', '.join(TARGETS)}"
        )
    return _read_rendered(row, prompt.get("value"), target.get("value"), asked, answered)


def _read_raw(row: Row) -> Example:
    tools = [_tool(t, f"tools[{i}]") for i, t in enumerate(_listed(row.data.get("tools")))]
    dialogue = turns.Dialogue()
    for what, turn in turns.turns(row, "chains"):
        message = as_message(_repaired(turn, what), what)
        if message.role == "system":
            message = replace(message, text=toolbench.without_apis(message.text, what)[0])
        elif message.role == "user":
            message = replace(message, text=toolbench.BEGIN.sub("", message.text).strip())
        elif message.role == "assistant":
            message = toolbench.finished(message, what, apart=True)
        valid = str(turn.get("valid")).lower() != "false"
        dialogue.add(replace(message, trained=valid or message.role != "assistant"))
    return dialogue.example(row, tools)


def _repaired(turn: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """The turn with the arguments of its call parsed."""
    call = turn.get("function_call")
    if not isinstance(call, Mapping) or not isinstance(call.get("arguments"), str):
        return turn
    written = call["arguments"]
    try:
        arguments = repair.load_call(written).value if written.strip() else {}
    except DataError as error:
        name = shown(call.get("name"))
        raise DataError(f"{what}: arguments of {name}: {error}") from error
    return {**turn, "function_call": {**call, "arguments": arguments}}


def _read_rendered(row: Row, prompt: object, target: object, asked: str, answered: str) -> Example:
    for what, text in ((asked, prompt), (answered, target)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{what} is {shown(text)}; expected a text")
    text = ASKS.sub("", str(prompt))
    match = LISTED.match(text)
    tools: list[Mapping[str, Any]] = []
    if match:
        listed = [line for line in match["apis"].splitlines() if line.strip()]
        tools = [_api(line, f"{asked}: API {i}") for i, line in enumerate(listed, start=1)]
        text = DICTATED.sub("", text[match.end() :])
    dialogue = turns.Dialogue()
    dialogue.add(Message(role="user", text=text.strip()), *_target(str(target).strip(), answered))
    return dialogue.example(row, tools, last_only=True)


def _target(text: str, what: str) -> Iterator[Message]:
    if steps.CALLS.search(text):
        return steps.messages(text, what, LABELS)
    return iter([Message(role="assistant", text=text)])


def _api(line: str, what: str) -> Mapping[str, Any]:
    try:
        api = repair.load_call(line).value
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
    return _tool(api, what)


def _listed(tools: object) -> list[Mapping[str, Any]]:
    return turns.objects(tools or [], "tools")


def _tool(api: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """`{"Name", "function", "input": {name: "type, description"}}`; none is known as required."""
    told = api.get("input") or {}
    if not isinstance(told, Mapping):
        raise DataError(f"{what}: input is {shown(told)}; expected an object")
    properties = {}
    for name, words in told.items():
        kind, _, description = str(words).partition(",")
        kind = kind.strip().lower()
        known = kind in ("string", "number", "integer", "boolean", "object", "array")
        said = description.strip() if known else str(words).strip()
        properties[name] = {**({"type": kind} if known else {}), "description": said}
    schema = {"type": "object", "properties": properties}
    return turns.tool(api.get("Name"), api.get("function"), schema, what)


def _is_prompt(text: object) -> bool:
    return isinstance(text, str) and (LISTED.match(text) is not None or text.startswith(SUMMARY))
