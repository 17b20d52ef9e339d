"""Feedback on conversations of AutoGen 0.4+: the next answer is made with what was learned."""

import asyncio
import json
from dataclasses import replace

import pytest
from agentchat_clients import CALL, learned, open_client, scripted
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import StructuredMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import AssistantMessage, RequestUsage, SystemMessage, UserMessage
from chat_completion_contract import HELLO, WEATHER
from live_engines import close_all, make_adapter
from pydantic import BaseModel
from talkative import save_talkative_model
from updating_host import PAIRS, QUICK

from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError, TrainError
from agent_finetune.update.gate import GateConfig
from autogen_finetune.agentchat import HFChatCompletionClient, update_model

STRICT = replace(
    QUICK,
    train=replace(QUICK.train, learning_rate=1.0),
    gate=GateConfig(max_forgetting=0.0, max_drift=0.0),
)
USED = RequestUsage(prompt_tokens=1, completion_tokens=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.fixture
def client(folder, tmp_path):
    """Makes clients that share one folder of adapters."""

    def make(**options):
        settings = Settings(cache_dir=tmp_path / "cache")
        return open_client(folder, store=tmp_path / "store", settings=settings, **options)

    return make


def say(agent, task="Who are you?"):
    return asyncio.run(agent.run(task=task))


def answer(client):
    return asyncio.run(client.create(HELLO)).content


def update(agent, data, conversation, **options):
    return asyncio.run(update_model(agent, data, conversation, **{"config": QUICK, **options}))


def test_the_next_answer_of_an_agent_is_made_with_what_it_learned(client):
    mine, others = client(), client()
    agent = AssistantAgent("helper", mine)
    result = say(agent)
    before, kept = answer(mine), answer(others)
    data = [("I am an assistant.", result.messages[-1].content)]
    told = update(agent, data, result)
    stats = told["update_stats"]
    assert stats["accepted"], stats["summary"]
    assert stats["prompt_source"] == {"log": 1}
    assert stats["name"].startswith("helper-")
    assert told["preference_data"] is data
    assert [m["role"] for m in told["inference_messages"]] == ["system", "user", "assistant"]
    json.dumps(told["inference_messages"])
    assert answer(mine) != before
    assert answer(others) == kept
    assert mine.live.log()[-1].result.revision == stats["revision"]
    component = mine.dump_component().config
    assert component["adapter"] == stats["name"]
    assert component["store"] == str(mine.live.store)


def test_an_agent_that_learned_goes_to_json_and_comes_back_as_it_is(client, folder, tmp_path):
    mine = client(adapter="helper")
    learned(mine, make_adapter(folder, tmp_path / "lesson", seed=7))
    agent = AssistantAgent("helper", mine)
    again = AssistantAgent.load_component(json.loads(agent.dump_component().model_dump_json()))
    assert say(again).messages[-1].content == say(agent).messages[-1].content
    assert again._model_client.revision == mine.revision


def test_a_rejected_update_leaves_answers_and_component_as_they_were(client):
    mine = client()
    before, revision, dumped = answer(mine), mine.revision, mine.dump_component()
    stats = update(mine, PAIRS, HELLO, config=STRICT)["update_stats"]
    assert not stats["accepted"]
    assert (answer(mine), mine.revision, mine.dump_component()) == (before, revision, dumped)


def test_a_failed_update_leaves_answers_as_they_were(client):
    mine = client(adapter="helper")
    before, revision = answer(mine), mine.revision
    broken = replace(QUICK, train=replace(QUICK.train, learning_rate=1e30))
    with pytest.raises((TrainError, DataError)):
        update(mine, PAIRS, HELLO, config=broken)
    assert (answer(mine), mine.revision) == (before, revision)


def test_the_event_loop_is_free_while_an_agent_learns_and_it_answers_meanwhile(client):
    mine = client()

    async def both():
        learning = asyncio.create_task(update_model(mine, PAIRS, HELLO, config=QUICK))
        answers = 0
        while not learning.done():
            await mine.create(HELLO)
            answers += 1
        return answers, (await learning)["update_stats"]["accepted"]

    answers, accepted = asyncio.run(both())
    assert answers > 2
    assert accepted


def test_agents_that_name_one_adapter_learn_together(client, folder, tmp_path):
    one, other = client(adapter="shared"), client(adapter="shared")
    before = answer(one)
    assert answer(other) == before
    learned(one, make_adapter(folder, tmp_path / "lesson", seed=7))
    assert answer(other) == answer(one) != before


def test_each_member_of_a_team_learns_from_its_own_words(client):
    one, two = client(), client()
    writer, critic = AssistantAgent("writer", one), AssistantAgent("critic", two)
    team = RoundRobinGroupChat([writer, critic], termination_condition=MaxMessageTermination(3))
    result = asyncio.run(team.run(task="Write a poem"))
    said = {message.source: message.content for message in result.messages}
    told = update(critic, [("It is good.", said["critic"])], result)
    assert told["update_stats"]["prompt_source"] == {"log": 1}
    assert [(m["role"], m.get("name")) for m in told["inference_messages"][1:]] == [
        ("user", "user"),
        ("user", "writer"),
        ("assistant", "critic"),
    ]
    with pytest.raises(DataError):
        update(writer, [("It is good.", said["critic"]), ("No.", "what nobody said")], result)


def conversation(kind, agent, result):
    context = UnboundedChatCompletionContext()
    messages = asyncio.run(agent.model_context.get_messages())
    for message in messages:
        asyncio.run(context.add_message(message))
    return {
        "result": result,
        "messages": result.messages,
        "context": context,
        "model": messages,
        "agent": agent,
    }[kind]


@pytest.mark.parametrize("kind", ["result", "messages", "context", "model", "agent"])
def test_a_conversation_may_come_in_any_form_and_says_the_same(kind):
    client = Learner(CALL, "It rains.")
    agent = AssistantAgent("helper", client, tools=[WEATHER], reflect_on_tool_use=True)
    result = say(agent, "What is the weather in Paris?")
    told = asyncio.run(update_model(agent, [], conversation(kind, agent, result)))
    roles = [message["role"] for message in told["inference_messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert told["inference_messages"][2]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert client.heard == ([], told["inference_messages"], {})
    assert told["update_stats"] == {"loss": 0.5}


class Learner(HFChatCompletionClient):
    """Stands for another's client, that learns in a way of its own and knows no live model."""

    def __init__(self, *answers):
        self.inner = scripted(*answers)
        self.heard = None

    live = None

    @property
    def model_info(self):
        return self.inner.model_info

    async def create(self, *args, **options):
        return await self.inner.create(*args, **options)

    async def update_model(self, preference_data, messages, **kwargs):
        self.heard = (preference_data, messages, kwargs)
        return {"loss": 0.5}


class Plain(Learner):
    """One that is not async."""

    def update_model(self, preference_data, messages, **kwargs):
        asyncio.run(asyncio.sleep(0))  # only where no loop runs: in a thread
        return {"heard": len(messages), **kwargs}


def test_a_client_whose_update_is_not_async_learns_in_a_thread():
    told = asyncio.run(update_model(Plain("Hi"), ["as given"], HELLO, rate=2))
    assert told["update_stats"] == {"heard": 1, "rate": 2}
    assert told["preference_data"] == ["as given"]


def test_an_agent_without_a_client_cannot_be_updated():
    with pytest.raises(ValueError, match="UserProxyAgent, which has no model client"):
        asyncio.run(update_model(UserProxyAgent("user"), [], HELLO))


def test_a_client_that_cannot_learn_says_so():
    class Deaf(Learner):
        update_model = None

    with pytest.raises(NotImplementedError, match="Deaf cannot learn"):
        asyncio.run(update_model(AssistantAgent("a", Deaf("Hi")), [], HELLO))


def test_an_empty_conversation_is_refused():
    agent = AssistantAgent("helper", scripted("Hi"))
    for empty in ([], agent, TaskResult(messages=[]), [SystemMessage(content="Be brief.")]):
        with pytest.raises(ValueError, match="the conversation is empty"):
            asyncio.run(update_model(agent, [], empty))


def test_what_is_no_conversation_is_refused():
    agent, other = (AssistantAgent(name, scripted("Hi")) for name in ("helper", "other"))
    with pytest.raises(ValueError, match="conversation is of UserProxyAgent; legal are"):
        asyncio.run(update_model(agent, [], UserProxyAgent("user")))
    with pytest.raises(ValueError, match="the conversation is the agent 'other', and 'helper'"):
        asyncio.run(update_model(agent, [], other))


def test_of_a_team_an_agent_must_be_given_and_not_its_client():
    client = Learner("Hi")
    said = [
        TextMessage(content="Hi", source=name, models_usage=USED) for name in ("writer", "critic")
    ]
    with pytest.raises(ValueError, match="a model answered for 'writer', 'critic'"):
        asyncio.run(update_model(client, [], said))
    with pytest.raises(ValueError, match="a model answered for no one"):
        asyncio.run(update_model(client, [], [TextMessage(content="Hi", source="user")]))


def test_what_others_said_as_assistants_is_not_learned_as_the_agents_own():
    agent = AssistantAgent("helper", Learner("Hi"), system_message=None)
    said = [
        UserMessage(content="Hi", source="user"),
        AssistantMessage(content="I hand over.", source="other"),
        AssistantMessage(content="Hello.", source="helper"),
    ]
    dicts = asyncio.run(update_model(agent, [], said))["inference_messages"]
    assert [message.get("weight") for message in dicts] == [None, 0, None]


class Fact(BaseModel):
    city: str


def test_an_object_is_written_as_the_model_wrote_it():
    agent = AssistantAgent("helper", Learner("Hi"), system_message=None)
    fact = StructuredMessage[Fact](content=Fact(city="Köln"), source="helper", models_usage=USED)
    said = [TextMessage(content="Where?", source="user"), fact]
    dicts = asyncio.run(update_model(agent, [], said))["inference_messages"]
    assert dicts[1]["content"] == '{"city": "Köln"}'
