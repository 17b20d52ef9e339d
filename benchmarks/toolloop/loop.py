"""One task through AgentScope's own tool loop, and what came of it.

What was called is told by the functions themselves, not by the messages: each keeps the arguments
that it was really executed with.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope.agent import Agent, InjectionConfig, ReActConfig
from agentscope.message import ContentBlock, TextBlock, ToolCallBlock, ToolResultBlock, UserMsg
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.tool import FunctionTool, Toolkit

from agent_finetune.metrics import score_step
from agent_finetune.records import AcceptedCall, ToolCall

from .world import World, functions

if TYPE_CHECKING:
    from agentscope.model import ChatModelBase

SYSTEM = "Use the tools, then answer."
TASKS = Path(__file__).parent / "tasks.jsonl"
ALLOWED = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="a function of the task")
WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: str(number) for number, word in enumerate(WORDS.split())}
MOST_STEPS = 4
"""Turns of the model in one reply; the tasks need 2 or 3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A request, the tools offered with it, and what counts as right."""

    id: str
    request: str
    tools: tuple[str, ...]
    """Names of functions of the world."""
    calls: tuple[AcceptedCall, ...]
    answer: tuple[str, ...]
    """What the final answer must say: the results of the calls, or what matters in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an agent did with a task."""

    id: str
    executed: tuple[ToolCall, ...]
    answer: str
    """Words behind the last result of a tool; empty where there is no result, or none after it."""
    said: str
    """The whole reply, for people."""
    right_call: bool
    """Exactly the expected calls were executed, with right arguments: none missing, none else."""
    right_answer: bool
    """The final answer says what the task asks for."""

    @property
    def both(self) -> bool:
        return self.right_call and self.right_answer

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"both": self.both}


class Kept:
    """Functions that keep what they are executed with."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []

    def tool(self, function: Callable[..., Any]) -> FunctionTool:
        """The function as a tool that needs no permission; its schema is AgentScope's own."""

        @functools.wraps(function)
        def keeping(**arguments: Any) -> Any:
            inspect.signature(function).bind(**arguments)  # a call that Python refuses is none
            self.calls.append(ToolCall(name=function.__name__, arguments=arguments))
            return function(**arguments)

        return FunctionTool(keeping, permission=ALLOWED)


def read_tasks(path: Path = TASKS) -> list[Task]:
    """The held-out tasks, one a line."""
    return [_task(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def make_agent(model: ChatModelBase, tools: Sequence[FunctionTool]) -> Agent:
    """The agent that is measured, and in whose form all training conversations are.

    Only the time of day is switched off (`inject_runtime_state`), which AgentScope would otherwise
    append to every request; it would be different in each training conversation.
    """
    return Agent(
        name="helper",
        system_prompt=SYSTEM,
        model=model,
        toolkit=Toolkit(tools=list(tools)),
        injection_config=InjectionConfig(inject_runtime_state=False),
        react_config=ReActConfig(max_iters=MOST_STEPS),
    )


async def attempt(task: Task, model: ChatModelBase) -> Outcome:
    """Let an agent on this model do a task in a fresh world."""
    kept, offered = Kept(), functions(World())
    agent = make_agent(model, [kept.tool(offered[name]) for name in task.tools])
    schemas = await agent.toolkit.get_tool_schemas()
    await agent.reply(UserMsg(name="user", content=task.request))
    return judge(task, kept.calls, schemas, spoken(agent))


async def attempt_all(
    tasks: Sequence[Task], model: ChatModelBase, *, at_once: int = 8
) -> list[Outcome]:
    """Let agents on one model do all tasks, some at a time; outcomes in the order of the tasks."""
    free = asyncio.Semaphore(at_once)

    async def one(task: Task) -> Outcome:
        async with free:
            return await attempt(task, model)

    return await asyncio.gather(*(one(task) for task in tasks))


def judge(
    task: Task,
    executed: Sequence[ToolCall],
    schemas: Iterable[Mapping[str, Any]],
    blocks: Sequence[ContentBlock],
) -> Outcome:
    """Hold what was executed and what was answered against what is right."""
    answer = final_words(blocks)
    return Outcome(
        id=task.id,
        executed=tuple(executed),
        answer=answer,
        said=_shown(blocks),
        right_call=score_step(executed, task.calls, tools=tuple(schemas)).exact,
        right_answer=bool(answer) and all(says(answer, value) for value in task.answer),
    )


def spoken(agent: Agent) -> list[ContentBlock]:
    """Everything an agent said and got from its tools, from its context; `reply` has the end."""
    turns = [message for message in agent.state.context if message.role == "assistant"]
    return [block for turn in turns for block in turn.get_content_blocks()]


def final_words(blocks: Sequence[ContentBlock]) -> str:
    """The text behind the last call of a tool and its result; empty where there is no result."""
    words, seen = "", False
    for block in blocks:
        if isinstance(block, ToolResultBlock | ToolCallBlock):
            words, seen = "", isinstance(block, ToolResultBlock)
        elif isinstance(block, TextBlock) and seen:
            words += block.text
    return words.strip()


def says(text: str, value: str) -> bool:
    """Whether a text has a value in it: a number in digits or words, else whole words.

    Example:
        >>> says("They are 1,024.50 in all.", "1024.5"), says("Monday", "Mon")
        (True, False)
    """
    wanted = _number(value)
    if wanted is not None:
        plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
        plain = re.sub(r"[a-z]+", lambda word: NUMBERS.get(word[0], word[0]), plain.lower())
        found = re.findall(r"(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-]|\.\d|:\d)", plain)
        return any(float(number) == wanted for number in found)
    return bool(re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE))


def _number(value: str) -> float | None:
    return float(value) if re.fullmatch(r"-?\d+(?:\.\d+)?", value) else None


def _shown(blocks: Sequence[ContentBlock]) -> str:
    parts = []
    for block in blocks:
        if isinstance(block, TextBlock):
            parts.append(block.text)
        elif isinstance(block, ToolCallBlock):
            parts.append(f"[{block.name} {block.input}]")
        elif isinstance(block, ToolResultBlock):
            parts.append(f"[-> {block.output if isinstance(block.output, str) else _text(block)}]")
    return " ".join(parts)


def _text(block: ToolResultBlock) -> str:
    return "".join(part.text for part in block.output if isinstance(part, TextBlock))


def _task(row: Mapping[str, Any]) -> Task:
    calls = tuple(
        AcceptedCall(
            name=call["name"],
            arguments={key: tuple(values) for key, values in call["arguments"].items()},
        )
        for call in row["calls"]
    )
    return Task(
        id=row["id"],
        request=row["request"],
        tools=tuple(row["tools"]),
        calls=calls,
        answer=tuple(row["answer"]),
    )
