"""Once a model has learned, no cache of AutoGen answers for it; until then its cache works."""

import pickle

import pytest
from autogen_hosts import QUIET, classic
from classic_agents import assistant, learned, scripted, tiny, user
from live_engines import close_all, make_adapter
from talkative import save_talkative_model

from autogen_finetune.hf_client import HFModelClient
from autogen_finetune.registration import attach, llm_config

autogen = classic()
pytestmark = QUIET
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


@pytest.fixture(scope="module")
def lesson(folder, tmp_path_factory):
    return make_adapter(folder, tmp_path_factory.mktemp("lesson") / "adapter", seed=2)


class Memory:
    """A cache as AutoGen takes one; what it holds is what was put in."""

    def __init__(self):
        self.held = {}
        self.hits = 0

    def get(self, key, default=None):
        key = str(key)  # 0.14 has a dict
        self.hits += key in self.held
        return self._out(self.held[key]) if key in self.held else default

    def set(self, key, value):
        self.held[str(key)] = self._in(value)

    def _in(self, value):
        return value

    def _out(self, value):
        return value

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


class Disk(Memory):
    """A cache that pickles, as those on disk and in Redis do."""

    def _in(self, value):
        return pickle.dumps(value)

    def _out(self, value):
        return pickle.loads(value)


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """AutoGen's own cache is in the current folder."""
    monkeypatch.chdir(tmp_path)


def config_of(folder, **options):
    return tiny(folder, adapter="helper", store="store", **options)


def default_of(folder):
    """Without a word on caches: 0.2 then has one, on disk."""
    config = config_of(folder)
    del config["cache_seed"]
    return config


def plain(config, name="helper"):
    agent = assistant(name, config)
    agent.register_model_client(model_client_cls=HFModelClient)
    return agent


def attached(config, name="helper"):
    return attach(assistant(name, config))


def ask(agent, **options):
    response = agent.client.create(messages=HELLO, **options)
    (text,) = agent.client.extract_text_or_completion_object(response)
    assert response.choices[0].message.content == text
    return text


def made(agent):
    """How many answers the model made."""
    return len(agent.client._clients[0].live.log())


@pytest.mark.parametrize("registered", [plain, attached])
@pytest.mark.parametrize("kind", [Memory, Disk])
def test_after_learning_a_cache_object_answers_from_the_new_weights(
    folder, lesson, tmp_path, kind, registered
):
    cache, agent = kind(), registered(config_of(folder))
    before = ask(agent, cache=cache)
    assert ask(agent, cache=cache) == before
    assert (cache.hits, made(agent)) == (1, 1)
    learned(tmp_path / "store", "helper", lesson)
    after = ask(agent, cache=cache)
    assert after != before
    assert after == ask(agent)
    count = made(agent)
    assert ask(agent, cache=cache) == after
    assert made(agent) == count  # the cache holds the new answer now


@pytest.mark.parametrize("config", [default_of, lambda folder: config_of(folder, cache_seed=7)])
def test_after_learning_the_hosts_own_cache_answers_from_the_new_weights(
    folder, lesson, tmp_path, config
):
    agent = plain(config(folder))
    before = ask(agent)
    assert ask(agent) == before
    learned(tmp_path / "store", "helper", lesson)
    after = ask(agent)
    assert before != after == ask(plain(config_of(folder)))


def test_the_default_cache_of_0_2_does_answer_a_second_time(folder):
    pytest.importorskip("diskcache")
    agent = plain(config_of(folder, cache_seed=7))
    ask(agent)
    ask(plain(config_of(folder, cache_seed=7)))
    assert made(agent) == 1


def test_after_a_restart_the_answers_of_before_learning_are_not_given(folder, lesson, tmp_path):
    before = ask(plain(default_of(folder)))
    learned(tmp_path / "store", "helper", lesson)
    assert ask(plain(default_of(folder))) != before


def test_in_a_group_chat_too_the_next_answer_is_of_the_new_weights(folder, lesson, tmp_path):
    agent, peer = attached(config_of(folder, cache_seed=7)), user()

    def answer_in_group():
        group = autogen.GroupChat(
            agents=[peer, agent],
            messages=[],
            max_round=2,
            speaker_selection_method="round_robin",
        )
        manager = autogen.GroupChatManager(group, llm_config=False)
        peer.initiate_chat(manager, message="Hello", silent=True)
        return group.messages[-1]["content"]

    before = answer_in_group()
    assert answer_in_group() == before
    learned(tmp_path / "store", "helper", lesson)
    assert answer_in_group() != before
    assert answer_in_group() == agent.client._clients[0].live.log()[-1].result.message.text


def test_a_roll_back_brings_the_answers_of_before(folder, lesson, tmp_path):
    cache, agent = Disk(), plain(config_of(folder))
    learned(tmp_path / "store", "helper", lesson)
    first = ask(agent, cache=cache)
    other = make_adapter(folder, tmp_path / "other", seed=5)
    learned(tmp_path / "store", "helper", other)
    assert ask(agent, cache=cache) != first
    agent.client._clients[0].live.roll_back()
    assert ask(agent, cache=cache) == first


def test_what_one_agent_learned_is_not_answered_for_another(folder, lesson, tmp_path):
    learned(tmp_path / "store", "lesson", lesson)
    cache, agents = Disk(), []
    for adapter in (None, "lesson"):
        agent = assistant("helper", tiny(folder))
        agent.register_model_client(HFModelClient, store="store", adapter=adapter)
        agents.append(agent)
    base, taught = (ask(agent, cache=cache) for agent in agents)
    assert base != taught
    assert [ask(agent, cache=cache) for agent in agents] == [base, taught]


def test_options_of_registration_are_heeded_though_no_cache_knows_them():
    cache, said = Memory(), []
    for count in (1, 2):
        wrapper = autogen.OpenAIWrapper(**llm_config("script"))
        wrapper.register_model_client(HFModelClient, live=scripted("yes"), n=count)
        response = wrapper.create(messages=HELLO, cache=cache)
        said.append(wrapper.extract_text_or_completion_object(response))
    assert said == [["yes"], ["yes", "yes"]]


def test_a_price_paid_stays_the_cost_of_a_cached_answer():
    config = llm_config("script")
    config["config_list"][0]["price"] = [1, 2]
    wrapper = autogen.OpenAIWrapper(**config)
    wrapper.register_model_client(HFModelClient, live=scripted("yes"))
    cache = Disk()
    first, second = (wrapper.create(messages=HELLO, cache=cache) for _ in range(2))
    assert first.cost == second.cost > 0
    assert wrapper.actual_usage_summary["total_cost"] == first.cost
    assert wrapper.total_usage_summary["total_cost"] == 2 * first.cost


def test_a_response_that_somebody_holds_stays_what_it_was(folder, lesson, tmp_path):
    agent = plain(config_of(folder))
    held = agent.client.create(messages=HELLO, cache=Disk())
    words = agent.client.extract_text_or_completion_object(held)
    learned(tmp_path / "store", "helper", lesson)
    assert agent.client.extract_text_or_completion_object(held) == words
