"""The hooks: live agents of each AutoGen put on an engine that a test opened."""

import asyncio

import pytest
from autogen_hosts import QUIET, ag2, agentchat, classic
from live_engines import open_engine
from scripted_engine import ScriptedEngine

from agent_finetune import plugins
from agent_finetune.errors import ConfigError
from agent_finetune.testing import save_tiny_model

pytestmark = QUIET
HOSTS = [("autogen", classic), ("autogen-agentchat", agentchat), ("ag2", ag2)]


def test_a_classic_agent_speaks_through_an_engine_and_keeps_its_tools():
    host = classic()
    engine = ScriptedEngine("Here I am.")
    agent = host.ConversableAgent(
        "helper",
        llm_config={"config_list": [{"model": "hosted", "api_key": "sk-" + "0" * 48}]},
        system_message="Be kind.",
        human_input_mode="NEVER",
    )

    @agent.register_for_llm(description="The weather.")
    def weather(city: str) -> str:
        return "18C"

    client = plugins.connect_host("autogen", agent, engine)
    question = [{"role": "user", "content": "Are you there?"}]
    assert agent.generate_reply(messages=question) == "Here I am."
    assert agent.client._clients == [client]
    (request,) = engine.requests
    assert [m.text for m in request.messages] == ["Be kind.", "Are you there?"]
    assert [tool["function"]["name"] for tool in request.tools] == ["weather"]


def test_a_classic_agent_can_be_put_on_another_engine():
    host = classic()
    agent = host.ConversableAgent("helper", llm_config=False, human_input_mode="NEVER")
    plugins.connect_host("autogen", agent, ScriptedEngine("One."))
    plugins.connect_host("autogen", agent, ScriptedEngine("Two."))
    assert agent.generate_reply(messages=[{"role": "user", "content": "Who?"}]) == "Two."


def test_an_assistant_agent_speaks_through_an_engine():
    agentchat()
    from autogen_agentchat.agents import AssistantAgent

    engine = ScriptedEngine("Here I am.")
    made = plugins.connect_host("autogen-agentchat", None, ScriptedEngine("Nobody."))
    agent = AssistantAgent("helper", made, system_message="Be kind.")
    client = plugins.connect_host("autogen-agentchat", agent, engine)
    result = asyncio.run(agent.run(task="Are you there?"))
    assert result.messages[-1].content == "Here I am."
    assert client.live.engine is engine


def test_an_agent_of_ag2_1_speaks_through_an_engine():
    host = ag2()
    engine = ScriptedEngine("Here I am.")
    agent = host.Agent("helper", "Be kind.")
    config = plugins.connect_host("ag2", agent, engine)
    reply = asyncio.run(agent.ask("Are you there?"))
    assert (reply.body, agent.config) == ("Here I am.", config)
    assert plugins.connect_host("ag2", None, engine).live.engine is engine


@pytest.mark.parametrize(("name", "host"), HOSTS)
def test_what_is_no_agent_of_the_host_is_refused(name, host):
    host()
    with pytest.raises(ConfigError, match=r"agent is 'helper'; it must be of (autogen|ag2)"):
        plugins.connect_host(name, "helper", ScriptedEngine("Hi."))


def test_other_hosts_are_left_to_other_plugins():
    with pytest.raises(ConfigError, match="no plugin connects host 'somebody'"):
        plugins.connect_host("somebody", None, ScriptedEngine("Hi."))


def test_nothing_is_loaded_to_connect_an_engine_of_this_process(tmp_path):
    agentchat()
    engine = open_engine(save_tiny_model(tmp_path / "model"))
    client = plugins.connect_host("autogen-agentchat", None, engine)
    assert client.live.model == engine.config.model
    assert engine._hold.worker is None
