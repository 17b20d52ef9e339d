"""AgentScope's middleware around this model: what it sees, and what it may change."""

import asyncio
import inspect

import pytest
from agentscope.agent import Agent, InjectionConfig
from agentscope.message import TextBlock
from agentscope.middleware import MiddlewareBase
from agentscope.model import ChatResponse
from agentscope.tool import ToolChoice
from agentscope_models import WEATHER, chat_model, scripted_model, user
from talkative import save_talkative_model

from agentscope_finetune.model import TransformersChatModel


def run(work):
    return asyncio.run(work)


def made(model, *middlewares):
    return Agent(
        name="friend",
        system_prompt="Be kind.",
        model=model,
        middlewares=list(middlewares),
        injection_config=InjectionConfig(inject_runtime_state=False),
    )


class Watcher(MiddlewareBase):
    """Keeps what each call of the model was given, and its last chunk."""

    def __init__(self):
        self.calls = []
        self.chunks = []

    async def on_model_call(self, agent, input_kwargs, next_handler):
        self.calls.append(input_kwargs)
        answer = await next_handler(**input_kwargs)
        if isinstance(answer, ChatResponse):
            self.chunks.append(answer)
            return answer
        assert inspect.isasyncgen(answer)
        return self._watched(answer)

    async def _watched(self, answer):
        async for chunk in answer:
            self.chunks.append(chunk)
            yield chunk


@pytest.mark.parametrize("stream", [True, False])
def test_middleware_sees_the_prompt_and_the_whole_answer(stream):
    watcher = Watcher()
    model = scripted_model("Hello.", stream=stream)
    reply = run(made(model, watcher).reply(user("hi")))
    (call,) = watcher.calls
    assert [msg.role for msg in call["messages"]] == ["system", "user"]
    assert call["current_model"] is model
    last = watcher.chunks[-1]
    assert last.is_last
    assert last.content[0].text == "Hello." == reply.get_text_content()
    assert last.metadata["stop_reason"] == "stop"
    assert sum(chunk.is_last for chunk in watcher.chunks) == 1


def test_middleware_may_change_the_messages_and_force_a_call():
    class Changer(MiddlewareBase):
        async def on_model_call(self, agent, input_kwargs, next_handler):
            return await next_handler(
                messages=[*input_kwargs["messages"], user("and be brief")],
                tools=[WEATHER],
                tool_choice=ToolChoice(mode="none"),
            )

    model = scripted_model("Hi.")
    run(made(model, Changer()).reply(user("hi")))
    (request,) = model.engine.requests
    assert request.messages[-1].text == "and be brief"
    assert request.tool_choice == "none"


def test_middleware_may_ask_several_times_and_take_the_best(tmp_path):
    class Longest(MiddlewareBase):
        async def on_model_call(self, agent, input_kwargs, next_handler):
            answers = [await next_handler(**input_kwargs) for _ in range(3)]
            said = [[chunk async for chunk in answer][-1] for answer in answers]
            self.said = [response.content[0].text for response in said]
            return max(said, key=lambda response: len(response.content[0].text))

    longest = Longest()
    model = chat_model(save_talkative_model(tmp_path), temperature=1.0)
    reply = run(made(model, longest).reply(user("hi")))
    assert len(set(longest.said)) == 3  # drawn, without a seed
    assert reply.get_text_content() == max(longest.said, key=len)


def test_middleware_may_answer_another_model_for_one_reply():
    class Router(MiddlewareBase):
        async def on_reply(self, agent, input_kwargs, next_handler):
            own, agent.model = agent.model, other
            try:
                async for event in next_handler(**input_kwargs):
                    yield event
            finally:
                agent.model = own

    other = scripted_model("From the other.")
    agent = made(scripted_model("From its own."), Router())
    assert run(agent.reply(user("hi"))).get_text_content() == "From the other."
    assert isinstance(agent.model, TransformersChatModel)
    assert agent.model is not other


def test_what_middleware_does_to_an_answer_reaches_the_agent():
    class Shout(MiddlewareBase):
        async def on_model_call(self, agent, input_kwargs, next_handler):
            last = [chunk async for chunk in await next_handler(**input_kwargs)][-1]
            last.content = [TextBlock(text=last.content[0].text.upper())]
            return last

    reply = run(made(scripted_model("hello"), Shout()).reply(user("hi")))
    assert reply.get_text_content() == "HELLO"
