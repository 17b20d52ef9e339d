"""How agents of classic AutoGen get `HFModelClient`, and keep it, on every version."""

import copy
import json

import pytest
from autogen_hosts import QUIET, classic, version
from classic_agents import SCRIPT, TOOL, assistant, learned, scripted, tiny, user
from live_engines import close_all, make_adapter
from talkative import save_talkative_model

from agent_finetune.errors import ConfigError
from autogen_finetune.config import read_config
from autogen_finetune.feedback import live_model
from autogen_finetune.hf_client import HFModelClient
from autogen_finetune.registration import (
    attach,
    detach,
    disable_auto_registration,
    enable_auto_registration,
    llm_config,
)

autogen = classic()
pytestmark = QUIET
NOW = version(autogen)
HELLO = [{"role": "user", "content": "Hello"}]
FUNCTION = {"name": "get_time", "description": "The time.", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


@pytest.fixture
def automatic():
    """Registers on its own until the test is over."""
    enable_auto_registration()
    yield
    disable_auto_registration()


def clients(agent):
    return list(agent.client._clients)


def live_of(agent):
    (client,) = clients(agent)
    assert isinstance(client, HFModelClient)
    return client.live


def answer(agent, text="Hello"):
    return agent.generate_reply(messages=[{"role": "user", "content": text}])


def register_tool(agent):
    agent.update_tool_signature(TOOL, is_remove=False)


def test_a_config_is_json_and_has_no_cache():
    config = llm_config("model", adapter="helper", temperature=0.5, cache_seed=None)
    assert json.loads(json.dumps(config)) == config
    assert config["cache_seed"] is None
    (entry,) = config["config_list"]
    read = read_config(entry, ignored=("model_client_cls",))
    assert (read.adapter, read.generation) == ("helper", {"temperature": 0.5})


def test_folders_in_a_config_are_strings(tmp_path):
    assert json.dumps(llm_config(tmp_path, store=tmp_path / "store"))


def test_a_config_with_a_wrong_key_is_refused_where_it_is_written():
    with pytest.raises(ConfigError, match="no key 'tempreature' is known"):
        llm_config("model", tempreature=1)


def test_the_host_takes_the_config_and_the_client_reads_it_out_again(folder):
    agent = assistant("helper", tiny(folder, adapter="helper", temperature=0.5))
    agent.register_model_client(model_client_cls=HFModelClient)
    (client,) = clients(agent)
    assert client.config.adapter == "helper"
    assert client.config.generation == {"max_new_tokens": 8, "temperature": 0.5}


def test_keywords_of_registration_join_the_entry():
    agent = assistant("helper", SCRIPT)
    agent.register_model_client(model_client_cls=HFModelClient, dtype="float32", max_tokens=3)
    (client,) = clients(agent)
    assert client.config.model.dtype == "float32"
    assert client.config.generation == {"max_new_tokens": 3}


def test_a_client_under_another_name_than_the_configs_is_refused_by_the_host():
    config = llm_config("script")
    config["config_list"][0]["model_client_cls"] = "Other"
    agent = assistant("helper", config)
    with pytest.raises(ValueError, match="not found in the config_list"):
        agent.register_model_client(model_client_cls=HFModelClient)


def test_an_own_client_that_is_made_of_ours_goes_by_its_own_name():
    class Polite(HFModelClient):
        def message_retrieval(self, response):
            return [f"{text}, please" for text in super().message_retrieval(response)]

    config = llm_config("script")
    config["config_list"][0]["model_client_cls"] = "Polite"
    agent = assistant("helper", config)
    agent.register_model_client(model_client_cls=Polite, live=scripted("Stay"))
    assert answer(agent) == "Stay, please"


def test_every_entry_has_to_be_registered_before_any_answers():
    config = copy.deepcopy(SCRIPT)
    config["config_list"] *= 2
    agent = assistant("helper", config)
    agent.register_model_client(model_client_cls=HFModelClient, live=scripted("x"))
    with pytest.raises(RuntimeError, match="not activated"):
        answer(agent)
    agent.register_model_client(model_client_cls=HFModelClient, live=scripted("y"))
    assert answer(agent) == "x"


def test_options_beside_the_entries_of_a_config_are_heeded():
    config = {**llm_config("script", max_tokens=9), "temperature": 0.5, "seed": 3}
    agent = attach(assistant("helper", config), live=scripted("x"))
    answer(agent)
    (request,) = live_of(agent).engine.requests
    assert (request.max_new_tokens, request.temperature, request.seed) == (9, 0.5, 3)


@pytest.mark.skipif(NOW < (0, 9), reason="0.2 has dicts alone")
def test_a_config_object_of_the_host_is_taken_too():
    entry = copy.deepcopy(SCRIPT["config_list"][0])
    shared = autogen.LLMConfig(**entry) if NOW < (0, 14) else autogen.LLMConfig(entry)
    one, two = (attach(assistant(name, shared)) for name in ("one", "two"))
    assert live_of(one) is not live_of(two)
    register_tool(two)
    register_tool(one)
    assert live_of(one) is not live_of(two)
    assert shared.config_list[0].extra_body in (None, {})


def test_without_attach_a_tool_that_is_registered_later_loses_the_client():
    agent = assistant("helper", SCRIPT)
    agent.register_model_client(model_client_cls=HFModelClient, live=scripted("x"))
    register_tool(agent)
    with pytest.raises(RuntimeError, match="not activated"):
        answer(agent)


def test_an_attached_client_survives_a_tool_that_is_registered_later():
    live = scripted("Still here.")
    agent = attach(assistant("helper", SCRIPT), live=live)
    register_tool(agent)
    agent.update_function_signature(FUNCTION, is_remove=False)
    assert live_of(agent) is live
    assert answer(agent) == "Still here."
    tools = live.engine.requests[-1].tools
    assert [tool["function"]["name"] for tool in tools] == ["get_weather"]


def test_what_was_registered_with_keywords_is_registered_so_again():
    agent = attach(assistant("helper", SCRIPT), live=scripted("x"), max_tokens=3, n=2)
    register_tool(agent)
    agent.client.create(messages=HELLO)
    requests = live_of(agent).engine.requests
    assert [request.max_new_tokens for request in requests] == [3, 3]


def test_a_client_that_was_registered_plainly_can_be_attached_afterwards():
    agent = assistant("helper", SCRIPT)
    live = scripted("x")
    agent.register_model_client(model_client_cls=HFModelClient, live=live)
    assert attach(attach(agent)) is agent
    register_tool(agent)
    assert live_of(agent) is live


def test_options_that_come_later_go_for_a_client_that_was_registered_before(automatic, tmp_path):
    agent = assistant("helper", SCRIPT)
    live = live_of(agent)
    attach(agent, max_tokens=3)
    assert live_of(agent) is live
    attach(agent, store=str(tmp_path))
    assert live_of(agent) is not live
    register_tool(agent)
    (client,) = clients(agent)
    assert client.config.generation == {"max_new_tokens": 3}
    assert client.live.store == tmp_path


def test_every_entry_that_names_the_client_is_attached_and_keeps_its_own():
    config = copy.deepcopy(SCRIPT)
    config["config_list"] *= 2
    agent = attach(assistant("helper", config))
    before = [client.live for client in clients(agent)]
    assert before[0] is not before[1]
    register_tool(agent)
    assert [client.live for client in clients(agent)] == before


def test_attaching_what_names_no_client_is_one_clear_error():
    with pytest.raises(ConfigError, match="agent 'user' has no llm_config"):
        attach(user(llm_config=False))
    foreign = llm_config("script")
    foreign["config_list"][0]["model_client_cls"] = "Foreign"
    with pytest.raises(ConfigError, match="no entry of llm_config has 'model_client_cls'"):
        attach(assistant("helper", foreign))


def test_an_agent_that_got_feedback_is_the_same_when_it_is_registered_again():
    agent = assistant("helper", SCRIPT)
    live = scripted("x")
    agent.register_model_client(model_client_cls=HFModelClient, live=live)
    assert live_model(agent) is live
    register_tool(agent)
    agent.register_model_client(model_client_cls=HFModelClient)
    assert live_of(agent) is live


def test_detach_leaves_the_agent_as_it_was():
    config = llm_config("script", max_tokens=3)
    agent = assistant("helper", config)
    before = (dict(agent.llm_config["config_list"][0].items()), set(vars(agent)))
    attach(agent)
    detach(agent)
    assert (dict(agent.llm_config["config_list"][0].items()), set(vars(agent))) == before


def test_agents_of_one_config_share_weights_and_nothing_that_they_learn(folder, tmp_path):
    config = tiny(folder, store=str(tmp_path / "store"))
    one, two = attach(assistant("one", config)), attach(assistant("two", config))
    assert answer(one) == answer(two)
    assert live_of(one) is not live_of(two)
    assert live_of(one).engine._hold.worker is live_of(two).engine._hold.worker
    learned(tmp_path / "store", "lesson", make_adapter(folder, tmp_path / "a", seed=2))
    before = answer(two)
    live_of(one).name = "lesson"
    register_tool(one)
    assert live_of(one).name == "lesson"
    assert live_of(two).name is None
    assert answer(two) == before
    assert answer(one) != before


def test_agents_that_name_one_adapter_share_what_it_learned(folder, tmp_path):
    config = tiny(folder, store=str(tmp_path / "store"), adapter="helper")
    one, two = attach(assistant("one", config)), attach(assistant("two", config))
    before = answer(one)
    learned(tmp_path / "store", "helper", make_adapter(folder, tmp_path / "a", seed=2))
    assert answer(one) == answer(two) != before


def test_nothing_of_the_model_is_in_a_config(folder):
    agent = attach(assistant("helper", tiny(folder)), live=scripted("x"))
    entry = dict(agent.llm_config["config_list"][0].items())
    assert json.loads(json.dumps(entry)) == entry
    assert entry["extra_body"]["speaks_as"].startswith("helper#")


def test_an_agent_made_of_anothers_config_speaks_as_it():
    agent = attach(assistant("helper", SCRIPT), live=scripted("x"), max_tokens=3)
    made = assistant("inner", agent.llm_config)
    made.register_model_client(model_client_cls=HFModelClient)
    assert live_of(made) is live_of(agent)
    assert clients(made)[0].config.generation == {"max_new_tokens": 3}


def test_automatic_registration_reaches_every_agent(automatic):
    agent = assistant("helper", SCRIPT)
    live_of(agent)
    register_tool(agent)
    live_of(agent)
    agent.register_model_client(model_client_cls=HFModelClient)  # harmless


def test_automatic_registration_goes_on_with_an_attached_agents_model(automatic):
    agent = attach(assistant("helper", SCRIPT))
    live = live_of(agent)
    register_tool(agent)
    assert live_of(agent) is live


def test_automatic_registration_can_be_taken_back():
    original = autogen.OpenAIWrapper._register_default_client
    enable_auto_registration(max_tokens=3)
    enable_auto_registration(max_tokens=4)
    assert clients(assistant("helper", SCRIPT))[0].config.generation == {"max_new_tokens": 4}
    disable_auto_registration()
    disable_auto_registration()
    assert autogen.OpenAIWrapper._register_default_client is original
    assert not isinstance(clients(assistant("helper", SCRIPT))[0], HFModelClient)


def test_taking_it_back_leaves_what_others_wrapped_around_it(monkeypatch):
    enable_auto_registration()
    inner = autogen.OpenAIWrapper._register_default_client

    def outer(self, *args):
        inner(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(autogen.OpenAIWrapper, "_register_default_client", outer)
        disable_auto_registration()
        assert autogen.OpenAIWrapper._register_default_client is outer
        assert not isinstance(clients(assistant("helper", SCRIPT))[0], HFModelClient)
    disable_auto_registration()
    assert autogen.OpenAIWrapper._register_default_client is not inner
