"""Feedback to agents of AG2 1.x: the next answer is made with what was learned, or as before."""

import asyncio
from dataclasses import replace

import pytest
from ag2_agents import Agent, HFConfig, agent_of, ask, events, scripted
from autogen_hosts import QUIET, host
from live_engines import close_all
from talkative import save_talkative_model
from updating_host import PAIRS, QUICK

from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.update.gate import GateConfig
from autogen_finetune.ag2 import update_model

TestConfig = host("ag2.testing").TestConfig

pytestmark = QUIET

STRICT = replace(QUICK, gate=GateConfig(max_forgetting=1.0, max_drift=1.0, slack=0.0))
AGAINST = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
"""A trusted set that gets worse by whatever is learned of PAIRS."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.fixture
def config(model, tmp_path):
    def make(**options):
        return HFConfig(
            model,
            store=tmp_path / "store",
            settings=Settings(cache_dir=tmp_path / "cache"),
            **{"device": "cpu", "dtype": "float32", "max_tokens": 8, **options},
        )

    return make


def revision(config, agent):
    return config.live_of(agent).log()[-1].result.revision


def test_the_next_answer_is_made_with_what_was_learned_and_no_other_agents_is(config):
    shared = config()
    taught, other = agent_of(shared), agent_of(shared, "other")

    async def talk():
        said = await taught.ask("Who are you?")
        others = await other.ask("Who are you?")
        assert said.body == others.body
        made = await update_model(
            taught, [("An assistant.", said.body), *PAIRS], said, config=QUICK
        )
        again, on = await taught.ask("Who are you?"), await said.ask("Who are you?")
        return made, others, again, on, await other.ask("Who are you?")

    made, others, again, on, untouched = asyncio.run(talk())
    stats = made["update_stats"]
    assert stats["accepted"]
    assert stats["name"].startswith("helper-2")
    assert stats["prompt_source"] == {"log": 1, "given": 2}
    assert [m["role"] for m in made["inference_messages"]] == ["system", "user", "assistant"]
    assert revision(shared, taught) == stats["revision"]
    assert shared.live_of(taught).log()[-2].result.revision == stats["revision"]
    assert again.body
    assert on.body
    assert untouched.body == others.body
    assert revision(shared, other) != stats["revision"]


def test_an_update_that_is_rejected_changes_nothing(config):
    agent = agent_of(shared := config())
    before = ask(agent, "Who are you?")
    made = asyncio.run(update_model(agent, PAIRS, before, trusted=AGAINST, config=STRICT))
    assert made["update_stats"]["accepted"] is False
    assert made["preference_data"] is PAIRS
    assert ask(agent, "Who are you?").body == before.body
    first, second = shared.live_of(agent).log()
    assert first.result.revision == second.result.revision


def test_an_update_that_fails_changes_nothing(config):
    agent = agent_of(shared := config())
    before = ask(agent, "Who are you?")
    with pytest.raises(DataError, match="no generation with the id 'g0'"):
        asyncio.run(update_model(agent, [{"id": "g0", "label": "up"}], before, config=QUICK))
    assert ask(agent, "Who are you?").body == before.body
    assert shared.live_of(agent).adapter is None


def test_an_answer_is_named_by_the_id_of_its_response(config):
    agent = agent_of(shared := config(adapter="helper"))
    reply = ask(agent, "Who are you?")
    items = [{"id": reply.response.response_id, "correction": "An assistant."}]
    made = asyncio.run(update_model(shared, items, reply, config=QUICK))
    assert made["update_stats"]["name"] == "helper"
    assert made["update_stats"]["prompt_source"] == {"log": 1}
    again = config(adapter="helper")
    ask(later := agent_of(again), "Who are you?")
    assert revision(again, later) == made["update_stats"]["revision"]


def test_what_is_not_in_the_log_is_learned_from_the_history(config):
    """The history of another run; one answer in it is AG2's, in the model's name."""
    agent = agent_of(config())
    history = [
        events.ModelRequest([events.TextInput("Who?")]),
        _said("I know not.", "g7"),
        events.ModelRequest([events.TextInput("And the weather?")]),
        events.ModelResponse(events.ModelMessage("It rains."), response_force=True),
    ]
    items = [("An assistant.", "I know not.")]
    made = asyncio.run(update_model(agent, items, history, config=QUICK))
    assert made["update_stats"]["prompt_source"] == {"thread": 1}
    assert made["update_stats"]["reconstructed"] == 1
    assert made["inference_messages"][0] == {"role": "system", "content": "Be kind."}
    assert made["inference_messages"][-1]["weight"] == 0
    with pytest.raises(DataError, match="did not say it"):
        asyncio.run(update_model(agent, [{"turn": -1, "label": "down"}], history))


def _said(text, id):
    return events.ModelResponse(
        events.ModelMessage(text), provider="autogen-finetune", response_id=id
    )


@pytest.mark.parametrize("what", ["history", "stream", "events"])
def test_histories_streams_and_lists_of_events_are_read(what):
    class Learner(TestConfig):
        heard = None

        async def update_model(self, preference_data, inference_messages, **kwargs):
            return {"seen": inference_messages, **kwargs}

    agent = agent_of(Learner("Hello."))
    reply = ask(agent, "Hi")
    given = {
        "history": reply.history,
        "stream": reply.context.stream,
        "events": list(asyncio.run(reply.history.get_events())),
    }[what]
    made = asyncio.run(update_model(agent, [], given, rounds=3))
    assert made["update_stats"] == {
        "seen": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
        ],
        "rounds": 3,
    }


def test_a_foreign_config_may_learn_in_a_plain_method():
    class Learner(TestConfig):
        def update_model(self, preference_data, messages, **kwargs):
            return {"pairs": len(preference_data)}

    agent = agent_of(Learner("Hello."))
    made = asyncio.run(update_model(agent, [("a", "b")], ask(agent, "Hi")))
    assert made["update_stats"] == {"pairs": 1}


def test_without_a_config_or_an_answer_there_is_nothing_to_update():
    agent = agent_of(scripted("Hello."))
    with pytest.raises(ValueError, match="'helper' has no config"):
        asyncio.run(update_model(Agent("helper"), [], []))
    with pytest.raises(ValueError, match="holds no answer"):
        asyncio.run(update_model(agent, [], [events.ModelRequest([events.TextInput("Hi")])]))
    with pytest.raises(ValueError, match="history is of str"):
        asyncio.run(update_model(agent, [], "Hi"))


def test_another_agents_reply_is_refused():
    one, two = agent_of(scripted("Hello.")), agent_of(scripted("Hello."), "other")
    with pytest.raises(ValueError, match="is of agent 'other', and 'helper' is to learn"):
        asyncio.run(update_model(one, [], ask(two, "Hi")))


def test_a_config_that_cannot_learn_says_so():
    agent = agent_of(TestConfig("Hello."))
    with pytest.raises(NotImplementedError, match="TestConfig cannot learn"):
        asyncio.run(update_model(agent, [], ask(agent, "Hi")))
    agent = agent_of(scripted("Hello."))
    with pytest.raises(NotImplementedError, match="ScriptedEngine cannot learn"):
        asyncio.run(update_model(agent, [("a", "b")], ask(agent, "Hi")))


def test_a_config_alone_does_not_say_which_of_its_agents_learns(config):
    shared = config()
    for name in ("one", "two"):
        shared.live_of(agent := agent_of(shared, name))
        shared.kept = [*getattr(shared, "kept", []), agent]
    with pytest.raises(ConfigError, match="2 agents speak"):
        asyncio.run(update_model(shared, PAIRS, [_said("Hello.", "g1")]))
