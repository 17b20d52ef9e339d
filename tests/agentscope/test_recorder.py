"""`ConversationRecorder`: every call of a live agent, with the exact prompt, tools and answer."""

import asyncio
import json
import logging

import pytest
from agentscope.agent import Agent, InjectionConfig
from agentscope.message import AssistantMsg, TextBlock, UserMsg
from agentscope.middleware import MiddlewareBase
from agentscope.model import ChatModelBase, ChatResponse
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.tool import FunctionTool, ToolChoice, Toolkit
from agentscope_models import chat_model
from live_engines import close_all
from openai import BadRequestError
from openai_server import teacher
from talkative import save_talkative_model

from agent_finetune.errors import DataError
from agent_finetune.recordings import Recordings
from agent_finetune.recordings.exchanges import to_record
from agent_finetune.records import Message
from agentscope_finetune import ConversationRecorder

ALLOWED = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="fine")


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.sqlite"


def agent_of(model, *middlewares, name="Adder"):
    return Agent(
        name=name,
        system_prompt="You add.",
        model=model,
        toolkit=Toolkit(tools=[FunctionTool(add, permission=ALLOWED)]),
        middlewares=list(middlewares),
        injection_config=InjectionConfig(inject_runtime_state=False),  # the time of day
    )


def say(agent, text="What is 2 + 3?"):
    return agent.reply(UserMsg(name="user", content=text))


def in_json(exchange):
    return json.loads(json.dumps(to_record(exchange, model="", adapter=None)))


class Chooses(MiddlewareBase):
    """Makes the model call `add`, and then speak."""

    def __init__(self):
        self.choices = ["add", "none"]

    async def on_model_call(self, agent, input_kwargs, next_handler):
        choice = ToolChoice(mode=self.choices.pop(0) if self.choices else "none")
        return await next_handler(**{**input_kwargs, "tool_choice": choice})


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_loop_on_a_local_model_is_recorded_with_its_exact_ids(folder, path, stream):
    model = chat_model(folder, max_tokens=200, stream=stream)
    recorder = ConversationRecorder(path)
    agent = agent_of(model, Chooses(), recorder)

    async def talk():
        reply = await say(agent)
        await recorder.flush()
        return reply

    reply = asyncio.run(talk())
    recorded = list(Recordings(path).read())
    served = {e.result.id: e for e in model.engine.recent()}
    assert len(recorded) == 2
    for one in recorded:
        assert in_json(one.exchange) == in_json(served[one.id])
        assert one.exchange.result.message.generation.ids
        assert (one.agent, one.session) == ("Adder", agent.state.session_id)
        assert (one.reply, one.model) == (reply.id, str(folder))
    called, spoke = recorded
    assert called.exchange.request.tool_choice == "add"
    assert [t["function"]["name"] for t in called.tools] == ["add"]
    assert [c.name for c in called.exchange.result.message.tool_calls] == ["add"]
    assert [m.role for m in spoke.exchange.request.messages][-2:] == ["assistant", "tool"]
    assert spoke.exchange.result.message.text == reply.get_text_content()


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_loop_on_a_hosted_model_is_recorded_in_words(path, stream):
    with teacher([("call_abc", "add", '{"a": 2, "b": 3}')], "It is 5.") as server:
        recorder = ConversationRecorder(path, agent_name="Sums")
        agent = agent_of(server.model(stream=stream), recorder)

        async def talk():
            reply = await say(agent)
            await recorder.flush()
            return reply

        reply = asyncio.run(talk())
    assert reply.get_text_content() == "It is 5."
    called, spoke = Recordings(path).read()
    (call,) = called.exchange.result.message.tool_calls
    assert (call.name, call.arguments) == ("add", {"a": 2, "b": 3})
    assert called.exchange.result.finish == "tool_calls"
    assert (called.agent, called.model, called.reply) == ("Sums", "teacher", reply.id)
    assert called.exchange.result.usage.prompt_tokens == 7
    asked = spoke.exchange.request.messages
    assert asked[0] == Message(role="system", text=asked[0].text)
    assert asked[0].text.startswith("You add.")
    assert (asked[1].role, asked[1].text) == ("user", "What is 2 + 3?")
    assert asked[-2].tool_calls[0].id == asked[-1].tool_call_id == call.id
    assert asked[-1].text == "5"
    assert spoke.exchange.result.message == Message(role="assistant", text="It is 5.")
    assert len(called.exchange.request.messages) == len(asked) - 2  # as it was when it was asked
    examples = list(Recordings(path).examples())
    assert [example.messages[-1].generation for example in examples] == [None, None]


def test_feedback_finds_the_last_answer_of_a_reply_or_one_call(path):
    with teacher([("c1", "add", '{"a": 2, "b": 3}')], "It is 5.") as server:
        recorder = ConversationRecorder(path)
        agent = agent_of(server.model(stream=True), recorder)

        async def talk():
            reply = await say(agent)
            await recorder.feedback(reply.id, value=True, comment="right")
            better = AssistantMsg(name="Adder", content=[TextBlock(text="Five.")])
            await recorder.feedback(reply.id, correction=better)
            await recorder.feedback("chatcmpl-1", reward=0.5)
            with pytest.raises(DataError, match="no reply and no answer 'nothing' is recorded"):
                await recorder.feedback("nothing", value=True)
            with pytest.raises(DataError, match="must be one turn of an assistant"):
                await recorder.feedback(reply.id, correction=UserMsg(name="user", content="hm"))

        asyncio.run(talk())
    called, spoke = Recordings(path).read()
    assert called.judgement.reward == 0.5
    assert spoke.judgement.value is True
    assert spoke.judgement.correction == Message(role="assistant", text="Five.")


def test_a_stream_is_passed_on_untouched(folder, path):
    model = chat_model(folder, seed=1)

    async def chunks(middleware):
        agent = agent_of(model, *middleware)
        events = agent.reply_stream(UserMsg(name="user", content="Hello"))
        return [e.delta async for e in events if "text_block_delta" in str(e.type).lower()]

    plain = asyncio.run(chunks([]))
    assert plain
    assert asyncio.run(chunks([ConversationRecorder(path)])) == plain


def test_a_call_that_fails_is_not_recorded(path):
    with teacher(400, "Fine.") as server:
        recorder = ConversationRecorder(path)
        agent = agent_of(server.model(stream=False), recorder)

        async def talk():
            with pytest.raises(BadRequestError):
                await say(agent)
            await say(agent)
            await recorder.flush()

        asyncio.run(talk())
    (recorded,) = Recordings(path).read()
    assert recorded.exchange.result.message.text == "Fine."


def test_an_interrupted_answer_is_not_recorded(folder, path):
    model = chat_model(folder, max_tokens=1500)
    recorder = ConversationRecorder(path)
    agent = agent_of(model, recorder)

    async def talk():
        spoke = asyncio.Event()

        async def listen():
            async for event in agent.reply_stream(UserMsg(name="user", content="Hello")):
                if "text_block_delta" in str(event.type).lower():
                    spoke.set()

        task = asyncio.create_task(listen())
        await spoke.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        model.parameters.max_tokens = 5
        await say(agent)
        await recorder.flush()

    asyncio.run(talk())
    assert [len(r.exchange.result.message.generation.ids) for r in Recordings(path).read()] == [5]


class Odd(ChatModelBase):
    """A provider whose answers the recorder cannot read."""

    def __init__(self, inner):
        super().__init__(inner.credential, "odd", inner.parameters, stream=False)
        self.formatter = inner.formatter

    async def _call_api(self, model_name, messages, tools=None, tool_choice=None, **kwargs):
        return ChatResponse(content=[TextBlock(text="Hi.")], is_last=True, usage="none")


def test_what_cannot_be_recorded_disturbs_nobody(path, caplog):
    with teacher() as server:
        recorder = ConversationRecorder(path)
        agent = agent_of(Odd(server.model(stream=False)), recorder)
        with caplog.at_level(logging.ERROR):

            async def talk():
                return [chunk async for chunk in _model_call(recorder, agent)]

            asyncio.run(talk())
    assert "an answer is not recorded" in caplog.text


async def _model_call(recorder, agent):
    messages = [UserMsg(name="user", content="Hello")]
    kwargs = {"messages": messages, "tools": [], "tool_choice": None, "current_model": agent.model}

    async def model(messages, tools, tool_choice, current_model):
        return await current_model(messages, tools, tool_choice)

    answer = await recorder.on_model_call(agent, kwargs, model)
    assert answer.content[0].text == "Hi."
    yield answer


def test_a_secret_in_a_conversation_is_not_written(path):
    secret = "sk-" + "a1B2c3D4e5F6g7H8i9"
    with teacher(f"Your key is {secret}.") as server:
        recorder = ConversationRecorder(path)
        agent = agent_of(server.model(stream=True), recorder)

        async def talk():
            await say(agent, f"My key is {secret}")
            await recorder.flush()

        asyncio.run(talk())
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in content
    assert b"[redacted secret]" in content


def test_agents_that_talk_at_once_are_told_apart(folder, path):
    model = chat_model(folder, max_tokens=8)
    recorder = ConversationRecorder(path)
    agents = [agent_of(model, recorder, name=f"Agent{number}") for number in range(6)]

    async def talk():
        await asyncio.gather(*(say(agent, f"I speak to {agent.name}") for agent in agents))
        await recorder.flush()

    asyncio.run(talk())
    recorded = list(Recordings(path).read())
    assert sorted(r.agent for r in recorded) == [agent.name for agent in agents]
    for one in recorded:
        assert f"I speak to {one.agent}" in [m.text for m in one.exchange.request.messages]
