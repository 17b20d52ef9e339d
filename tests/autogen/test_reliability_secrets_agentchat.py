"""What a client of AutoGen 0.4+ says of itself and keeps holds no token of the process."""

import asyncio

from agentchat_clients import open_client
from autogen_agentchat.agents import AssistantAgent
from live_engines import close_all
from planted import plant, traces
from talkative import save_talkative_model

from agent_finetune.contracts import Secret, Settings


def test_a_component_and_the_state_of_its_agent_hold_no_token(tmp_path, monkeypatch, caplog):
    planted = plant(monkeypatch, tmp_path)
    own = "planted_" + "0123456789abcdef" * 2
    settings = Settings(cache_dir=tmp_path / "cache", hub_token=Secret(own))
    model = save_talkative_model(tmp_path / "model")
    tape = tmp_path / "tape.sqlite"
    client = open_client(model, settings=settings, store=tmp_path / "store", record_to=str(tape))
    agent = AssistantAgent("helper", client)

    async def talk():
        answer = await agent.run(task="Who are you?")
        return answer, await agent.save_state()

    with caplog.at_level("DEBUG"):
        answer, state = asyncio.run(talk())
    close_all()
    texts = [client.dump_component().model_dump_json(), repr(client), repr(state), repr(answer)]
    assert tape.is_file()
    assert not traces((*planted, own), tmp_path, *texts, caplog.text)
