"""Agents of classic AutoGen live on `HFModelClient`: chats of every kind, on every version."""

import asyncio
import json
import sqlite3
import threading

import pytest
from autogen_hosts import QUIET, classic, version
from classic_agents import SCRIPT, assistant, called, scripted, shown, tiny, user
from live_engines import close_all
from scripted_engine import Cut
from talkative import save_talkative_model

from autogen_finetune.hf_client import HFModelClient
from autogen_finetune.registration import (
    attach,
    disable_auto_registration,
    enable_auto_registration,
    llm_config,
)

autogen = classic()
pytestmark = QUIET


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


@pytest.fixture
def automatic():
    enable_auto_registration()
    yield
    disable_auto_registration()


@pytest.fixture
def asked():
    """What the tool was called with."""
    return []


def speaking(name, *answers, **options):
    """An agent that says what the test wrote."""
    return attach(assistant(name, SCRIPT, **options), live=scripted(*answers))


def live_of(agent):
    return agent.client._clients[0].live


def requests(agent):
    return live_of(agent).engine.requests


def chat(agent, text="Hello", turns=1, peer=None):
    return (peer or user()).initiate_chat(agent, message=text, max_turns=turns, silent=True)


def with_tool(agent, asked, peer=None):
    """Let the agent call a tool that the user runs; registered after the client."""

    def get_weather(city: str) -> str:
        asked.append(city)
        return {"Paris": "sunny", "Rome": "rain"}[city]

    peer = peer or user()
    autogen.register_function(
        get_weather, caller=agent, executor=peer, name="get_weather", description="The weather."
    )
    return peer


def test_two_agents_chat(folder):
    agent = assistant("helper", tiny(folder))
    agent.register_model_client(model_client_cls=HFModelClient)
    result = chat(agent)
    assert [message["name"] for message in result.chat_history] == ["user", "helper"]
    (exchange,) = live_of(agent).log()
    assert result.chat_history[-1]["content"] == exchange.result.message.text
    assert shown(exchange.request) == [("system", "Be kind."), ("user", "Hello")]


def test_a_later_turn_sees_the_whole_conversation():
    agent = speaking("helper", "First.", "Second.")
    chat(agent, turns=2, peer=user(default_auto_reply="Go on."))
    assert shown(requests(agent)[1]) == [
        ("system", "Be kind."),
        ("user", "Hello"),
        ("assistant", "First."),
        ("user", "Go on."),
    ]


def test_the_host_runs_a_tool_and_the_model_hears_its_result(asked):
    agent = speaking("helper", called("Paris"), "It is sunny.")
    result = chat(agent, turns=2, peer=with_tool(agent, asked))
    assert asked == ["Paris"]
    assert result.chat_history[-1]["content"] == "It is sunny."
    first, second = requests(agent)
    assert [tool["function"]["name"] for tool in first.tools] == ["get_weather"]
    turn, output = second.messages[2:]
    assert [call.arguments for call in turn.tool_calls] == [{"city": "Paris"}]
    assert (output.role, output.text) == ("tool", "sunny")
    assert output.tool_call_id == turn.tool_calls[0].id


def test_several_calls_of_one_turn_are_all_made(asked):
    agent = speaking("helper", called("Paris") + "\n" + called("Rome"), "Done.")
    chat(agent, turns=2, peer=with_tool(agent, asked))
    assert asked == ["Paris", "Rome"]
    turn, *outputs = requests(agent)[1].messages[2:]
    assert [output.text for output in outputs] == ["sunny", "rain"]
    assert [o.tool_call_id for o in outputs] == [call.id for call in turn.tool_calls]


@pytest.mark.parametrize(
    "broken",
    [
        called("", raw='{"city": Paris}'),
        called("", raw='["Paris"]'),
        Cut(called("Paris")[:-14]),
        '<tool_call>\n{"name": "get_stocks", "arguments": {}}\n</tool_call>',
    ],
    ids=["no JSON", "no object", "cut off", "no such tool"],
)
def test_a_call_that_is_wrong_is_not_made_and_the_model_hears_why(asked, broken):
    agent = speaking("helper", broken, called("Rome"), "Rain.")
    result = chat(agent, turns=3, peer=with_tool(agent, asked))
    assert asked == ["Rome"]
    assert result.chat_history[-1]["content"] == "Rain."
    assert "Error" in requests(agent)[1].messages[-1].text


def test_functions_of_before_are_called_too(asked):
    config = {
        **SCRIPT,
        "functions": [{"name": "get_weather", "parameters": {"type": "object", "properties": {}}}],
    }
    said = [called("Paris"), "Sunny."]
    agent = attach(assistant("helper", config), live=scripted(*said))
    peer = user()
    peer.register_function({"get_weather": lambda city: asked.append(city) or "sunny"})
    result = chat(agent, turns=2, peer=peer)
    assert asked == ["Paris"]
    assert [(m.role, m.text) for m in requests(agent)[1].messages[-2:]] == [
        ("assistant", ""),
        ("tool", "sunny"),
    ]
    assert result.chat_history[-1]["content"] == "Sunny."


def test_usage_is_summed_and_costs_nothing():
    agent = speaking("helper", "One.")
    chat(agent)
    used = agent.get_actual_usage()
    tokens = used["script"]["total_tokens"]
    assert used["total_cost"] == 0
    assert used["script"]["prompt_tokens"] > used["script"]["completion_tokens"] > 0
    agent.client.create(messages=[{"role": "user", "content": "And then?"}])
    again = agent.get_total_usage()["script"]
    assert again["total_tokens"] > tokens
    summary = autogen.gather_usage_summary([agent])["usage_including_cached_inference"]
    assert summary["script"]["total_tokens"] == again["total_tokens"]


def test_a_price_of_the_config_is_a_cost():
    config = llm_config("script")
    config["config_list"][0]["price"] = [1, 2]
    wrapper = autogen.OpenAIWrapper(**config)
    wrapper.register_model_client(HFModelClient, live=scripted("One."))
    response = wrapper.create(messages=[{"role": "user", "content": "Hello"}])
    usage = response.usage
    assert response.cost == (usage.prompt_tokens + 2 * usage.completion_tokens) / 1000


def test_n_answers_reach_who_asks_for_them():
    wrapper = autogen.OpenAIWrapper(**llm_config("script", n=3))
    wrapper.register_model_client(HFModelClient, live=scripted("one", "two", "three"))
    response = wrapper.create(messages=[{"role": "user", "content": "Hello"}])
    assert wrapper.extract_text_or_completion_object(response) == ["one", "two", "three"]


def test_the_second_of_two_entries_answers_if_a_filter_refuses_the_first():
    config = llm_config("script")
    config["config_list"] *= 2
    wrapper = autogen.OpenAIWrapper(**config)
    for answer in ("first", "second"):
        wrapper.register_model_client(HFModelClient, live=scripted(answer))

    def second_only(context, response):
        return wrapper.extract_text_or_completion_object(response) == ["second"]

    hello = [{"role": "user", "content": "Hello"}]
    response = wrapper.create(messages=hello, filter_func=second_only)
    assert wrapper.extract_text_or_completion_object(response) == ["second"]
    assert response.config_id == 1


def group(*agents, **options):
    return autogen.GroupChat(agents=list(agents), messages=[], max_round=3, **options)


def run_group(groupchat, config, live=None):
    """The names of those who spoke; the manager selects them."""
    manager = autogen.GroupChatManager(groupchat, llm_config=config)
    if live is not None:
        attach(manager, live=live)
    groupchat.agents[0].initiate_chat(manager, message="Hello", silent=True)
    return [message["name"] for message in groupchat.messages]


def test_a_group_chats_next_speaker_is_selected_by_the_managers_model(automatic):
    ann, bob = speaking("ann", "I am Ann."), speaking("bob", "I am Bob.")
    manager = scripted("bob", "ann")
    assert run_group(group(user(), ann, bob), SCRIPT, manager) == ["user", "bob", "ann"]
    assert "select the next role" in shown(manager.engine.requests[0])[0][1]


def test_without_automatic_registration_nobody_selects():
    ann, bob = speaking("ann", "I am Ann."), speaking("bob", "I am Bob.")
    with pytest.raises(RuntimeError, match="not activated"):
        run_group(group(user(), ann, bob), SCRIPT, scripted("bob", "ann"))


@pytest.mark.skipif(version(autogen) < (0, 9), reason="0.2 knows no client for the selection")
def test_a_group_chats_own_arguments_register_what_selects_the_speaker():
    ann, bob = speaking("ann", "I am Ann."), speaking("bob", "I am Bob.")
    selector = speaking("selector", "bob", "ann")
    groupchat = group(
        user(),
        ann,
        bob,
        select_speaker_auto_llm_config=selector.llm_config,
        select_speaker_auto_model_client_cls=HFModelClient,
    )
    assert run_group(groupchat, False) == ["user", "bob", "ann"]


def test_in_a_group_everyone_who_speaks_is_named_to_the_model():
    ann, bob = speaking("ann", "I am Ann."), speaking("bob", "I am Bob.")
    groupchat = group(user(), ann, bob, speaker_selection_method="round_robin")
    assert run_group(groupchat, False) == ["user", "ann", "bob"]
    assert shown(requests(bob)[0])[1:] == [("user", "Hello"), ("user", "ann: I am Ann.")]


def test_a_nested_chat_is_answered():
    inner, outer = speaking("inner", "Deep inside."), speaking("outer", "never said")
    outer.register_nested_chats(
        [{"recipient": inner, "message": "Think.", "max_turns": 1, "summary_method": "last_msg"}],
        trigger=lambda sender: True,
    )
    assert chat(outer).chat_history[-1]["content"] == "Deep inside."
    assert shown(requests(inner)[0])[-1] == ("user", "Think.")
    assert requests(outer) == []


def test_a_summary_by_reflection_is_asked_of_the_model():
    agent = speaking("helper", "Good day.", "They greeted.")
    result = user().initiate_chat(
        agent, message="Hello", max_turns=1, summary_method="reflection_with_llm", silent=True
    )
    assert result.summary == "They greeted."


def test_many_chats_run_at_once_on_an_event_loop(folder):
    agents = [attach(assistant(f"agent{n}", tiny(folder))) for n in range(6)]
    peers = [user() for _ in agents]

    async def all_chats():
        return await asyncio.gather(
            *(
                peer.a_initiate_chat(agent, message=f"Hello {n}", max_turns=1, silent=True)
                for n, (peer, agent) in enumerate(zip(peers, agents, strict=True))
            )
        )

    results = asyncio.run(all_chats())
    for agent, result in zip(agents, results, strict=True):
        (exchange,) = live_of(agent).log()
        assert result.chat_history[-1]["content"] == exchange.result.message.text
    assert len({id(live_of(agent).engine._hold.worker) for agent in agents}) == 1


def test_the_event_loop_turns_while_the_model_thinks():
    begun, go = threading.Event(), threading.Event()

    def slow(request):
        begun.set()
        assert go.wait(20)
        return "Done."

    agent = speaking("helper", slow)

    async def both():
        talk = asyncio.create_task(user().a_initiate_chat(agent, message="Hello", max_turns=1))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        go.set()
        return await talk

    assert asyncio.run(both()).chat_history[-1]["content"] == "Done."


def test_autogens_own_logging_writes_answers_and_nothing_of_the_model(tmp_path):
    logging = pytest.importorskip("autogen.runtime_logging")
    agent = speaking("helper", "Logged.")
    path = tmp_path / "log.db"
    logging.start(config={"dbname": str(path)})
    try:
        chat(agent)
    finally:
        logging.stop()
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT response FROM chat_completions").fetchall()
    database.close()
    (said,) = rows
    assert json.loads(said[0])["choices"][0]["message"]["content"] == "Logged."
    assert "engine" not in said[0]


def test_an_error_of_the_model_reaches_who_started_the_chat():
    agent = speaking("helper", RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        chat(agent)
