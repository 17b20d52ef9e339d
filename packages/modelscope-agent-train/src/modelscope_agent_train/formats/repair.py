"""Reading the JSON that agent data holds, and repairing it where it is almost JSON.

Calls of MSAgent-Bench have raw line breaks inside strings, ReAct data writes Python's repr, a hub
copy lost the commas of its lists. Each repair is small, tried in a fixed order, and named in the
answer, so that a reader may go on and the validator may count. Nothing else here repairs.

What comes out is strict JSON always: `agent_finetune.readers.strictjson` reads the repaired text,
so a key that appears twice, NaN and half a surrogate pair are refused and never repaired away.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.readers.chat import shown

FENCE = re.compile(r"\s*```\w*[ \t]*\n?(?P<inside>.*?)\n?[ \t]*```\s*", re.DOTALL)
STRING = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
"""A JSON or Python string; what stands inside of one is never touched but for raw characters."""
QUOTED = re.compile(STRING, re.DOTALL)
DOUBLE = re.compile(r"\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
RAW = re.compile(r"[\x00-\x1f]")
STRAY = re.compile(r"\\(.)", re.DOTALL)
TRAILING = re.compile(rf"({STRING})|,(?=\s*[\]}}])", re.DOTALL)
MISSING = re.compile(rf"({STRING})|(?<=\}})(?=\s*\{{)", re.DOTALL)
WORD = re.compile(rf"({STRING})|\b(true|false|null)\b", re.DOTALL)
PYTHON = {"true": "True", "false": "False", "null": "None"}
REPAIRS: Mapping[str, str] = {
    "raw-line-breaks": "control characters inside of strings, which JSON writes as escapes",
    "stray-backslashes": "a backslash that begins no escape of JSON",
    "trailing-commas": "a comma before a closing bracket",
    "missing-commas": "objects that follow each other in a list without a comma",
    "python-literal": "Python's repr in the place of JSON: single quotes, True, None, tuples",
    "nested-json": "an object that is written as a string",
    "words-around": "words before or after the object of a call",
    "guessed": "quotes or brackets that are missing, by json_repair; no word is lost or invented",
    "key-backslash": "a backslash before the name of a parameter",
    "empty-turn": "an assistant turn that says nothing, left out with the question before it",
}
"""What was repaired, by name."""
LONGEST_GUESS = 20_000
"""Characters beyond which nothing is guessed: json_repair looks at a text many times."""
_noted: ContextVar[list[str] | None] = ContextVar("repairs", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """A value, and what had to be repaired to read it."""

    value: Any
    """JSON values only."""
    repairs: tuple[str, ...] = ()
    """Names out of `REPAIRS`, in the order in which they were made; empty for strict JSON."""


@contextmanager
def noted() -> Iterator[list[str]]:
    """The repairs that readers make inside of the block, one name for each, in order.

    Example:
        >>> with noted() as repairs:
        ...     load_call("{'a': 1}").value
        {'a': 1}
        >>> repairs
        ['python-literal']
    """
    names: list[str] = []
    token = _noted.set(names)
    try:
        yield names
    finally:
        _noted.reset(token)


def note(*names: str) -> None:
    """Tell whoever counts that something was repaired."""
    if (listening := _noted.get()) is not None:
        listening += names


def load_value(text: str) -> Repaired:
    """The value that a text writes as JSON, in Python or as almost one of the two.

    Raises:
        DataError: No small repair makes it JSON; the reason is why it is none as it stands.
    """
    try:
        return Repaired(value=strictjson.loads(text))
    except DataError as error:
        if "twice" in str(error):  # which of the two was meant is for nobody to say
            raise
        why = str(error)
    if (found := _mended(text)) is not None:
        note(*found.repairs)
        return found
    raise DataError(why)


def load_call(text: str) -> Repaired:
    """The object of a call: in a code fence or bare, with words around it or without.

    Raises:
        DataError: There is no object in it, or none that can be read.
    """
    inside = unfenced(text)
    start, end = inside.find("{"), inside.rfind("}")
    if start < 0:
        raise DataError(f"{shown(text)} holds no object")
    body = inside[start : end + 1] if end > start else inside[start:]
    quoted = QUOTED.fullmatch(inside) is not None
    with noted() as made:
        value = _object(inside if quoted else body)
        if not quoted and inside.replace(body, "", 1).strip():
            note("words-around")
    note(*made)
    return Repaired(value=value, repairs=tuple(made))


def unfenced(text: str) -> str:
    """What a code fence holds; a text without one as it is, stripped."""
    match = FENCE.fullmatch(text)
    return match["inside"] if match else text.strip()


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = load_value(text).value
        if isinstance(value, str):
            value = load_value(value).value
            note("nested-json")
    except DataError as error:
        guess = None if "twice" in str(error) else _guessed(text)
        if guess is None:
            raise
        note("guessed")
        return guess
    if not isinstance(value, Mapping):
        raise DataError(f"{shown(value)} is no object")
    return value


def _mended(text: str) -> Repaired | None:
    """What the text says after the fewest of our repairs: as JSON, or else in Python."""
    stages = list(_stages(text))
    for made, mended in stages:
        for last, written in (((), mended), (("stray-backslashes",), _without_stray(mended))):
            with suppress(DataError):
                return Repaired(value=strictjson.loads(written), repairs=(*made, *last))
    for made, mended in stages:
        for written in (mended, WORD.sub(lambda m: m[1] or PYTHON[m[2]], mended)):
            with suppress(DataError):
                return Repaired(value=_python(written), repairs=(*made, "python-literal"))
    return None


def _stages(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The text as it is, and after one repair more each time, with the names of these."""
    made: tuple[str, ...] = ()
    yield made, text
    for name, repair in (
        ("raw-line-breaks", _without_raw),
        ("trailing-commas", lambda t: TRAILING.sub(lambda m: m[1] or "", t)),
        ("missing-commas", lambda t: MISSING.sub(lambda m: m[1] or ",", t)),
    ):
        changed = repair(text)
        if changed != text:
            text, made = changed, (*made, name)
            yield made, text


def _python(text: str) -> Any:
    """A Python literal as the JSON value that it is.

    Raises:
        DataError: It is no literal, or holds what JSON has not: sets, bytes, a key twice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a backslash that begins no escape
            warnings.simplefilter("ignore", DeprecationWarning)  # the same, before Python 3.12
            tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                keys = [ast.dump(key) for key in node.keys if key is not None]
                if len(set(keys)) != len(keys):
                    raise DataError("a key appears twice in one object")
        return strictjson.loads(json.dumps(ast.literal_eval(tree), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(f"no Python literal: {error}") from error


def _guessed(text: str) -> Mapping[str, Any] | None:
    """What json_repair makes of it, where that has the same words in the same order."""
    from json_repair import repair_json

    if len(text) > LONGEST_GUESS or re.search(r"\b(?:NaN|Infinity)\b", text):
        return None
    if _is_literal(text):
        return None  # what it says is clear, and no JSON
    try:
        value = repair_json(text, return_objects=True, skip_json_loads=True)
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        value = strictjson.loads(written)
    except (ValueError, TypeError, RecursionError, IndexError, DataError):
        return None
    same = isinstance(value, Mapping) and value and _words(written) == _words(text)
    return value if same else None


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return True


def _words(text: str) -> list[str]:
    """Words in a form in which JSON and Python have the same; escapes of characters are none."""
    words = re.findall(r"\w+", re.sub(r"\\[nrtbf\"\\/]", " ", text))
    return [{"True": "true", "False": "false", "None": "null"}.get(word, word) for word in words]


def _without_raw(text: str) -> str:
    def escaped(match: re.Match[str]) -> str:
        return RAW.sub(lambda raw: json.dumps(raw[0])[1:-1], match[0])

    return QUOTED.sub(escaped, text)


def _without_stray(text: str) -> str:
    r"""Of double-quoted strings; `\'` is an apostrophe, any other backslash stands for itself."""

    def legal(match: re.Match[str]) -> str:
        if match[1] in '"\\/bfnrtu':
            return match[0]
        return "'" if match[1] == "'" else rf"\\{match[1]}"

    return DOUBLE.sub(lambda quoted: STRAY.sub(legal, quoted[0]), text)
