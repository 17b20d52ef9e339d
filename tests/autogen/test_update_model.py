"""`update_model`, as the 2024 tool had it, on each classic AutoGen; and what our client adds."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import pytest
from autogen_hosts import QUIET, classic
from classic_agents import SCRIPT, TOOL, assistant, called, scripted, tiny, user
from live_engines import close_all
from talkative import save_talkative_model
from updating_host import QUICK

from agent_finetune.errors import DataError
from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_tokenizer
from autogen_finetune.registration import attach
from autogen_finetune.threads import read_thread
from autogen_finetune.update_model import update_model

autogen = classic()
pytestmark = QUIET
ANSWER = "This is what the model says."
BETTER = "this is what the response should have been like"
SYSTEM = ("system", "Be kind.", True)


class Foreign:
    """A client of somebody else, with the least that AutoGen asks of one."""

    def __init__(self, config):
        self.model = config["model"]

    def create(self, params):
        message = SimpleNamespace(content=ANSWER)
        return SimpleNamespace(choices=[SimpleNamespace(message=message)], model=self.model)

    def message_retrieval(self, response):
        return [choice.message.content for choice in response.choices]

    def cost(self, response):
        response.cost = 0
        return 0

    @staticmethod
    def get_usage(response):
        return {}


class Learner(Foreign):
    """One that can learn; the second argument has the name that it had in 2024."""

    told = None

    def update_model(self, preference_data, messages, **kwargs):
        Learner.told = (preference_data, messages, kwargs)
        return {"loss": 0.5}


def with_client(*classes, register=True):
    """An agent with a client of each class."""
    entries = [{"model": "local", "model_client_cls": each.__name__} for each in classes]
    agent = assistant("assistant", {"config_list": entries, "cache_seed": None})
    for each in classes if register else ():
        agent.register_model_client(model_client_cls=each)
    return agent


def chat(agent, text="2+2=", peer=None, **options):
    peer = peer or user(max_consecutive_auto_reply=1)
    return peer, peer.initiate_chat(agent, message=text, silent=True, **{"max_turns": 1, **options})


def scripted_agent(*answers, name="assistant", **options):
    live = scripted(*answers)
    return live, attach(assistant(name, copy.deepcopy(SCRIPT), **options), live=live)


def turns(thread):
    return [(m.role, m.text, m.trained) for m in thread.messages]


def thread_of(live, agent, peer, *, known=True):
    return read_thread(agent.chat_messages[peer], agent, live.log() if known else ())


# The four tests of the 2024 tool.


def test_feedback_on_a_chat_reaches_the_client_and_what_it_answers_comes_back():
    agent = with_client(Learner)
    peer, result = chat(agent)
    assert result.summary == ANSWER
    preferences = [(BETTER, result.summary)]
    told = update_model(agent, preferences, peer, beta=0.1)
    assert told["update_stats"] == {"loss": 0.5}
    assert told["preference_data"] is preferences
    assert told["inference_messages"] == agent.chat_messages[peer]
    assert Learner.told == (preferences, told["inference_messages"], {"beta": 0.1})
    assert Learner.told[0] is preferences


def test_an_agent_without_a_model_is_refused():
    agent = autogen.AssistantAgent("assistant", llm_config=False, default_auto_reply="No model.")
    peer, _ = chat(agent)
    with pytest.raises(ValueError, match="'assistant' has no client"):
        update_model(agent, [], peer)


def test_a_client_that_cannot_learn_is_refused():
    agent = with_client(Foreign)
    peer, _ = chat(agent)
    with pytest.raises(NotImplementedError, match="Foreign has no method update_model"):
        update_model(agent, [], peer)


def test_an_agent_with_several_clients_is_refused():
    agent = with_client(Learner, Learner)
    peer, _ = chat(agent)
    with pytest.raises(ValueError, match="has 2 clients"):
        update_model(agent, [], peer)


# What it left open.


def test_an_attribute_that_is_no_method_does_not_make_a_client_learn():
    class Half(Foreign):
        update_model = None

    agent = with_client(Half)
    peer, _ = chat(agent)
    with pytest.raises(NotImplementedError, match="Half"):
        update_model(agent, [], peer)


def test_a_client_that_was_never_registered_is_to_be_registered_first():
    agent = with_client(Learner)
    peer, _ = chat(agent)
    agent.update_tool_signature(TOOL, is_remove=False)  # makes the clients again
    with pytest.raises(
        NotImplementedError, match=r"register_model_client\(model_client_cls=Learner"
    ):
        update_model(agent, [], peer)


def test_whom_an_agent_never_spoke_with_is_refused_and_gets_no_thread():
    agent = with_client(Learner)
    chat(agent)
    stranger = user("stranger")
    with pytest.raises(ValueError, match="no conversation with 'stranger'; it spoke with 'user'"):
        update_model(agent, [], stranger)
    assert stranger not in agent.chat_messages
    with pytest.raises(ValueError, match="no conversation with 'user'"):
        update_model(agent, [], "user")


def test_a_conversation_that_was_cleared_is_refused():
    agent = with_client(Learner)
    peer, _ = chat(agent)
    agent.clear_history()
    with pytest.raises(ValueError, match="no conversation"):
        update_model(agent, [], peer)


def test_the_messages_are_a_copy_that_stays_as_it_is():
    agent = with_client(Learner)
    peer, _ = chat(agent)
    told = update_model(agent, [], peer)
    chat(agent, peer=peer, clear_history=False)
    assert len(agent.chat_messages[peer]) == 4
    assert len(told["inference_messages"]) == 2


def test_no_host_and_no_torch_is_needed_to_import_it():
    hosts = ("autogen", "autogen_core", "autogen_agentchat", "ag2", "torch")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({hosts}))\n"
        "from autogen_finetune.update_model import update_model\n"
        "from autogen_finetune.feedback import correct\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# What our client is told beyond that.


def test_a_thread_is_told_as_its_model_saw_it_and_is_found_in_the_log():
    live, agent = scripted_agent(ANSWER)
    agent.update_tool_signature(TOOL, is_remove=False)
    peer, _ = chat(agent)
    thread = thread_of(live, agent, peer)
    (exchange,) = live.log()
    assert thread.messages[:-1] == tuple(exchange.request.messages)
    assert thread.tools == tuple(exchange.request.tools) == (TOOL,)
    assert turns(thread) == [SYSTEM, ("user", "2+2=", True), ("assistant", ANSWER, True)]


@pytest.mark.parametrize("known", [True, False], ids=["log", "no log"])
def test_words_that_open_a_chat_were_not_generated(known):
    live, agent = scripted_agent("Hello.", ANSWER)
    peer = user(default_auto_reply="Go on.", max_consecutive_auto_reply=2)
    agent.initiate_chat(peer, message="Hello.", silent=True, max_turns=3)
    assert turns(thread_of(live, agent, peer, known=known)) == [
        SYSTEM,
        ("assistant", "Hello.", False),
        ("user", "Go on.", True),
        ("assistant", "Hello.", True),
        ("user", "Go on.", True),
        ("assistant", ANSWER, True),
    ]


@pytest.mark.parametrize("known", [True, False], ids=["log", "no log"])
def test_default_replies_were_not_generated(known):
    live, agent = scripted_agent(
        ANSWER, max_consecutive_auto_reply=1, default_auto_reply="I am done.",
        is_termination_msg=lambda message: False,
    )  # fmt: skip
    peer, _ = chat(agent, max_turns=1)
    agent.send({"content": "I am done."}, peer, request_reply=False, silent=True)
    assert turns(thread_of(live, agent, peer, known=known))[-2:] == [
        ("assistant", ANSWER, True),
        ("assistant", "I am done.", False),
    ]


def test_words_that_a_person_typed_in_an_agents_name_were_not_generated(monkeypatch):
    live, agent = scripted_agent(ANSWER, human_input_mode="ALWAYS")
    typed = iter(["", "My own words.", "exit"])
    monkeypatch.setattr("builtins.input", lambda *args: next(typed))
    peer = user(default_auto_reply="Go on.")
    chat(agent, peer=peer, max_turns=2)
    for known in (True, False):
        said = turns(thread_of(live, agent, peer, known=known))
        assert [turn[1:] for turn in said if turn[0] == "assistant"] == [
            (ANSWER, True),
            ("My own words.", False),
        ]


def test_what_an_agent_says_by_code_of_its_own_was_not_generated():
    live, agent = scripted_agent(ANSWER, "The end.")
    peer = user(default_auto_reply="Go on.")
    chat(agent, peer=peer)
    agent.register_reply(autogen.Agent, lambda *args, **kwargs: (True, "exitcode: 0"))
    peer.send("Run it.", agent, silent=True, request_reply=None)
    reply = agent.generate_reply(sender=peer)
    agent.send(reply, peer, request_reply=False, silent=True)
    assert ("assistant", "exitcode: 0", False) in turns(thread_of(live, agent, peer))


@pytest.mark.parametrize("known", [True, False], ids=["log", "no log"])
def test_a_tool_call_is_of_who_made_it_though_both_are_filed_as_the_assistants(known):
    caller, one = scripted_agent(called("Paris"), "It rains.", name="caller")
    other, two = scripted_agent("Never asked.", name="weather_station")
    for agent in (one, two):
        agent.update_tool_signature(TOOL, is_remove=False)
    two.register_function({"get_weather": lambda city: f"{city}: rain"})
    two.initiate_chat(one, message="Weather in Paris?", silent=True, max_turns=2)
    mine = turns(thread_of(caller, one, two, known=known))
    assert [(role, trained) for role, _, trained in mine] == [
        ("system", True),
        ("user", True),
        ("assistant", True),
        ("tool", True),
        ("assistant", True),
    ]
    theirs = turns(thread_of(other, two, one, known=known))
    assert [(role, text, trained) for role, text, trained in theirs][1:] == [
        ("assistant", "Weather in Paris?", False),
        ("assistant", "", False),
        ("tool", "Paris: rain", True),
        ("user", "It rains.", True),
    ]


def test_in_a_group_chat_only_the_agents_own_answers_are_its_answers():
    live, one = scripted_agent("I am one.", "One again.", name="one")
    _, two = scripted_agent("I am two.", name="two")
    group = autogen.GroupChat(
        agents=[one, two], messages=[], max_round=4, speaker_selection_method="round_robin"
    )
    manager = autogen.GroupChatManager(groupchat=group, llm_config=False)
    one.initiate_chat(manager, message="Who are you?", silent=True)
    for known in (True, False):
        thread = thread_of(live, one, manager, known=known)
        assert turns(thread) == [
            SYSTEM,
            ("assistant", "Who are you?", False),
            ("user", "I am two.", True),
            ("assistant", "I am one.", True),
            ("user", "I am two.", True),
        ]
    asked = live.log()[0].request.messages
    assert [said[:2] for said in turns(thread)][:3] == [(m.role, m.text) for m in asked]


def test_a_turn_is_counted_as_the_hosts_messages_are():
    live, agent = scripted_agent(called("Paris"), ANSWER)
    agent.update_tool_signature(TOOL, is_remove=False)
    peer = user()
    peer.register_function({"get_weather": lambda city: f"{city}: rain"})
    chat(agent, peer=peer, max_turns=2)
    messages = agent.chat_messages[peer]
    two = [*messages[2]["tool_responses"], {"tool_call_id": "x", "role": "tool", "content": "sun"}]
    messages[2]["tool_responses"] = two
    thread = thread_of(live, agent, peer)
    places = [thread.placed([{"turn": turn}], "preference_data")[0]["turn"] for turn in range(4)]
    assert places == [1, 2, 4, 5]
    assert thread.placed([{"turn": -1}, (BETTER, ANSWER)], "") == [{"turn": 5}, (BETTER, ANSWER)]
    with pytest.raises(
        DataError, match=r"preference_data\[0\]: turn is 4; inference_messages has 4"
    ):
        thread.placed([{"turn": 4}], "preference_data")


def test_a_summary_from_which_terminate_was_taken_is_the_answer_that_had_it():
    live, agent = scripted_agent("Four. TERMINATE")
    peer, result = chat(agent)
    assert result.summary.strip() == "Four."
    thread = thread_of(live, agent, peer)
    learning = live._learning([(BETTER, result.summary)], "", thread.messages, thread.tools, None)
    assert learning.prompt_source == {"log": 1}
    assert learning.preferences[0].rejected == live.log()[0].result.message


def test_a_summary_that_was_said_twice_is_the_last_answer():
    live, agent = scripted_agent("Four.")
    peer, result = chat(agent, max_turns=None)  # as in 2024: nothing is said, and Four again
    assert [m["content"] for m in agent.chat_messages[peer]] == ["2+2=", "Four.", "", "Four."]
    thread = thread_of(live, agent, peer)
    items = thread.placed([(BETTER, result.summary)], "preference_data")
    learning = live._learning(items, "", thread.messages, thread.tools, None)
    assert len(learning.preferences[0].prompt) == 4


def test_what_is_in_no_log_is_reconstructed_as_the_log_would_have_it():
    live, agent = scripted_agent(called("Paris"), "It rains.")
    agent.update_tool_signature(TOOL, is_remove=False)
    peer = user()
    peer.register_function({"get_weather": lambda city: f"{city}: rain"})
    chat(agent, peer=peer, max_turns=2)
    placed = []
    for model, known in ((live, True), (scripted(""), False)):
        told = thread_of(live, agent, peer, known=known)
        items = [(BETTER, "It rains.")]
        placed.append(model._learning(items, "", told.messages, told.tools, None))
    assert [learning.prompt_source for learning in placed] == [{"log": 1}, {"thread": 1}]
    exact, rebuilt = (learning.preferences[0] for learning in placed)
    ids = Renderer(tiny_tokenizer()).prompt_ids
    assert ids(exact.prompt, exact.tools) == ids(rebuilt.prompt, rebuilt.tools)
    assert ids(exact.prompt, exact.tools) == exact.rejected.generation.prompt_ids


# The whole of it, on weights.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


@pytest.fixture
def learner(folder, tmp_path):
    def make(name="assistant", **options):
        return attach(assistant(name, tiny(folder, store=str(tmp_path / "store")), **options))

    return make


def test_the_next_answer_comes_from_what_was_learned_and_others_answer_as_before(learner):
    agent, other = learner(), learner("other")
    peer, result = chat(agent)
    _, others = chat(other)
    told = update_model(agent, [(BETTER, result.summary)], peer, config=QUICK)
    stats = told["update_stats"]
    assert stats["accepted"], stats["summary"]
    assert stats["prompt_source"] == {"log": 1}
    assert stats["pairs"] == 1
    assert stats["name"].startswith("assistant-2")
    assert chat(agent)[1].summary != result.summary
    assert chat(other)[1].summary == others.summary
