"""Dataclasses read from a command line, strictly: a typo is an error that names the nearest flag.

`argparse` does the reading. What is added: `--flag true|false` as well as a bare `--flag`, lists,
aliases, dashes for underscores, no abbreviations, and errors that say what is legal.
"""

from __future__ import annotations

import argparse
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, NoReturn, TypeVar

from agent_finetune.errors import ConfigError

T = TypeVar("T")
_YES = ("true", "yes", "on", "1")
_NO_VALUE = "its value is missing; flags are written --name value"
_NO = ("false", "no", "off", "0")


def flag(
    default: Any, help: str, *, choices: Sequence[str] = (), aliases: Sequence[str] = ()
) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: Its value when the flag is not given.
        help: One sentence for `--help`.
        choices: Legal values, where they can be listed.
        aliases: Other names of the flag, without dashes.
    """
    about = {"help": help, "choices": tuple(choices), "aliases": tuple(aliases)}
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed(Generic[T]):
    """Arguments, and what was said to get them."""

    arguments: T
    given: tuple[str, ...]
    """Names of the flags that were given, in order, each once."""
    ignored: tuple[str, ...]
    """Words that no flag takes; only with `ignore_args_error`."""


def parse(kind: type[T], argv: Sequence[str], *, prog: str) -> Parsed[T]:
    """Read a command line into a dataclass whose fields were made by `flag`.

    `--help` prints and leaves with SystemExit(0), as argparse does. Where the dataclass has a
    field `ignore_args_error`, giving it true keeps unknown words from being an error.

    Raises:
        ConfigError: An unknown flag or a value that is not legal.
    """
    words = [_underscored(word) for word in argv]
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [--flag value ...]",
        description=_first_line(kind),
        allow_abbrev=False,
    )
    names = add_flags(parser, kind)
    values, unknown = parser.parse_known_args(words, argparse.Namespace())
    found: dict[str, Any] = vars(values)
    if unknown and not found.get("ignore_args_error", False):
        raise ConfigError(_unknown(unknown, names))
    given = dict.fromkeys(names[name] for name in _flags_in(words) if name in names)
    return Parsed(arguments=kind(**found), given=tuple(given), ignored=tuple(unknown))


def add_flags(parser: argparse.ArgumentParser, kind: type[Any]) -> dict[str, str]:
    """Add every field of a dataclass to a parser; answer the field of each flag's name.

    A flag that is not given is absent from what the parser answers, so that the dataclass's own
    default holds.
    """
    names: dict[str, str] = {}
    hints = typing.get_type_hints(kind)
    for one in fields(kind):
        spelled = [one.name, *one.metadata["aliases"]]
        names |= dict.fromkeys(spelled, one.name)
        parser.add_argument(
            *(f"--{name}" for name in spelled),
            dest=one.name,
            default=argparse.SUPPRESS,
            help=f"{one.metadata['help']} (default {_shown(one.default)})".replace("%", "%%"),
            metavar=_metavar(hints[one.name], one.metadata["choices"]),
            **_reading(hints[one.name], one.metadata["choices"]),
        )
    return names


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        message = re.sub("expected (one|at least one) argument", _NO_VALUE, message)
        raise ConfigError(message.removeprefix("argument "))


def _metavar(hint: Any, choices: Sequence[str]) -> str:
    """What `--help` writes for a flag's value."""
    kinds: dict[Any, str] = {int: "N", float: "X", bool: "true|false"}
    legal = [one for one in typing.get_args(hint) if one is not types.NoneType] or [hint]
    return "|".join(choices) or kinds.get(legal[0], "WORD")


def _reading(hint: Any, choices: Sequence[str]) -> dict[str, Any]:
    """How argparse reads a value of a type: bool, int, float, str, a tuple of str, or None."""
    legal = [one for one in typing.get_args(hint) if one is not types.NoneType]
    kind = legal[0] if isinstance(hint, types.UnionType) else hint
    if typing.get_origin(kind) is tuple:
        return {"nargs": "+", "action": _Listed, "type": str}
    if kind is bool:
        reading: dict[str, Any] = {"nargs": "?", "const": True, "type": _truth}
        if isinstance(hint, types.UnionType):
            reading["type"] = _truth_or_auto
        return reading
    return {"type": _one_of(choices) if choices else kind}


class _Listed(argparse.Action):
    """A list, its items apart by spaces or commas."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        items = (item.strip() for value in values for item in value.split(","))
        setattr(namespace, self.dest, tuple(item for item in items if item))


def _truth(word: str) -> bool:
    if word.lower() in _YES:
        return True
    if word.lower() in _NO:
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")


def _truth_or_auto(word: str) -> bool | None:
    return None if word.lower() == "auto" else _truth(word)


def _one_of(choices: Sequence[str]) -> Any:
    def read(word: str) -> str:
        if word not in choices:
            raise argparse.ArgumentTypeError(f"{word!r}; legal are {', '.join(choices)}")
        return word

    return read


def _underscored(word: str) -> str:
    """A flag's name with underscores; its value, after `=`, is left as it is."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _flags_in(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        if word.startswith("--"):
            yield word[2:].partition("=")[0]


def _unknown(words: Sequence[str], names: Iterable[str]) -> str:
    flags = list(_flags_in(words))
    if not flags:
        return f"{words[0]!r} belongs to no flag; flags are written --name value"
    near = difflib.get_close_matches(flags[0], names, n=1)
    nearest = f"; did you mean --{near[0]}?" if near else "; --help lists them all"
    return (
        f"there is no flag --{flags[0]}{nearest} (--ignore_args_error true leaves out unknown ones)"
    )


def _first_line(kind: type[Any]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None or value == "" else str(value)
