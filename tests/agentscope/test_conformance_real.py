"""The same on SmolLM2, a model that has learned to speak."""

import asyncio

import pytest
from agentscope.agent import Agent, InjectionConfig
from agentscope.middleware import MiddlewareBase
from agentscope.model import FinishedReason
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.tool import FunctionTool, ToolChoice, Toolkit
from agentscope_models import WEATHER, ask, chat_model, freed, system, user
from pydantic import BaseModel

from agent_finetune.settings import read_settings

pytestmark = pytest.mark.real


def smollm(**options):
    return chat_model(
        "smollm2-135m-instruct", **{"max_tokens": 24, "settings": read_settings(), **options}
    )


def run(work):
    return asyncio.run(work)


def words(response):
    return "".join(block.text for block in response.content if block.type == "text")


def test_it_answers_in_words_streamed_or_not_and_says_what_it_took():
    question = user("What is the capital of France?")
    *deltas, streamed = run(ask(smollm(), question))
    (whole,) = run(ask(smollm(stream=False), question))
    assert "Paris" in words(streamed)
    assert words(streamed) == words(whole) == "".join(map(words, deltas))
    assert len(deltas) > 3
    assert streamed.metadata["stop_reason"] == "stop"
    assert streamed.usage.input_tokens == whole.usage.input_tokens > 0


@pytest.mark.parametrize("tools", [None, [WEATHER]])
def test_its_tokens_are_counted_as_they_are_served(tools):
    model = smollm(max_tokens=1)
    messages = [system("Be brief."), user("hello")]
    counted = run(model.count_tokens(messages, tools))
    assert counted == run(ask(model, *messages, tools=tools))[-1].usage.input_tokens
    assert model.context_size == model.engine.info().context == 8192


def test_its_context_is_known_before_it_is_loaded():
    assert smollm().context_size == 8192


@pytest.mark.parametrize("mode", ["required", "get_weather"])
def test_it_calls_a_tool_when_it_must(mode):
    last = run(
        ask(
            smollm(max_tokens=64),
            user("What is the weather in Rome?"),
            tools=[WEATHER],
            tool_choice=ToolChoice(mode=mode),
        )
    )[-1]
    (call,) = last.content
    assert (call.name, call.input) == ("get_weather", '{"city": "Rome"}')


class City(BaseModel):
    city: str
    country: str


def test_it_fills_in_an_object_in_one_generation():
    made = run(
        smollm(max_tokens=60).generate_structured_output(
            [user("The capital of France is Paris. Which city and country is this about?")], City
        )
    )
    assert made.content["city"] == "Paris"


def test_an_agent_of_the_host_runs_a_python_function_that_it_calls_for():
    asked = []

    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    class ForceTheFirst(MiddlewareBase):
        async def on_model_call(self, agent, input_kwargs, next_handler):
            choice = ToolChoice(mode="none" if asked else "required")
            return await next_handler(**{**input_kwargs, "tool_choice": choice})

    allowed = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="")
    agent = Agent(
        name="friend",
        system_prompt="Be brief.",
        model=smollm(max_tokens=64),
        toolkit=Toolkit(tools=[FunctionTool(get_weather, permission=allowed)]),
        middlewares=[ForceTheFirst()],
        injection_config=InjectionConfig(inject_runtime_state=False),
    )
    reply = run(agent.reply(user("What is the weather in Rome?")))
    assert asked[0] == "Rome"
    assert reply.finished_reason == "completed"
    assert reply.get_text_content()


def test_a_cancelled_reply_is_interrupted_and_its_words_so_far_are_kept():
    model = smollm(max_tokens=2000)

    async def cancelled():
        await model.count_tokens([user("hello")], None)
        task = asyncio.create_task(ask(model, user("Tell me a very long story.")))
        while not any(not generation.done for generation in model.engine._generations):
            await asyncio.sleep(0.02)
        await asyncio.sleep(2)
        task.cancel()
        return await task

    last = run(cancelled())[-1]
    assert last.finished_reason == FinishedReason.INTERRUPTED
    assert freed(model.engine) == "cancelled"
