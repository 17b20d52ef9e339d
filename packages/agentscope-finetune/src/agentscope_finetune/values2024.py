"""Values as the 2024 example's configurations write them: "True", "torch.bfloat16" and the rest.

Each reader takes the key's full name and the value found, and answers the value that was meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, cast

from agent_finetune.errors import ConfigError

Reader = Callable[[str, object], Any]

_FLAGS = {"true": True, "false": False}


def wrong(key: str, value: object, legal: str) -> ConfigError:
    """An error that names key, value and what is legal."""
    return ConfigError(f"{key} is {value!r}; legal is {legal}")


def unknown(key: str, names: Iterable[str], what: str) -> ConfigError:
    """An error for a key that does not exist, with the nearest one that does."""
    known = sorted(names)
    near = get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"legal are {', '.join(known[:40])}"
    return ConfigError(f"{key} is no {what}; {hint}")


def mapping(key: str, value: object) -> Mapping[str, object]:
    """A group of keys; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise wrong(key, value, "an object whose keys are strings")
    return cast("Mapping[str, object]", value)


def flag(key: str, value: object) -> bool:
    """True or False, also written "True" or "false"."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise wrong(key, value, "True or False")


def number(*, least: float = 0.0, above: bool = False, most: float = math.inf) -> Reader:
    """A reader of numbers; YAML's strings such as "5e-5" are numbers too.

    Args:
        least: The smallest legal number.
        above: Whether `least` itself is not legal.
        most: The largest legal number; it is legal itself.
    """
    legal = f"a number {'above' if above else 'of at least'} {least:g}"
    legal += "" if most == math.inf else f" and at most {most:g}"

    def read(key: str, value: object) -> float:
        found = _number(value)
        if found is None or not least <= found <= most or (above and found == least):
            raise wrong(key, value, legal)
        return found

    return read


def whole(*, least: int) -> Reader:
    """A reader of whole numbers from `least` on; 4.0 and "4" are 4."""

    def read(key: str, value: object) -> int:
        found = _number(value)
        if found is None or found != int(found) or found < least:
            raise wrong(key, value, f"a whole number of at least {least}")
        return int(found)

    return read


def choice(*legal: str) -> Reader:
    """A reader of one of several words; an Enum of Transformers with that value is one too."""

    def read(key: str, value: object) -> str:
        for word in legal:
            if value == word:
                return word
        raise wrong(key, value, ", ".join(legal))

    return read


def dtype(key: str, value: object) -> str:
    """A number format: "bfloat16", "torch.bfloat16" or `torch.bfloat16` itself."""
    name = str(value).removeprefix("torch.")
    if name not in ("float32", "float16", "bfloat16"):
        raise wrong(key, value, "float32, float16 or bfloat16, with or without 'torch.'")
    return name


def device(key: str, value: object) -> str:
    """A device: "cuda:1", "cpu", "auto", a number of a GPU, or a `torch.device`."""
    name = f"cuda:{value}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    index = name.removeprefix("cuda:")
    if name in ("auto", "cpu", "cuda") or (index != name and index.isdecimal()):
        return name
    raise wrong(key, value, "auto, cpu, cuda or cuda:N")


def text(key: str, value: object) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise wrong(key, value, "a string that is not empty")
    return value


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
