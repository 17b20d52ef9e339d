"""The law: the ids that a live agent's roles are asked with are those that they are trained on."""

import asyncio
from dataclasses import replace

import pytest
from agentscope_models import ScriptedEngine, user
from chat_templates import NAMES, tokenizer
from multi_role_agents import adder

from agent_finetune.contracts import Settings
from agent_finetune.records import Example, Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.roles.data import role_sets
from agent_finetune.roles.prompts import ROLES, Part
from agent_finetune.testing import tiny_tokenizer
from agentscope_finetune import MultiRoleAgent, TransformersChatModel

IDS = ("aaaaaaaaa", "bbbbbbbbb")
ORDER = (
    Part.PLANNER, Part.CALLER, Part.PLANNER, Part.CALLER, Part.PLANNER, Part.SUMMARIZER,
    Part.PLANNER,
)  # fmt: skip


def said(thought, text="", **call):
    calls = (ToolCall(name="add", **call),) if call else ()
    return Message(role="assistant", text=text, thinking=thought, tool_calls=calls)


def trajectory(tools, ids=IDS):
    """A recorded conversation: two calls, the second after an error, an answer, a giving up."""
    first, second = ids
    return Example(
        id="sum",
        tools=tuple(tools),
        messages=(
            Message(role="system", text="You add."),
            Message(role="user", text="What is 13 + 3?"),
            said("I need the sum.", arguments={"a": 13, "b": 3}, id=first),
            Message(role="tool", text="", name="add", tool_call_id=first),
            said("Not that way.", arguments={"a": 3, "b": 13}, id=second),
            Message(role="tool", text="16", name="add", tool_call_id=second),
            said("I have it.", "It is 16."),
            Message(role="user", text="Book a flight."),
            said("Adding books no flights.", "give up"),
        ),
    )


def rows_of(example):
    """The rows of the roles, in the order in which the roles speak."""
    sets = role_sets([example]).sets
    found = {row.id: row for part in ROLES for row in sets[part]}
    steps = (1, 1, 2, 2, 3, 3, 4)
    return [found[f"sum#{step}-{part}"] for step, part in zip(steps, ORDER, strict=True)]


def rendered(renderer, example):
    """Prompt and answer of each row, as they are trained."""
    for row in rows_of(example):
        (tokens,) = renderer.rows(row)
        first = tokens.trained.index(True)
        ended = len(tokens.ids) - tokens.trained[::-1].index(True)
        yield tokens.ids[:first], tokens.ids[first:ended]


def answers(renderer, example):
    """What the roles say, as text without the end of a turn."""
    for _, ids in rendered(renderer, example):
        kept = [i for i in ids if i not in renderer.stop_ids]
        yield renderer.tokenizer.decode(kept)


def live(tokenizer, words, tools):
    agent = MultiRoleAgent(
        "Friday",
        "You add.",
        TransformersChatModel(
            engine=ScriptedEngine(*words, tokenizer=tokenizer), settings=Settings()
        ),
        tools,
    )
    replies = [
        asyncio.run(agent.reply(user(text))) for text in ("What is 13 + 3?", "Book a flight.")
    ]
    return agent, replies


IN_CI = ("chatml", "gptoss", "llama3_2", "phi3", "qwen3", "smolvlm")
"""One of a kind: thinking, calls in JSON and in channels, no role for tools, no system turn."""


@pytest.mark.parametrize(
    "name",
    [*IN_CI, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n not in IN_CI)],
)
def test_the_ids_that_the_engine_got_are_those_of_the_training_rows(name):
    made = tiny_tokenizer() if name == "chatml" else tokenizer(name)
    renderer = Renderer(made)
    tools = adder()
    schemas = asyncio.run(tools.get_tool_schemas([]))
    agent, replies = live(made, answers(renderer, trajectory(schemas)), tools)
    assert [reply.get_text_content() for reply in replies] == [
        "It is 16.", "Adding books no flights.\nI give up.",
    ]  # fmt: skip
    # What no training row can know: the ids of live calls, and what the host says of an error.
    blocks = [block for message in agent.state.context for block in message.content]
    ids = [block.id for block in blocks if block.type == "tool_call"]
    error = next(block for block in blocks if block.type == "tool_result").output
    example = trajectory(schemas, ids)
    messages = list(example.messages)
    text = error if isinstance(error, str) else "".join(block.text for block in error)
    messages[3] = replace(messages[3], text=text)
    trained = [p for p, _ in rendered(renderer, replace(example, messages=tuple(messages)))]
    served = [e.result.message.generation.prompt_ids for e in agent.model.engine.recent()]
    assert served == trained
