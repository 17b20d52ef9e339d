"""AutoGen's cache of answers, and the one that knows what was learned."""

import asyncio

import pytest
from agentchat_clients import CALL, learned, open_client, scripted
from autogen_agentchat.agents import AssistantAgent
from autogen_core import InMemoryStore
from autogen_core.models import ChatCompletionClient, CreateResult
from autogen_hosts import host
from chat_completion_contract import HELLO, ChatCompletionClientContract
from live_engines import close_all, make_adapter
from talkative import save_talkative_model
from updating_host import PAIRS, QUICK

from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError

host("autogen_ext.models.cache")

from autogen_ext.models.cache import ChatCompletionCache  # noqa: E402

from autogen_finetune.agentchat import update_model  # noqa: E402
from autogen_finetune.agentchat.cache import RevisionedCache  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.fixture(scope="module")
def lessons(folder, tmp_path_factory):
    """Two adapters, as updates would have made them."""
    store = tmp_path_factory.mktemp("lessons")
    return [make_adapter(folder, store / str(seed), seed=seed) for seed in (1, 2)]


@pytest.fixture
def client(folder, tmp_path):
    settings = Settings(cache_dir=tmp_path / "cache")
    return open_client(folder, store=tmp_path / "store", adapter="helper", settings=settings)


def create(client):
    return asyncio.run(client.create(HELLO))


class TestCached(ChatCompletionClientContract):
    """A cache is a client too; here one that holds nothing yet."""

    def talker(self):
        return RevisionedCache(scripted("I am an assistant."))

    def caller(self):
        return RevisionedCache(scripted(CALL))


def test_autogens_own_cache_answers_with_weights_of_before(client, lessons):
    cache = ChatCompletionCache(client)
    before = create(cache).content
    learned(client, lessons[0])
    stale = create(cache)
    assert stale.cached
    assert stale.content == before != create(client).content


def test_ours_asks_the_model_anew_once_it_learned_and_no_sooner(client):
    cache = RevisionedCache(client)
    agent = AssistantAgent("helper", cache)
    before = create(cache).content
    assert create(cache).cached
    learning = update_model(agent, PAIRS, HELLO, config=QUICK)
    assert asyncio.run(learning)["update_stats"]["accepted"]
    after = create(cache)
    assert not after.cached
    assert after.content != before
    assert create(cache).cached


def test_what_was_kept_speaks_again_after_a_roll_back(client, lessons):
    cache = RevisionedCache(client)
    said = []
    for lesson in lessons:
        learned(client, lesson)
        said.append(create(cache))
    assert not any(result.cached for result in said)
    client.live.roll_back()
    first = create(cache)
    assert first.cached
    assert first.content == said[0].content != said[1].content


def test_streams_are_kept_in_the_same_way(client, lessons):
    cache = RevisionedCache(client)

    async def read():
        return [piece async for piece in cache.create_stream(HELLO)]

    asyncio.run(read())
    again = asyncio.run(read())
    assert isinstance(again[-1], CreateResult)
    assert again[-1].cached
    learned(client, lessons[0])
    assert not asyncio.run(read())[-1].cached


def test_clients_of_other_weights_or_options_may_share_a_store(folder, tmp_path):
    store = InMemoryStore()
    tuned = make_adapter(folder, tmp_path / "adapter", seed=5)
    clients = [
        open_client(folder),
        open_client(folder, adapter=tuned),
        open_client(folder, max_tokens=5),
    ]
    results = [create(RevisionedCache(each, store)) for each in clients]
    assert not any(result.cached for result in results)
    assert len({result.content for result in results}) == 3
    assert create(RevisionedCache(open_client(folder), store)).cached


def test_a_cache_is_a_component_that_brings_its_client_back(client):
    cache = RevisionedCache(client)
    again = ChatCompletionClient.load_component(cache.dump_component().model_dump())
    assert isinstance(again, RevisionedCache)
    assert again.live.name == "helper"


def test_only_our_clients_have_a_revision():
    with pytest.raises(ConfigError, match="must be an HFChatCompletionClient"):
        RevisionedCache(RevisionedCache(scripted("Hi")))


def test_autogens_own_cache_is_told_from_ours_when_it_is_to_learn(client):
    with pytest.raises(NotImplementedError, match=r"agentchat\.cache\.RevisionedCache can"):
        asyncio.run(update_model(ChatCompletionCache(client), PAIRS, HELLO))
