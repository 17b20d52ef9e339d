"""Questions of the Berkeley Function Calling Leaderboard, continued to a result and an answer.

The leaderboard ends with the call. What a function would give back is made up here, of the kind
that its name promises, and the answer says it; AgentScope's loop lays the conversation out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentscope.tool import FunctionTool

from agent_finetune.records import Example, ToolCall

from .drills import NAMES, WORDS, amount, clock, code, day
from .loop import ALLOWED
from .teaching import Lesson

MOST_TOOLS = 4
MOST_CHARACTERS = 200
"""Of a request; longer ones bring instructions of their own."""
_SAYING_LITTLE = {"get", "calculate", "calc", "compute", "find", "check", "look", "lookup", "up"}
_SAYING_LITTLE |= {"search", "of", "to", "in", "the", "a", "an", "for"}

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


def names_of(name: str) -> set[frozenset[str]]:
    """What a function's name says, whole and without its module, as sets of words.

    Example:
        >>> names_of("math.calculateGcd") == {frozenset({"math", "gcd"}), frozenset({"gcd"})}
        True
    """
    return {_words(name), _words(name.rpartition(".")[2])}


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


def _words(name: str) -> frozenset[str]:
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    return frozenset(part.lower() for part in parts) - _SAYING_LITTLE
