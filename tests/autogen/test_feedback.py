"""Thumbs and corrections: about the right answer, kept until learned, on every AutoGen."""

import asyncio
import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
from autogen_hosts import QUIET, ag2, agentchat, classic
from classic_agents import SCRIPT, assistant, scripted, tiny, user
from live_engines import ask, close_all, config_of
from talkative import save_talkative_model
from updating_host import QUICK

from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.recordings import Recordings
from agent_finetune.update.gate import GateConfig
from autogen_finetune.feedback import correct, learn, live_model, thumbs_down, thumbs_up
from autogen_finetune.live import LiveModel
from autogen_finetune.registration import attach
from autogen_finetune.update_model import update_model

autogen = classic()
pytestmark = QUIET


def agent_on(live, name="assistant", **options):
    return attach(assistant(name, copy.deepcopy(SCRIPT), **options), live=live)


def chat(agent, text="Hello", **options):
    peer = user(default_auto_reply="Go on.")
    peer.initiate_chat(agent, message=text, silent=True, **{"max_turns": 1, **options})
    return peer


def answers(live):
    return {exchange.result.id: exchange.result.message.text for exchange in live.log()}


def waiting(live):
    return [item for item, _ in live._judged.values()]


def test_a_thumb_is_about_the_last_answer_of_the_agent():
    live = scripted("First.", "Second.")
    agent = agent_on(live)
    chat(agent, max_turns=2)
    good, bad = thumbs_up(agent), thumbs_down(agent, answer="First.")
    assert [good["label"], bad["label"]] == [True, False]
    assert [answers(live)[item["id"]] for item in (good, bad)] == ["Second.", "First."]
    assert waiting(live) == [good, bad]


def test_a_summary_that_a_model_wrote_is_not_the_last_answer():
    live = scripted("Good day.", "They greeted.")
    agent = agent_on(live)
    peer = chat(agent)
    agent._reflection_with_llm("Summarize.", agent.chat_messages[peer], llm_agent=agent)
    assert [*answers(live).values()] == ["Good day.", "They greeted."]
    assert answers(live)[thumbs_up(agent)["id"]] == "Good day."


def test_of_two_agents_that_share_a_model_each_is_judged_for_its_own():
    live = scripted("I am one.", "I am two.", "I am one again.")
    one, two = agent_on(live, "one"), agent_on(live, "two")
    two.update_system_message("Be brief.")
    for agent in (one, two, one):
        chat(agent)
    assert answers(live)[thumbs_up(two)["id"]] == "I am two."
    assert answers(live)[thumbs_up(one)["id"]] == "I am one again."


def test_a_client_is_judged_as_the_agent_is_that_speaks_through_it():
    live = scripted("I am one.")
    agent = agent_on(live)
    chat(agent)
    (client,) = agent.client._clients
    assert thumbs_up(client) == thumbs_up(agent)


def test_what_was_said_outside_of_chats_is_judged_where_only_that_can_be_meant():
    live = scripted("Alone.", "In a chat.", "Alone again.")
    agent = agent_on(live)
    agent.generate_reply([{"role": "user", "content": "Hello"}])
    assert answers(live)[thumbs_up(agent)["id"]] == "Alone."
    chat(agent)
    assert answers(live)[thumbs_up(agent)["id"]] == "In a chat."
    agent.generate_reply([{"role": "user", "content": "Hello"}])
    with pytest.raises(DataError, match=r"'In a chat\.' in a chat and 'Alone again\.' after that"):
        thumbs_up(agent)
    assert answers(live)[thumbs_up(agent, answer="Alone again.")["id"]] == "Alone again."


def test_a_correction_says_more_than_a_thumb_whichever_comes_first():
    live = scripted("Wrong.")
    agent = agent_on(live)
    chat(agent)
    thumbs_down(agent)
    item = correct(agent, "Right.")
    thumbs_up(agent)
    assert waiting(live) == [item]
    assert item["correction"] == "Right."


def test_who_said_nothing_cannot_be_judged():
    agent = agent_on(scripted("Never."))
    with pytest.raises(DataError, match="'assistant' said nothing that its log holds"):
        thumbs_up(agent)
    chat(agent)
    with pytest.raises(DataError, match="'assistant' said not 'Something else'"):
        correct(agent, "Right.", answer="Something else")


@pytest.mark.parametrize("text", ["", " "])
def test_a_correction_must_say_something(text):
    agent = agent_on(scripted("Wrong."))
    chat(agent)
    with pytest.raises(DataError):
        correct(agent, text)


def test_an_agent_without_a_model_of_ours_cannot_be_judged():
    with pytest.raises(ConfigError, match="agent 'user' has 0 clients that are an HFModelClient"):
        thumbs_up(user())
    with pytest.raises(ConfigError, match="SimpleNamespace 'x' speaks with SimpleNamespace"):
        thumbs_up(SimpleNamespace(name="x"))


def test_there_must_be_something_to_learn():
    live = LiveModel(config_of("nowhere"), settings=Settings())
    with pytest.raises(DataError, match="no answer was judged"):
        learn(live)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


@pytest.fixture
def taught(folder, tmp_path):
    """An agent that said something and was corrected; what it said is recorded."""
    files = {"store": str(tmp_path / "store"), "record_to": str(tmp_path / "said.db")}
    agent = attach(assistant("assistant", tiny(folder, **files)))
    peer = chat(agent)
    return agent, peer, agent.client._clients[0].live, tmp_path / "said.db"


def test_corrections_are_recorded_and_learned_once(taught):
    agent, peer, live, database = taught
    before = agent.last_message(peer)["content"]
    item = correct(agent, "I am an assistant.")
    assert Recordings(database).show(item["id"]).judgement.correction == "I am an assistant."
    stats = learn(agent, config=QUICK)
    assert stats["accepted"], stats["summary"]
    assert (stats["pairs"], stats["prompt_source"]) == (1, {"log": 1})
    assert stats["name"].startswith("assistant-2")
    assert waiting(live) == []
    assert agent.last_message(chat(agent))["content"] != before


def test_what_was_judged_waits_for_an_update_that_is_accepted(taught):
    agent, peer, live, _ = taught
    item = correct(agent, "I am an assistant.")
    live._said.clear()  # as after many more answers
    strict = replace(QUICK, gate=GateConfig(max_forgetting=0.0, max_drift=0.0))
    told = update_model(agent, None, peer, config=strict)
    assert not told["update_stats"]["accepted"]
    assert waiting(live) == [item]
    assert update_model(agent, None, peer, config=QUICK)["update_stats"]["accepted"]
    assert told["preference_data"] is None
    assert waiting(live) == []


def test_thumbs_are_learned_from_two_answers_on(taught):
    agent, peer, _, _ = taught
    thumbs_down(agent)
    with pytest.raises(DataError, match="needs at least 2"):
        learn(agent, config=QUICK)
    peer.send("Who are you?", agent, silent=True, request_reply=False)
    agent.generate_reply(sender=peer)
    thumbs_up(agent, answer=[*answers(taught[2]).values()][-1])
    assert learn(agent, config=QUICK)["verdicts"] == 2


def test_a_live_model_can_be_judged_itself(folder, tmp_path):
    live = LiveModel(config_of(folder), store=tmp_path, settings=Settings())
    said = live.stream(ask("Who are you?")).result()
    assert thumbs_down(live) == {"id": said.id, "label": False}
    live.close()


# AutoGen 0.4 and later.


def test_agents_of_agentchat_that_share_a_client_are_judged_for_their_own():
    agentchat()
    from autogen_agentchat.agents import AssistantAgent

    from autogen_finetune.agentchat import HFChatCompletionClient

    live = scripted("I am one.", "I am two.")
    client = HFChatCompletionClient(model="script", live=live)
    one, two = (AssistantAgent(name, model_client=client) for name in ("one", "two"))

    async def talk():
        await one.run(task="Hello")
        await two.run(task="Hello")

    asyncio.run(talk())
    assert answers(live)[thumbs_up(one)["id"]] == "I am one."
    assert answers(live)[thumbs_down(two)["id"]] == "I am two."
    assert len(waiting(live)) == 2


# AG2 1.x.


def test_agents_of_ag2_that_share_a_config_are_judged_for_their_own():
    ag2()
    from ag2 import Agent

    from autogen_finetune.ag2 import HFConfig

    live = scripted("I am one.", "I am two.")
    config = HFConfig(model="script", live=live)
    one, two = (Agent(name, f"You are {name}.", config=config) for name in ("one", "two"))
    for agent in (one, two):
        asyncio.run(agent.ask("Hello"))
    assert answers(live)[thumbs_up(one)["id"]] == "I am one."
    assert answers(live)[thumbs_up(two)["id"]] == "I am two."
    separate = HFConfig(model="script")
    one, two = (Agent(name, config=separate) for name in ("one", "two"))
    assert live_model(one) is live_model(one) is not live_model(two)
