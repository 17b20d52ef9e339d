"""What each flag of a run did, in a few words; a flag that did nothing is named as such."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.effect_words import TOLD, Facts, Nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """One flag of a run."""

    flag: str
    value: str
    told: str
    """What it did."""
    nothing: bool = False
    """Whether it did nothing."""
    given: bool = True
    """Whether the user gave it; else it is a default that the run rests on."""


ALWAYS = ("lora_target_modules", "learning_rate", "dtype", "max_length")
"""Told even where they are defaults, because results hang on them."""


def of(facts: Facts, given: Collection[str]) -> tuple[Effect, ...]:
    """The effects of the flags that were given, in the order of the dataclass."""
    arguments = facts.arguments
    found = []
    for name in (one.name for one in fields(SftArguments)):
        if name not in given and not (name in ALWAYS and not _of_other_type(facts, name)):
            continue
        told = TOLD[name](facts)
        found.append(
            Effect(
                flag=name,
                value=_shown(name, vars(arguments)[name]),
                told=str(told),
                nothing=isinstance(told, Nothing),
                given=name in given,
            )
        )
    return tuple(found)


def table(effects: Sequence[Effect], ignored: Sequence[str] = ()) -> str:
    """Flag, value and effect in columns; defaults are marked, and so is what did nothing."""
    cells = [
        (f"--{one.flag}", one.value if one.given else f"({one.value})", _sentence(one))
        for one in effects
    ]
    if ignored:
        cells.append(("unknown", " ".join(ignored), "left out, as --ignore_args_error says"))
    if not cells:
        return ""
    first, second = (max(len(row[column]) for row in cells) for column in (0, 1))
    second = min(second, 34)
    return "\n".join(f"{a:{first}}  {b:{second}}  {c}" for a, b, c in cells)


def given_in(arguments: SftArguments) -> frozenset[str]:
    """The flags whose values are not the defaults, for arguments made in Python."""
    return frozenset(
        one.name for one in fields(SftArguments) if vars(arguments)[one.name] != one.default
    )


def _sentence(effect: Effect) -> str:
    return f"NO EFFECT: {effect.told}" if effect.nothing else effect.told


def _of_other_type(facts: Facts, name: str) -> bool:
    return name.startswith("lora_") and facts.arguments.sft_type != "lora"


def _shown(name: str, value: object) -> str:
    if name == "hub_token" and value:
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "unset"
    return "unset" if value is None else str(value)
