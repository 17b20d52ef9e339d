"""What a live AutoGen agent writes down holds no token of the process: configs, tapes, versions."""

import json

from autogen_hosts import QUIET, classic
from classic_agents import assistant, tiny, user
from live_engines import close_all
from planted import plant, traces
from talkative import save_talkative_model
from updating_host import QUICK

from autogen_finetune.registration import attach
from autogen_finetune.update_model import update_model

classic()
pytestmark = QUIET


def test_a_chat_that_is_recorded_and_learned_from_leaves_no_token(
    tmp_path, monkeypatch, capfd, caplog
):
    planted = plant(monkeypatch, tmp_path)
    monkeypatch.setenv("AGENT_FINETUNE_CACHE", str(tmp_path / "cache"))
    model = save_talkative_model(tmp_path / "model")
    kept = {"store": str(tmp_path / "store"), "record_to": str(tmp_path / "tape.sqlite")}
    agent = attach(assistant("assistant", tiny(model, **kept)))
    peer = user(max_consecutive_auto_reply=1)
    with caplog.at_level("DEBUG"):
        said = peer.initiate_chat(agent, message="2+2=", silent=True, max_turns=1)
        told = update_model(agent, [("Four.", said.summary)], peer, config=QUICK)
    assert told["update_stats"]["accepted"]
    close_all()
    printed = capfd.readouterr()
    config = json.dumps(agent.llm_config if isinstance(agent.llm_config, dict) else None)
    texts = (printed.out, printed.err, caplog.text, config, repr(said), repr(told))
    assert (tmp_path / "tape.sqlite").is_file()
    assert (tmp_path / "store").is_dir()
    assert not traces(planted, tmp_path, *texts)
