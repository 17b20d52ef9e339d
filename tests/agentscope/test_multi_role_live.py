"""`MultiRoleAgent` on a real engine: one tiny model, three adapters, real tools."""

import asyncio

import pytest
from agentscope.console import launch_console
from agentscope.middleware import MiddlewareBase
from agentscope.tool import ToolChoice
from agentscope_models import user
from live_engines import close_all, make_adapter
from multi_role_agents import adder, said, write_manifest
from talkative import save_talkative_model

from agent_finetune.contracts import Settings
from agent_finetune.roles.prompts import ROLES, Part
from agentscope_finetune import MultiRoleAgent, TransformersChatModel


class Demands(MiddlewareBase):
    """Makes the first step a call, which a model that knows nothing does not plan."""

    def __init__(self):
        self._choices = [ToolChoice(mode="required")]

    async def on_reasoning(self, agent, input_kwargs, next_handler):
        choice = self._choices.pop() if self._choices else input_kwargs["tool_choice"]
        async for item in next_handler(tool_choice=choice):
            yield item


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of roles as training leaves it: a tiny base, and an adapter for each role."""
    made = tmp_path_factory.mktemp("roles")
    model = save_talkative_model(made / "model")
    for seed, part in enumerate(ROLES):
        make_adapter(model, made / part / "adapter", seed=seed)
    yield write_manifest(made, model)
    close_all()


def agent_of(folder, **options):
    return MultiRoleAgent.from_folder(
        folder,
        "Friday",
        "You add.",
        toolkit=adder(),
        parameters=TransformersChatModel.Parameters(max_tokens=48),
        settings=Settings(),
        held={"device": "cpu", "dtype": "float32"},
        **options,
    )


def test_three_adapters_speak_on_one_base_and_a_real_tool_is_run(folder):
    agent = agent_of(folder, middlewares=[Demands()])
    reply = asyncio.run(agent.reply(user("What is 2 + 3?")))
    assert reply.name == "Friday"
    assert [name for name, _ in said(agent)][:4] == ["user", "caller", "caller's add", "planner"]
    exchanges = agent.model.engine.recent()[-3:]
    spoke = [exchange.request.adapter for exchange in exchanges]
    order = (Part.CALLER, Part.PLANNER, Part.SUMMARIZER)
    assert spoke == [str((folder / part / "adapter").resolve()) for part in order]
    assert len({exchange.result.revision for exchange in exchanges}) == 3
    assert set(spoke) <= set(agent.model.engine.adapters())


def test_a_role_says_what_its_adapter_says_alone(folder):
    agent = agent_of(folder)
    asyncio.run(agent.reply(user("What is 2 + 3?")))
    planner, summarizer = agent.model.engine.recent()[-2:]
    for part, exchange in ((Part.PLANNER, planner), (Part.SUMMARIZER, summarizer)):
        alone = TransformersChatModel(
            model=str(folder / "model"),
            adapter=str(folder / part / "adapter"),
            device="cpu",
            dtype="float32",
            settings=Settings(),
        )
        asked = exchange.request
        request = type(asked)(
            messages=asked.messages, tools=asked.tools, max_new_tokens=asked.max_new_tokens
        )
        found = alone.engine.generate(request)
        assert found.message.generation == exchange.result.message.generation
        assert found.revision == exchange.result.revision


def test_two_agents_take_turns_on_the_same_weights_without_mixing_their_roles(folder):
    first, second = agent_of(folder), agent_of(folder)
    alone = asyncio.run(first.reply(user("Tell me of cats."))).get_text_content()

    async def both():
        replies = (a.reply(user(t)) for a, t in ((second, "Tell me of cats."), (first, "And?")))
        return await asyncio.gather(*replies)

    again, _ = asyncio.run(both())
    assert again.get_text_content() == alone


def test_the_console_takes_it_as_any_agent(folder, monkeypatch, capsys):
    lines = iter(["Hello?", "exit"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    asyncio.run(launch_console(agent_of(folder)))
    assert "Friday" in capsys.readouterr().out
