"""What a live AgentScope agent writes down holds no token: states, tapes, runs, the database."""

import asyncio
import json

import pytest
from agentscope.app.storage import AgentData, AgentRecord, AsyncSQLAlchemyStorage, SessionConfig
from agentscope_models import chat_model, user
from live_engines import close_all
from planted import plant, traces
from talkative import save_talkative_model
from tuned_agents import QUICK, make_tunable, write_rows

from agent_finetune.settings import read_settings
from agentscope_finetune import ConversationRecorder
from agentscope_finetune.credential import TransformersCredential
from agentscope_finetune.policy import allow_models


async def lived(agent, data, output, database):
    """A question, a training, one more question; then the state goes where a service keeps it."""
    await agent.reply(user("What is the weather in Paris?"))
    await agent.fine_tune(data_path=str(data), output_dir=str(output), fine_tune_config=QUICK)
    await agent.reply(user("And in Rome?"))
    state = agent.state
    async with AsyncSQLAlchemyStorage(f"sqlite+aiosqlite:///{database}") as storage:
        kept = AgentRecord(user_id="jo", data=AgentData(name="friend", system_prompt="Hi."))
        name = await storage.upsert_agent("jo", kept)
        await storage.upsert_session("jo", name, SessionConfig(workspace_id="w"), state)
    return json.dumps(state.model_dump(mode="json"))


@pytest.fixture(autouse=True)
def _unchanged():
    yield
    allow_models()


def test_an_agent_that_is_recorded_tuned_and_stored_leaves_no_token(
    tmp_path, monkeypatch, capfd, caplog
):
    planted = plant(monkeypatch, tmp_path)
    own = "planted_" + "0123456789abcdef" * 2
    monkeypatch.setenv("AGENT_FINETUNE_CACHE", str(tmp_path / "cache"))
    model = save_talkative_model(tmp_path / "model")
    tape = tmp_path / "tape.sqlite"
    credential = TransformersCredential(hf_token=own)
    allow_models(roots=[tmp_path])
    live = chat_model(model, credential=credential, settings=read_settings())
    agent = make_tunable(model=live, middlewares=[ConversationRecorder(tape)])
    data, output = write_rows(tmp_path / "rows.jsonl"), tmp_path / "runs"
    with caplog.at_level("DEBUG"):
        state = asyncio.run(lived(agent, data, output, tmp_path / "service.db"))
    close_all()
    printed = capfd.readouterr()
    assert tape.is_file()
    assert list(output.rglob("run.json"))
    texts = (state, repr(agent.model), repr(credential), printed.out, printed.err, caplog.text)
    assert not traces((*planted, own), tmp_path, *texts)
