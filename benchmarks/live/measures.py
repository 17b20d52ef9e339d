"""What is measured, and how."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings, Usage
from agent_finetune.records import Message
from live.ways import Answers, Ask, Live, Plain, opened, tensor_bytes
from live.workload import Workload

ADAPTERS = 3
"""Adapters whose memory is compared with that of one."""
KINDS = ("no_adapter", "one_adapter", "an_adapter_each")
TAGS = dict(zip(KINDS, ("Gus", "Hal", "Ivy"), strict=True))
"""The tag of each kind's timed prompts: an adapter that is in two finds nothing of the other's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """All that does not change with the number format."""

    options: argparse.Namespace
    work: Workload
    folders: dict[str, Path]
    """An adapter for each agent."""
    settings: Settings

    def crowd(self, kind: str, tag: str) -> list[Ask]:
        """What the agents ask, by no adapter, by the first, or each by its own."""
        names = list(self.folders)
        by_kind: dict[str, list[str | None]] = {
            "no_adapter": [None] * len(names),
            "one_adapter": [names[0]] * len(names),
            "an_adapter_each": [*names],
        }
        prompts = self.work.agents(self.options.agents, tag)
        return [
            Ask(messages=messages, tools=self.work.tools, adapter=adapter)
            for messages, adapter in zip(prompts, by_kind[kind], strict=True)
        ]

    def turns(self, tag: str) -> list[Ask]:
        """Every turn of one conversation."""
        numbers = range(1, self.options.turns + 1)
        return [
            Ask(messages=self.work.turn(number, tag), tools=self.work.tools) for number in numbers
        ]


def speed(task: Task, config: ModelConfig) -> dict[str, Any]:
    """First tokens, agents at once, and memory, in one number format."""
    before = tensor_bytes()
    with opened(config, task.settings) as ours:
        info = ours.engine.info()
        found: dict[str, Any] = {"engine": {"device": info.device, "dtype": info.dtype}}
        found["memory"] = _attach_all(task, ours, before)
        plain = Plain(config, task.settings)
        _warm_up(task, ours, plain)
        found["first_token"] = _first_tokens(task, ours, plain)
        found["agents"] = _agents(task, ours, plain)
    return found


def fidelity(task: Task, config: ModelConfig) -> dict[str, Any]:
    """Whether answers are those of `generate`: every turn's, and every agent's.

    In float32 ours must be, and the agents answer by adapters too; in other formats padded batches
    stand beside, which cannot mix adapters, and so nobody has one.
    """
    _tell(f"fidelity in {config.dtype} ...")
    tokens = task.options.fidelity_tokens
    exact = config.dtype == "float32"
    asks = [*task.turns("Fay"), *task.crowd("no_adapter", "Fay")]
    adapted = task.crowd("an_adapter_each", "Fay") if exact else []
    plain = Plain(config, task.settings)
    alone = plain.answer(asks, tokens)
    found = {}
    if exact:
        plain.load_adapters(task.folders)
        by_adapter = plain.answer(adapted, tokens)
        alone.prompts.extend(by_adapter.prompts)
        alone.ids.extend(by_adapter.ids)
    else:
        batched = plain.answer_batch(asks, tokens, task.options.agents)
        found["padded batches"] = likeness(alone, batched)
    del plain
    with opened(config, task.settings) as ours:
        for name, folder in task.folders.items() if exact else ():
            ours.engine.attach(name, folder)
        return {"ours": likeness(alone, ours.answer([*asks, *adapted], tokens)), **found}


def likeness(right: Answers, made: Answers) -> dict[str, Any]:
    """How many answers are the same, and the first token, from 1 on, in which others differ.

    Raises:
        RuntimeError: They are not answers to the same prompts.
    """
    if made.prompts != right.prompts:
        raise RuntimeError("the two ways were not given the same prompts")
    places = [_first_difference(a, b) for a, b in zip(right.ids, made.ids, strict=True)]
    apart = sorted(place for place in places if place is not None)
    return {
        "identical": len(places) - len(apart),
        "of": len(places),
        "tokens": right.tokens,
        "first_differences": apart,
    }


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    if one == other:
        return None
    pairs = enumerate(zip(one, other, strict=False), start=1)
    shorter = min(len(one), len(other))
    return next((place for place, (a, b) in pairs if a != b), shorter + 1)


def _attach_all(task: Task, ours: Live, before: int) -> dict[str, Any]:
    """Attach every adapter; answers tensor bytes when there was one on the base, and three.

    Nothing has been asked yet: finished conversations that are kept are memory of another kind.
    """
    sizes: list[int] = []
    for name, folder in task.folders.items():
        ours.engine.attach(name, folder)
        if len(sizes) < ADAPTERS:
            sizes.append(tensor_bytes() - before)
    return {"one": sizes[0], "three": sizes[-1], "ratio": sizes[-1] / sizes[0]}


def _warm_up(task: Task, ours: Live, plain: Plain) -> None:
    """Let both do once what is timed later, on prompts that are of no use to it."""
    hello = (Message(role="user", text="Hello"),)
    for kind in KINDS:
        ours.answer([replace(ask, messages=hello, tools=()) for ask in task.crowd(kind, "Wim")], 2)
    for way in (ours, plain):
        way.answer(task.crowd("no_adapter", "Wim")[:2], 2)


def _first_tokens(task: Task, ours: Live, plain: Plain) -> list[dict[str, Any]]:
    """Of each turn, the medians over conversations that have nothing in common."""
    theirs: list[list[float]] = [[] for _ in range(task.options.turns)]
    mine: list[list[float]] = [[] for _ in range(task.options.turns)]
    usage: list[Usage] = []
    for repeat in range(task.options.repeats):
        _tell(f"first tokens, conversation {repeat + 1} of {task.options.repeats} ...")
        usage.clear()
        for turn, ask in enumerate(task.turns(f"{ascii_uppercase[repeat % 26]}{repeat}")):
            theirs[turn].append(plain.first_token(ask))
            seconds, used = ours.first_token(ask)
            mine[turn].append(seconds)
            usage.append(used)
    return [
        {
            "turn": turn + 1,
            "prompt_tokens": usage[turn].prompt_tokens,
            "cached_tokens": usage[turn].cached_tokens,
            "generate": statistics.median(theirs[turn]),
            "ours": statistics.median(mine[turn]),
            "ratio": statistics.median(theirs[turn]) / statistics.median(mine[turn]),
        }
        for turn in range(task.options.turns)
    ]


def _agents(task: Task, ours: Live, plain: Plain) -> dict[str, Any]:
    """Tokens per second of every way that can answer the agents."""
    tokens = task.options.tokens
    alone: dict[str, Answers] = {}
    at_once: dict[str, Answers] = {}
    others: dict[str, Any] = {}
    for kind in KINDS:
        _tell(f"agents, {kind.replace('_', ' ')} ...")
        asks = task.crowd(kind, TAGS[kind])
        if kind == "one_adapter":
            plain.load_adapters(task.folders)
            plain.answer(task.crowd(kind, "Wim")[:1], 2)
        at_once[kind] = ours.answer(asks, tokens)
        alone[kind] = plain.answer(asks, tokens)
        if kind == "no_adapter":
            others["padded batch"] = plain.answer_batch(asks, tokens, len(asks)).speed
            others["continuous batching"] = _continuous(plain, asks, tokens)
    return {
        "tokens_per_second": {
            "one by one": {kind: answers.speed for kind, answers in alone.items()},
            **{way: {"no_adapter": speed} for way, speed in others.items()},
            "ours": {kind: answers.speed for kind, answers in at_once.items()},
        },
        "ratios": {kind: at_once[kind].speed / alone[kind].speed for kind in KINDS},
        "tokens": {
            kind: {"one by one": alone[kind].tokens, "ours": at_once[kind].tokens} for kind in KINDS
        },
        "prompt_tokens": [len(prompt) for prompt in alone["no_adapter"].prompts],
    }


def _continuous(plain: Plain, asks: Sequence[Ask], tokens: int) -> float | str:
    """Speed, or what Transformers says against it."""
    try:
        return plain.answer_continuously(asks, tokens).speed
    except (RuntimeError, ValueError, MemoryError) as error:
        _tell(f"continuous batching refused: {error}")
        return "refused"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
