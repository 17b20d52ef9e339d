"""JSON read strictly: what Python's parser lets pass or loses in silence is refused here.

Refused are NaN and infinities (no JSON, and no template can write them back), a key that appears
twice (the first value would be lost), lone surrogates (no tokenizer can encode them) and nesting
or numbers beyond what Python parses.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from agent_finetune.errors import DataError


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null or a number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large for a float")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return read


decoder = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
)
"""Raises ValueError (JSONDecodeError among them) or RecursionError; `loads` raises DataError."""


def why(error: ValueError | RecursionError) -> str:
    """One line for a parser's error; position in the text is the caller's to tell."""
    if isinstance(error, RecursionError):
        return "nested too deeply to be read"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if "integer string conversion" in str(error):
        return "an integer has more digits than Python reads"
    return str(error)


def check_encodable(value: object, text: str) -> None:
    """Refuse a lone surrogate, which a JSON escape can write and UTF-8 cannot.

    Raises:
        ValueError: The value, whose JSON is `text`, holds one.
    """
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a string holds half of a surrogate pair (\\ud8..)") from error


def loads(text: str) -> Any:
    """Parse one JSON value.

    Raises:
        DataError: It is not strict JSON; the reason is the message, on one line.

    Example:
        >>> loads('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        agent_finetune.errors.DataError: the key 'a' appears twice in one object
    """
    try:
        value = decoder.decode(text)
        check_encodable(value, text)
    except (ValueError, RecursionError) as error:
        raise DataError(why(error)) from error
    return value
