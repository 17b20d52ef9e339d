"""One recording, and what it becomes outside of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agent_finetune.contracts import Exchange
from agent_finetune.records import Example, Message

Redacted = Literal["prompt", "answer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What somebody said about a generation; at least one of the four is there."""

    time: float
    """Seconds since the epoch."""
    value: bool | None = None
    """Thumbs up or down."""
    correction: str | Message | None = None
    """What the answer should have been; a message where it is more than words."""
    reward: float | None = None
    """The higher the better."""
    comment: str | None = None
    redacted: bool = False
    """Something was taken out of the correction or the comment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A generation as it was recorded, with what was said about it."""

    exchange: Exchange
    model: str
    adapter: str | None
    agent: str | None = None
    """Name of the agent that asked the model."""
    session: str | None = None
    """What the host calls the conversation."""
    reply: str | None = None
    """What the host calls the reply that this generation is a step of."""
    redacted: Redacted | None
    """Where something was taken out, and with it every exact token id; `answer`: there at least."""
    feedback: Sequence[Feedback] = ()
    """The oldest first."""

    @property
    def id(self) -> str:
        """The generation's id."""
        return self.exchange.result.id

    @property
    def judgement(self) -> Feedback | None:
        """All feedback as one: of each kind the newest counts. None when there is none."""
        if not self.feedback:
            return None
        merged = self.feedback[0]
        for item in self.feedback[1:]:
            merged = Feedback(
                time=item.time,
                value=merged.value if item.value is None else item.value,
                correction=item.correction or merged.correction,
                reward=merged.reward if item.reward is None else item.reward,
                comment=item.comment or merged.comment,
                redacted=(item if item.correction else merged).redacted,
            )
        return merged

    @property
    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that the model was told of."""
        request = self.exchange.request
        return () if request.tool_choice == "none" else tuple(request.tools)

    @property
    def flaw(self) -> str | None:
        """Why the answer is not whole: as it was said, to its own end, with calls that read."""
        result = self.exchange.result
        message = result.message
        flaws = {
            "redacted": self.redacted == "answer",
            "cut short": result.finish not in ("stop", "tool_calls"),
            "calls cannot be read": bool(result.broken_calls),
            "nothing said": not (message.text.strip() or message.tool_calls),
        }
        return next((flaw for flaw, found in flaws.items() if found), None)

    @property
    def not_to_imitate(self) -> str | None:
        """Why the answer is no demonstration; None when it is one."""
        judged = self.judgement
        bad = judged is not None and (judged.value is False or judged.correction is not None)
        return "judged bad" if bad else self.flaw


def to_example(recording: Recording, source: str) -> Example:
    """What was asked and answered; only the answer is trained, by its exact ids if it has any."""
    context = (replace(m, trained=False) if m.role == "assistant" else m
               for m in recording.exchange.request.messages)  # fmt: skip
    return Example(
        messages=(*context, recording.exchange.result.message),
        tools=recording.tools,
        id=recording.id,
        source=source,
    )


def to_shape(recording: Recording) -> dict[str, Any] | None:
    """The judgement as `feedback.read_feedback` takes it; None when there is none to learn from.

    A correction says more than a thumb, and a thumb more than a reward: one of them is answered.
    From words that were redacted, the model would learn the words that were put there: none.
    """
    judged = recording.judgement
    if judged is None or recording.redacted == "answer":
        return None
    if judged.correction is not None:
        return None if judged.redacted else {"id": recording.id, "correction": judged.correction}
    if judged.value is not None:
        return {"id": recording.id, "label": judged.value}
    if judged.reward is not None:
        return {"id": recording.id, "reward": judged.reward}
    return None


def messages_row(recording: Recording) -> dict[str, Any]:
    """A row of OpenAI's fine-tuning files; earlier turns of the assistant have `weight` 0."""
    earlier = [
        openai_message(message) | ({"weight": 0} if message.role == "assistant" else {})
        for message in recording.exchange.request.messages
    ]
    row = {"messages": [*earlier, openai_message(recording.exchange.result.message)]}
    return row | _offered(recording) | {"id": recording.id}


def feedback_row(recording: Recording) -> dict[str, Any] | None:
    """The judgement with the prompt and the answer that it is about, complete without the store."""
    shape = to_shape(recording)
    if shape is None:
        return None
    said = [openai_message(recording.exchange.result.message)]
    row = {"prompt": [openai_message(m) for m in recording.exchange.request.messages]}
    if "correction" in shape:
        better = shape.pop("correction")
        if isinstance(better, str):
            better = Message(role="assistant", text=better)
        row |= {"chosen": [openai_message(better)], "rejected": said}
    else:
        row["completion"] = said
    return row | _offered(recording) | shape


def openai_message(message: Message) -> dict[str, Any]:
    """A message as OpenAI's chat API writes it; thinking is under `reasoning_content`."""
    item: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking:
        item["reasoning_content"] = message.thinking
    if message.tool_calls:
        item["tool_calls"] = [
            {
                "id": call.id or f"call{number:05d}",
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(dict(call.arguments), ensure_ascii=False),
                },
            }
            for number, call in enumerate(message.tool_calls, 1)
        ]
    if message.tool_call_id is not None:
        item["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        item["name"] = message.name
    return item


def _offered(recording: Recording) -> dict[str, Any]:
    return {"tools": list(recording.tools)} if recording.tools else {}
