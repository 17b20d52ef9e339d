"""The paper's published rows (X-PLUG/Multi-LLM-Agent), whose prompts hold the history as one text.

    The conversation history is:
    user: q</s>assistant: thought
     Next: caller.</s>caller: Action: f
    Action Input: {}</s>observation: result</s>
    The thought of this step is: ...

The text is taken apart into messages, so that such a row is trained in the form in which it will
be served. The released code served other labels than it trained; here both come from `prompts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agent_finetune.errors import DataError
from agent_finetune.records import Example, Message, Role
from agent_finetune.roles.prompts import Next, Part, Plan, Step, read_backbone, read_plan
from agent_finetune.toolcalls.reading import read_arguments

HISTORY = "The conversation history is:\n"
SUMMARY = "Make a conclusion based on the conversation history:\n"
ASKED: Mapping[Part, str] = {
    Part.CALLER: "The thought of this step is:",
    Part.PLANNER: "You are the assistant to plan what to do next",
    Part.BACKBONE: "You should answer the action of next step",
}
"""What stands behind the history, by who is asked."""

_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "observation": "tool"}
_TURN = re.compile(
    rf"\s*(?P<who>{'|'.join(_ROLES)}|assistant|planner|caller|conclusion):[ ]?", re.IGNORECASE
)
_CALL = re.compile(r"^[ \t]*Action:(?P<name>[^\n]*)\n\s*Action ?Input:(?P<input>.*)\Z", re.M | re.S)
_DICTATED = re.compile(r"\n?\s*Base on the thought make an api call.*\Z", re.S)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One row, taken apart."""

    part: Part
    history: tuple[Message, ...]
    step: Step


def read_published(example: Example) -> Published | None:
    """A published row; None for any other example.

    Raises:
        DataError: Its history cannot be taken apart.
    """
    roles = tuple(message.role for message in example.messages)
    if roles != ("user", "assistant"):
        return None
    prompt, target = example.messages
    if prompt.text.startswith(SUMMARY):
        history = _history(prompt.text.removeprefix(SUMMARY))
        history, plan = _planned(history, Plan(thought="", next=Next.CONCLUDE))
        step = Step(plan=plan, answer=target.text)
        return Published(part=Part.SUMMARIZER, history=history, step=step)
    before, begins, rest = prompt.text.partition(HISTORY)
    part = max(ASKED, key=lambda part: rest.rfind(ASKED[part]))
    told, asked, behind = rest.rpartition(ASKED[part])
    if before.strip() or not begins or not asked:
        return None
    history = _history(told)
    if part is Part.CALLER:
        thought = replace(read_plan(_DICTATED.sub("", behind)), next=Next.CALL)
        history, plan = _planned(history, thought)
        return Published(part=part, history=history, step=Step(plan=plan, calls=target.tool_calls))
    if part is Part.PLANNER:
        return Published(part=part, history=history, step=Step(plan=read_plan(target.text)))
    step = read_backbone(target.text, target.tool_calls)
    return Published(part=part, history=history, step=step)


def _planned(history: Sequence[Message], plan: Plan) -> tuple[tuple[Message, ...], Plan]:
    """The history without the plan that it ends with, where it does; and the plan."""
    last = history[-1] if history else None
    if last is None or last.role != "assistant" or last.tool_calls:
        return tuple(history), plan
    said = read_plan(last.text)
    repeated = plan.thought and said.thought == plan.thought
    if said.next is not plan.next and not repeated:
        return tuple(history), plan
    return tuple(history[:-1]), plan if plan.thought else said


def _history(text: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    for who, said in _turns(text):
        last = messages[-1] if messages else None
        open_turn = last is not None and last.role == "assistant" and not last.tool_calls
        if who in _ROLES:
            messages.append(Message(role=_ROLES[who], text=said))
        elif who == "conclusion" and last is not None and open_turn:
            thought = read_plan(last.text).thought
            messages[-1] = Message(role="assistant", text=said, thinking=thought or None)
        elif who == "caller" and last is not None and open_turn:
            messages[-1] = _called(said, last.text)
        else:
            messages.append(_called(said, ""))
    return tuple(messages)


def _turns(text: str) -> Iterator[tuple[str, str]]:
    """Who said what; `</s>` inside of a turn, which no label follows, is a part of it."""
    who, said = "", ""
    for piece in text.split("</s>"):
        label = _TURN.match(piece)
        if label is not None:
            if who:
                yield who, said.strip()
            who, said = label["who"].lower(), piece[label.end() :]
        elif who:
            said += f"</s>{piece}" if piece.strip() else ""
        else:
            raise DataError("its history names nobody who speaks first")
    yield who, said.strip()


def _called(said: str, thought: str) -> Message:
    """A turn whose words may hold a call."""
    found = _CALL.search(said)
    if found is None:
        return Message(role="assistant", text="\n".join(filter(None, [thought, said])))
    calls = read_arguments(found["name"].strip(), found["input"].strip() or "{}")
    if not calls:
        raise DataError("the input of a call in its history is no JSON object")
    words = read_plan("\n".join(filter(None, [thought, said[: found.start()].strip()]))).thought
    return Message(role="assistant", text=words, tool_calls=calls)
