"""Questions of the leaderboard that are used, and what their functions may give back.

What a function gives back is made up, of the kind that its name promises.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from typing import Any

from agent_finetune.records import Example, ToolCall

from .drills import NAMES, WORDS, amount, clock, code, day

_SAYING_LITTLE = {"get", "calculate", "calc", "compute", "find", "check", "look", "lookup", "up"}
_SAYING_LITTLE |= {"search", "of", "to", "in", "the", "a", "an", "for"}

MOST_TOOLS = 4
MOST_CHARACTERS = 200
"""Of a request; longer ones bring instructions of their own."""
Make = Callable[[random.Random], Any]
RESULTS: tuple[tuple[re.Pattern[str], Make], ...] = (
    (re.compile(r"(?i)calculat|comput|convert|estimat|count|predict|how many|area"), amount),
    (re.compile(r"(?i)\bdate|\bday\b|birthday|deadline|\bwhen\b"), day),
    (re.compile(r"(?i)\btime\b|schedule|opening"), clock),
    (
        re.compile(r"(?i)\bwho\b|winner|author|president|player|artist|doctor|lawyer|record"),
        lambda r: f"{r.choice(NAMES)} {r.choice(WORDS).capitalize()}",
    ),
    (re.compile(r"(?i)price|cost|rate|score|level|temperature|population|value|sum"), amount),
    (
        re.compile(r"(?i)find|get|search|retriev|look|list|fetch|provid|quer|check"),
        lambda r: r.choice((f"{r.choice(WORDS)} {r.choice(WORDS)}", code(r), r.randint(1, 900))),
    ),
)
"""What a function may give back, by words of its name and description; the first that fits."""
FOUND = ("It is {}.", "The answer is {}.", "I found {}.", "The result is {}.", "That is {}.")
DONE = ("Done, the id is {}.", "It is done, with the id {}.")


def outcome(call: ToolCall, description: str, r: random.Random) -> tuple[Any, str]:
    """A result such as the function may have, and an answer that says it."""
    about = f"{call.name} {description}"
    make = next((make for words, make in RESULTS if words.search(about)), None)
    if make is None:
        value = f"{code(r)}-{r.randint(10, 99)}"
        return {"state": "done", "id": value}, r.choice(DONE).format(value)
    value = make(r)
    key, asked = next(iter(call.arguments.items()), ("query", None))
    shape = r.choice((value, {"result": value}, {key: asked, "found": value}))
    return shape, r.choice(FOUND).format(value)


def names_of(name: str) -> set[frozenset[str]]:
    """What a function's name says, whole and without its module, as sets of words.

    Example:
        >>> names_of("math.calculateGcd") == {frozenset({"math", "gcd"}), frozenset({"gcd"})}
        True
    """
    return {_words(name), _words(name.rpartition(".")[2])}


def _words(name: str) -> frozenset[str]:
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    return frozenset(part.lower() for part in parts) - _SAYING_LITTLE


def without(examples: Iterable[Example], functions: Iterable[str]) -> list[Example]:
    """The examples that offer none of some functions, by whatever name of the same words."""
    forbidden = set().union(*map(names_of, functions))
    return [
        example
        for example in examples
        if not any(names_of(name) & forbidden for name in example.tool_names)
    ]


def usable(example: Example) -> bool:
    """Whether it is one short request in English with one call and few tools."""
    *before, answer = example.messages
    return (
        len(before) == len(answer.tool_calls) == 1
        and before[0].role == "user"
        and before[0].text.isascii()
        and len(before[0].text) <= MOST_CHARACTERS
        and 0 < len(example.tools) <= MOST_TOOLS
    )
