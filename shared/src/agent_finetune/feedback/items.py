"""The shapes in which people write down what they think of an answer.

Accepted items, whose answers are texts, `records.Message`, OpenAI messages or lists of these:

| item | read as |
|---|---|
| `(chosen, rejected)` | `Pair` |
| `{"chosen", "rejected"[, "prompt" or "messages"][, "tools"]}` | `Pair` |
| `{"input": {"messages"[, "tools"]}, "preferred_output", "non_preferred_output"}` | `Pair` |
| `{"messages": [..., assistant], "rejected_response"}` | `Pair` |
| `{"correction"}`, with an answer or what it is about | `Pair` |
| `{"label"}` or `{"feedback"}`: up, down, +1, -1, true, false; the same | `Thumb` |
| `{"reward"}`; the same | `Reward` |
| `{"messages": [..., assistant]}`, `{"prompt", "completion"}`, or a text | `Demonstration` |
| `Preference`, `Verdict`, `Example` | what they are |

What it is about: `"id"` of a generation, `"turn"` of the thread, or the `"prompt"` itself.
An answer: `{"prompt", "completion"}`, `{"completion"}`, or `{"messages": [..., assistant]}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.feedback.shapes import About, Demonstration, Pair, Reward, Shape, Thumb
from agent_finetune.feedback.traces import Turns
from agent_finetune.feedback.turns import as_answer, as_prompt, as_sides, same_turns, with_lead
from agent_finetune.feedback.words import says
from agent_finetune.readers.chat import as_tools, listed, shown
from agent_finetune.records import BadRow, Example, Message, Preference, Verdict

Item = Mapping[str, Any]
THUMBS: Mapping[str, bool] = {
    **dict.fromkeys(("up", "+1", "1", "true", "good", "\N{THUMBS UP SIGN}"), True),
    **dict.fromkeys(("down", "-1", "false", "bad", "\N{THUMBS DOWN SIGN}"), False),
}
MARKS: Mapping[str, tuple[str, ...]] = {
    "a pair": ("chosen", "rejected"),
    "a pair as OpenAI writes it": ("preferred_output", "non_preferred_output"),
    "an answer and a rejected response": ("rejected_response",),
    "a correction": ("correction",),
    "a judged answer": ("label",),
    "a thumb": ("feedback",),
    "a rewarded answer": ("reward",),
}
"""Kinds of item, each with the keys that no other kind has."""


def shape_of(item: object, about: About) -> Shape:
    """Read one item.

    Raises:
        DataError: It is of no known shape or could be two; the reason alone, without its place.
    """
    if isinstance(item, BadRow):
        raise DataError(item.reason)
    if isinstance(item, Preference | Verdict | Example):
        return _record(item, about)
    if isinstance(item, str):
        return _demonstration(about, as_answer(item, "the text"))
    if isinstance(item, Mapping):
        return _mapping({key: value for key, value in item.items() if value is not None}, about)
    if isinstance(item, list | tuple):
        return _positional(item, about)
    raise DataError(f"is {shown(item)}; expected a pair, an object or a text")


def _record(item: Preference | Verdict | Example, about: About) -> Shape:
    about = replace(about, id=item.id, source=item.source or about.source, tools=item.tools)
    if isinstance(item, Example):
        return _demonstration(replace(about, prompt=()), item.messages)
    about = replace(about, prompt=item.prompt)
    if isinstance(item, Verdict):
        return Thumb(about=about, good=item.good, answer=(item.completion,))
    return _pair(about, (item.chosen,), (item.rejected,))


def _positional(item: Sequence[Any], about: About) -> Pair:
    if len(item) != 2:
        legal = "expected (chosen, rejected), or an object with 'messages' for a conversation"
        raise DataError(f"is a list of {len(item)} items; {legal}")
    if isinstance(item, list) and all(isinstance(side, Message | Mapping) for side in item):
        raise DataError(
            "could be a pair of two answers or a conversation of two turns; write "
            "{'chosen': ..., 'rejected': ...} or {'messages': [...]}"
        )
    return _pair(about, *as_sides(item, ("chosen", "rejected")))


def _mapping(item: Item, about: About) -> Shape:
    kinds = [kind for kind, keys in MARKS.items() if any(key in item for key in keys)]
    if len(kinds) > 1:
        named = " or ".join(f"{kind} ({', '.join(map(repr, MARKS[kind]))})" for kind in kinds)
        raise DataError(f"could be {named}; keep the keys of one")
    about = replace(about, id=str(item.get("id", "")), turn=_turn_index(item.get("turn")))
    about = replace(about, tools=as_tools(item.get("tools") or item.get("functions")))
    return READ[kinds[0] if kinds else ""](item, about)


def _read_pair(item: Item, about: About) -> Pair:
    chosen, rejected = as_sides([_value(item, key) for key in MARKS["a pair"]], MARKS["a pair"])
    if "messages" in item and same_turns(as_answer(item["messages"], "messages", "user"), chosen):
        item = {key: value for key, value in item.items() if key != "messages"}  # said twice
    prompt, answer = _question(item)
    if answer is not None:
        raise DataError("has an answer ('messages' or 'completion') beside chosen and rejected")
    return _pair(replace(about, prompt=prompt), chosen, rejected)


def _read_openai(item: Item, about: About) -> Pair:
    asked = _value(item, "input")
    if not isinstance(asked, Mapping) or "messages" not in asked:
        raise DataError(f"input is {shown(asked)}; expected an object with 'messages'")
    about = replace(
        about,
        prompt=as_prompt(asked["messages"], "input.messages"),
        tools=as_tools(asked.get("tools")),
    )
    keys = MARKS["a pair as OpenAI writes it"]
    return _pair(about, *as_sides([_value(item, key) for key in keys], keys))


def _read_rejected(item: Item, about: About) -> Pair:
    prompt, chosen = _question(item)
    if prompt is None or chosen is None:
        raise DataError("has no chosen answer; 'messages' must end with an assistant turn")
    rejected = as_answer(item["rejected_response"], "rejected_response")
    return _pair(replace(about, prompt=prompt), chosen, rejected)


def _read_correction(item: Item, about: About) -> Pair:
    prompt, said = _question(item)
    if prompt is not None and said is None:
        raise DataError("corrects nothing; beside a prompt, 'completion' must say what was said")
    return _pair(replace(about, prompt=prompt), as_answer(item["correction"], "correction"), said)


def _read_thumb(item: Item, about: About) -> Thumb:
    key = next(key for key in ("label", "feedback") if key in item)
    about, answer = _judged(item, about)
    return Thumb(about=about, good=_good(item[key], key), answer=answer)


def _read_reward(item: Item, about: About) -> Reward:
    value = item["reward"]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"reward is {shown(value)}; expected a finite number")
    about, answer = _judged(item, about)
    return Reward(about=about, value=number, answer=answer)


def _read_demonstration(item: Item, about: About) -> Demonstration:
    if "messages" in item and not {"prompt", "completion"} & item.keys():
        messages = as_answer(item["messages"], "messages", "user")
        return _demonstration(replace(about, prompt=()), messages)
    prompt, answer = _question(item)
    if prompt is None or answer is None:
        raise DataError(f"is of no known shape; keys are {listed(item) or 'none'}")
    return _demonstration(replace(about, prompt=prompt), answer)


READ: Mapping[str, Callable[[Item, About], Shape]] = {
    "a pair": _read_pair,
    "a pair as OpenAI writes it": _read_openai,
    "an answer and a rejected response": _read_rejected,
    "a correction": _read_correction,
    "a judged answer": _read_thumb,
    "a thumb": _read_thumb,
    "a rewarded answer": _read_reward,
    "": _read_demonstration,
}


def _question(item: Item) -> tuple[Turns | None, Turns | None]:
    """What was asked and what was answered, as far as `prompt`, `messages`, `completion` say."""
    if "prompt" in item and "messages" in item:
        raise DataError("what was asked could be 'prompt' or 'messages'; keep one of them")
    answer = as_answer(item["completion"], "completion") if "completion" in item else None
    if "messages" not in item:
        prompt = as_prompt(item["prompt"], "prompt") if "prompt" in item else None
        return prompt, answer
    messages = as_prompt(item["messages"], "messages")
    if messages[-1].role != "assistant":
        return messages, answer
    if answer is not None:
        raise DataError("the answer could be 'completion' or the end of 'messages'; keep one")
    if len(messages) == 1:
        raise DataError("'messages' holds an answer and nothing that it answers")
    return messages[:-1], messages[-1:]


def _judged(item: Item, about: About) -> tuple[About, Turns | None]:
    prompt, answer = _question(item)
    if prompt is not None and answer is None:
        raise DataError("judges nothing; beside a prompt there must be a 'completion'")
    if answer is None:
        return about, None
    prompt, answers = with_lead(prompt, answer)
    return replace(about, prompt=prompt), answers[0]


def _pair(about: About, chosen: Turns, rejected: Turns | None) -> Pair:
    """A pair whose sides begin with an assistant turn; what both begin with joins the prompt.

    Raises:
        DataError: The sides are the same, answer different things, or chosen says nothing.
    """
    if rejected is not None and same_turns(chosen, rejected):
        raise DataError("chosen and rejected are the same; there is nothing to prefer")
    prompt, sides = with_lead(about.prompt, chosen, *([] if rejected is None else [rejected]))
    if not any(map(says, sides[0])):
        raise DataError("the better answer says nothing")
    about = replace(about, prompt=prompt)
    return Pair(about=about, chosen=sides[0], rejected=sides[1] if len(sides) > 1 else None)


def _demonstration(about: About, answer: Turns) -> Demonstration:
    if not any(t.role == "assistant" and t.trained and says(t) for t in answer):
        raise DataError("no assistant turn says anything; there is nothing to learn from")
    return Demonstration(about=about, answer=answer)


def _value(item: Item, key: str) -> Any:
    if key not in item:
        raise DataError(f"no key {key!r}; keys are {', '.join(map(repr, item))}")
    return item[key]


def _turn_index(value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"turn is {shown(value)}; expected the index of a turn of the thread")
    return value


def _good(value: object, key: str) -> bool:
    if isinstance(value, bool):
        return value
    if value in (1, -1):
        return value == 1
    if isinstance(value, str):
        word = re.sub(r"^thumbs?[ _-]*", "", value.strip().casefold())
        if word in THUMBS:
            return THUMBS[word]
    if value in (0, "0"):
        raise DataError(f"{key} is {value!r}; it could be bad or neutral: write false, or -1")
    raise DataError(f"{key} is {shown(value)}; legal are up, down, +1, -1, true and false")
