"""ReAct text: thoughts, actions and observations in one text, as turns.

    Thought: I look it up.
    Action: get_weather
    Action Input: {'city': 'Rome'}
    Observation: [{'t': 9}]
    Thought: I now know the final answer
    Final Answer: 9 C

A thought and its action are an assistant turn, words and call; what was observed is a tool turn.
The labels themselves are left out, because the model's chat template writes calls in its own way;
so is the sentence "I now know the final answer", which the prompt dictates and which says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import shown
from agent_finetune.records import Message, ToolCall
from modelscope_agent_train.formats import repair

LABELS = ("Thought", "Action", "Action Input", "Observation", "Final Answer")
KNOWN = re.compile(r"I now know the final answer\s*\.?", re.IGNORECASE)
RESULT = re.compile(r"\s*<result>(?P<inside>.*?)</result>", re.DOTALL)
BRACKETS = ("{", "[", "(")
CALLS = re.compile(r"^[ \t]*Action:[^\n]*\n\s*Action ?Input:", re.MULTILINE)
"""What makes a text ReAct."""


def messages(text: str, what: str, labels: Collection[str] = LABELS) -> Iterator[Message]:
    """The turns that one assistant text holds, in order.

    Raises:
        DataError: An action without its input, an input that is no object, or an observation
            with no action before it.
    """
    words: list[str] = []
    calls: list[ToolCall] = []
    waiting = 0
    action: str | None = None
    for label, value in sections(text, labels):
        if label == "Action":
            _no_input(action, what)
            action = value
        elif label == "Action Input":
            call = _call(action, value, what)
            action = None
            calls += [call] if call else []
        elif label == "Observation":
            _no_input(action, what)
            if calls:
                yield Message(role="assistant", text=_said(words), tool_calls=tuple(calls))
                waiting, words, calls = len(calls), [], []
            if not waiting:
                raise DataError(f"{what}: an Observation with no Action before it")
            waiting -= 1
            yield Message(role="tool", text=observed(value))
        elif value:
            words.append(value)
    _no_input(action, what)
    if words or calls:
        yield Message(role="assistant", text=_said(words), tool_calls=tuple(calls))


def observed(text: str) -> str:
    """What a tool answered, without the `<result>` that AgentFabric puts around it."""
    match = RESULT.fullmatch(text.rstrip())
    return match["inside"].strip() if match else text.strip()


def sections(text: str, labels: Collection[str]) -> list[tuple[str, str]]:
    """The labels of a text with what stands behind each, in order; words before all have "".

    A label begins a line. Inside of `<result>`, and inside of a value that begins with a bracket
    and is whole only further on, it is part of the value.
    """
    names = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    found = list(re.finditer(rf"^[ \t]*(?P<label>{names})[ \t]*[:\uff1a]", text, re.MULTILINE))
    made = [("", text[: found[0].start()] if found else text)]
    index = 0
    while index < len(found):
        label, start = found[index]["label"], found[index].end()
        ends = [match.start() for match in found[index + 1 :]] + [len(text)]
        taken = _whole(text, start, ends) if label in ("Action Input", "Observation") else 0
        made.append((label, text[start : ends[taken]].strip()))
        index += taken + 1
    return [(label, value.strip()) for label, value in made]


def _whole(text: str, start: int, ends: list[int]) -> int:
    """Which of the ends closes the value that starts here; the first where none does."""
    value = text[start : ends[0]].strip()
    if value.startswith("<result>"):
        closed = (i for i, end in enumerate(ends) if "</result>" in text[start:end])
        return next(closed, 0)
    if len(ends) == 1 or not value.startswith(BRACKETS):
        return 0
    for index, end in enumerate(ends[:8]):
        try:
            with repair.noted():  # a look ahead is no repair
                repair.load_value(text[start:end].strip())
        except DataError:
            continue
        return index
    return 0


def _call(action: str | None, value: str, what: str) -> ToolCall | None:
    if action is None:
        raise DataError(f"{what}: an Action Input with no Action before it")
    if not action:
        if value:
            raise DataError(f"{what}: an Action Input, and its Action names nothing")
        return None  # ToolBench writes both labels where a step only thought
    if "\n" in action:
        raise DataError(f"{what}: Action is {shown(action)}; expected a name on one line")
    if not repair.unfenced(value):
        return ToolCall(name=action, arguments={})
    try:
        return ToolCall(name=action, arguments=repair.load_call(value).value)
    except DataError as error:
        raise DataError(f"{what}: Action Input of {action!r}: {error}") from error


def _no_input(action: str | None, what: str) -> None:
    if action:
        raise DataError(f"{what}: the Action {shown(action)} has no Action Input")


def _said(words: list[str]) -> str:
    return "\n".join(word for word in words if not KNOWN.fullmatch(word))
