"""What is asked: one conversation of several turns, and the questions of several agents.

Tools, questions and right calls are the Berkeley Function Calling Leaderboard's. Every turn is
scripted, so that all ways see the same prompts whatever they answer.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.records import Example, Message, ToolCall

TOOLS = 3
Messages = tuple[Message, ...]
Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Tools that are offered with every prompt, and what is asked of them."""

    tools: Tools
    asked: tuple[Example, ...]
    """Each a question and its right call; neighbours are of different tools."""

    def turn(self, number: int, tag: str) -> Messages:
        """The conversation up to the user's question of a turn, the first being 1.

        Each turn before it is a question, the right call, its result and a word on it.

        Args:
            number: Which turn.
            tag: First word of the system message. No memory of another tag's conversation is
                of any use, so that only the conversation's own beginning is found again.
        """
        said = [Message(role="system", text=f"{tag} is your name. Use the tools you are given.")]
        for example in self.asked[: number - 1]:
            question, call = example.messages
            name = _calls(example)[0].name
            said += [
                question,
                call,
                Message(role="tool", text='{"status": "ok"}', name=name),
                Message(role="assistant", text="Done."),
            ]
        return (*said, self.asked[number - 1].messages[0])

    def agents(self, count: int, tag: str) -> list[Messages]:
        """The first prompt of each agent: the same system message and tools, its own question.

        A request to explain at length keeps a model from answering with a call of a few tokens.
        """
        system = Message(
            role="system", text=f"{tag} is your name. Explain what you do at length, in steps."
        )
        return [(system, example.messages[0]) for example in self.asked[:count]]


def read(data: str, questions: int, settings: Settings) -> Workload:
    """The tools that most questions are about, and as many questions as are wanted.

    Args:
        data: What `readers.read` takes.
        questions: How many there should be.
        settings: Cache of the download.

    Raises:
        ValueError: The data has fewer questions about them.
    """
    by_schema: dict[str, list[Example]] = defaultdict(list)
    for example in readers.read(data, settings=settings).examples:
        roles = [message.role for message in example.messages]
        if roles == ["user", "assistant"] and len(example.tools) == 1 == len(_calls(example)):
            by_schema[json.dumps(example.tools[0])].append(example)
    kinds: dict[str, list[Example]] = {}
    for kind in sorted(by_schema.values(), key=len, reverse=True):
        kinds.setdefault(kind[0].tool_names[0], kind)
    chosen = list(kinds.values())[:TOOLS]
    in_turns = (example for row in zip(*chosen, strict=False) for example in row)
    asked = tuple(islice(in_turns, questions))
    if len(asked) < questions:
        raise ValueError(f"{data}: only {len(asked)} of {questions} questions that are wanted")
    return Workload(tools=tuple(kind[0].tools[0] for kind in chosen), asked=asked)


def _calls(example: Example) -> tuple[ToolCall, ...]:
    return example.messages[1].tool_calls
