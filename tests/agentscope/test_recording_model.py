"""`RecordingChatModel`: another model, live or hosted, that is recorded."""

import asyncio
import copy
import json

import pytest
from agentscope.agent import Agent
from agentscope.message import UserMsg
from agentscope.model import ChatModelBase
from agentscope.tool import Toolkit
from agentscope_models import chat_model
from live_engines import close_all, config_of
from openai_server import teacher
from pydantic import BaseModel
from talkative import save_talkative_model

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.models import open_tokenizer
from agent_finetune.recordings import Recordings
from agent_finetune.records import Message
from agent_finetune.render import Renderer
from agentscope_finetune import RecordingChatModel


class Place(BaseModel):
    """Somewhere."""

    name: str
    big: bool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.sqlite"


def asked(text="Where is Paris?"):
    return [UserMsg(name="user", content=text)]


async def whole(answer):
    if not hasattr(answer, "__aiter__"):
        return answer
    return [chunk async for chunk in answer][-1]


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_hosted_teacher_says_becomes_data_for_a_local_model(folder, path, stream):
    with teacher("In France.", "In Italy.") as server:
        model = RecordingChatModel(server.model(stream=stream), path, agent="Guide", session="s1")

        async def talk():
            first = await whole(await model(asked()))
            await whole(await model(asked("Where is Rome?")))
            await model.feedback(first.id, value=True)
            return first

        first = asyncio.run(talk())
        assert server.asked[0]["messages"][-1]["content"][0]["text"] == "Where is Paris?"
    assert first.content[0].text == "In France."
    read = readers.read(f"{path}#Guide", settings=Settings())
    assert [e.messages[-1].text for e in read.examples] == ["In France.", "In Italy."]
    renderer = Renderer(open_tokenizer(config_of(folder), Settings()))
    (row,) = renderer.rows(read.examples[0])
    assert row.ids[: sum(not t for t in row.trained)] == renderer.prompt_ids(
        [Message(role="user", text="Where is Paris?")]
    )
    recorded = next(Recordings(path).read())
    assert (recorded.session, recorded.judgement.value) == ("s1", True)


def test_an_object_of_a_hosted_teacher_is_kept_as_a_local_model_would_be_asked(path):
    made = [("c1", "generate_structured_output", '{"name": "Paris", "big": true}')]
    with teacher(made) as server:
        model = RecordingChatModel(server.model(stream=False), path)

        async def talk():
            answer = await model.generate_structured_output(asked(), Place)
            await model.flush()
            return answer

        answer = asyncio.run(talk())
    assert answer.content == {"name": "Paris", "big": True}
    (recorded,) = Recordings(path).read()
    request, result = recorded.exchange.request, recorded.exchange.result
    assert request.schema == Place.model_json_schema()
    assert json.dumps(Place.model_json_schema()) in request.messages[-1].text
    assert json.loads(result.message.text) == answer.content
    assert recorded.tools == ()


def test_a_call_of_a_teacher_that_does_not_parse_is_no_demonstration(path):
    with teacher([("c1", "look", '{"at": ')]) as server:
        model = RecordingChatModel(server.model(stream=False), path)

        async def talk():
            await model(asked())
            await model.flush()

        asyncio.run(talk())
    (recorded,) = Recordings(path).read()
    assert recorded.flaw == "calls cannot be read"
    assert recorded.exchange.result.broken_calls == (
        '{"name": "look", "arguments": "{\\"at\\": "}',
    )


def test_a_live_agent_is_recorded_from_now_on_with_exact_ids(folder, path):
    agent = Agent(name="Guide", system_prompt="Guide.", model=chat_model(folder), toolkit=Toolkit())

    async def talk():
        await agent.reply(asked())
        agent.model = RecordingChatModel(agent.model, path, agent=agent.name)
        await agent.reply(asked("And Rome?"))
        place = await agent.model.generate_structured_output(
            asked(), Place, max_tokens=300, temperature=1.0, seed=1
        )
        await agent.model.flush()
        return place

    place = asyncio.run(talk())
    spoke, structured = Recordings(path).read()
    assert "And Rome?" in [m.text for m in spoke.exchange.request.messages]
    assert spoke.exchange.result.message.generation.ids
    assert structured.id == place.id
    assert structured.exchange.request.schema == Place.model_json_schema()
    assert structured.exchange.result.message.generation.ids


def test_it_is_the_model_that_it_records(folder, path):
    inner = chat_model(folder)
    model = RecordingChatModel(inner, path)
    assert isinstance(model, ChatModelBase)
    for name in (
        "model",
        "stream",
        "context_size",
        "formatter",
        "parameters",
        "credential",
        "type",
    ):
        assert getattr(model, name) == getattr(inner, name)
    assert model.engine is inner.engine
    model.stream = False
    model.context_size = 99
    assert (inner.stream, inner.context_size) == (False, 99)
    count = asyncio.run(model.count_tokens(asked(), None))
    assert count == asyncio.run(inner.count_tokens(asked(), None)) > 0
    assert copy.copy(model).inner is inner
    with pytest.raises(AttributeError):
        _ = model.nothing
    assert not path.exists()
