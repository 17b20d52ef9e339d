"""`FineTuneAgent`: made with a model's name, it trains before it first answers."""

import asyncio
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tuned_agents
from agentscope.agent import Agent
from agentscope_models import chat_model, user
from live_engines import close_all, make_adapter
from talkative import save_talkative_model
from tuned_agents import LONG, PROMPT, QUICK, continued, make_agent, make_tunable, say, write_rows

from agent_finetune.errors import ConfigError, ModelError, TrainError
from agentscope_finetune import (
    Finetune_DialogAgent,
    FineTuneAgent,
    FinetuneDialogAgent,
    TransformersChatModel,
)
from agentscope_finetune.recorder import ConversationRecorder, RecordingChatModel
from agentscope_finetune.tuning import FineTuner


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("models") / "talkative")
    close_all()


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "adapter", seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "dolly.jsonl")


def wait_for(look, seconds=120.0):
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)
    return found


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def children(pid):
    """Processes that any of its threads started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text().split()]


@pytest.fixture(scope="module")
def killed(base, adapter, data, tmp_path_factory):
    """Where the run of an agent lies that was killed in the midst of its training."""
    output = tmp_path_factory.mktemp("runs")
    arguments = [tuned_agents.__file__, *map(str, (base, adapter, data, output))]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE) as process:
        assert b'"loss"' in process.stdout.readline()
        trainers = children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert trainers
    wait_for(lambda: not any(map(alive, trainers)))  # nothing goes on without the agent
    return output


@pytest.fixture(scope="module")
def first_answers(base, adapter, data, killed):
    """The first answers of two agents that were made with the same, after the kill."""
    one, two = (make_tunable(**continued(base, adapter, data, killed)) for _ in range(2))

    async def live():
        untrained = await say(make_agent(chat_model(base, adapter=str(adapter), max_tokens=8)))
        return untrained, await asyncio.gather(say(one), say(two), one.observe(user("hello")))

    untrained, answers = asyncio.run(live())
    return untrained, answers[:2], one


def test_making_an_agent_neither_loads_nor_trains(base, data, tmp_path):
    agent = make_tunable(model_id=str(base), data_path=str(data), output_dir=str(tmp_path / "o"))
    assert isinstance(agent.model, TransformersChatModel)
    assert agent.model.engine._hold.worker is None
    assert not list(tmp_path.iterdir())


def test_a_training_that_was_killed_leaves_no_result(killed):
    (folder,) = killed.glob("sft_*")
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    assert not list(killed.glob(".sft_*.json"))


def test_the_first_answer_comes_after_the_training(first_answers):
    untrained, answers, agent = first_answers
    assert answers[0] != untrained
    assert agent.model.parameters.max_tokens == 8


def test_of_two_agents_with_the_same_data_one_trains(killed, first_answers):
    _, answers, agent = first_answers
    assert answers[0] == answers[1]
    status = [json.loads(path.read_text())["status"] for path in killed.glob("sft_*/run.json")]
    assert sorted(status) == ["finished", "running"]
    (note,) = killed.glob(".sft_*.json")
    finished = killed / json.loads(note.read_text())["folder"]
    assert agent.model.model_config.adapter == str(finished / "adapter")


def test_the_adapter_of_a_local_model_path_goes_on_training(killed, adapter, first_answers):
    agent = first_answers[2]
    run = json.loads((Path(agent.model.model_config.adapter).parent / "run.json").read_text())
    assert run["config"]["model"]["adapter"] == str(adapter)
    assert (
        run["config"]["lora"]["rank"]
        != json.loads((Path(agent.model.model_config.adapter) / "adapter_config.json").read_text())[
            "r"
        ]
    )  # the adapter's own is kept


def test_a_training_that_fails_is_told_once_and_the_agent_goes_on(base, tmp_path):
    agent = make_tunable(
        model_id=str(base), data_path="nowhere.jsonl", fine_tune_config={"max_length": 8}
    )

    async def live():
        with pytest.raises(
            TrainError, match=r"on 'nowhere\.jsonl'.* goes on with its model as it is"
        ):
            await say(agent)
        assert agent.state.context == []
        return await say(agent)

    assert asyncio.run(live())
    assert agent.model.model_config.adapter is None


def test_a_first_answer_that_is_cancelled_begins_again_at_the_next(base, data, tmp_path):
    agent = make_tunable(
        model_id=str(base), data_path=str(data), output_dir=str(tmp_path), fine_tune_config=LONG
    )

    async def cancelled():
        task = asyncio.create_task(say(agent))
        while not list(tmp_path.glob("sft_*")):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return list(tmp_path.glob("sft_*"))

    for _ in range(2):
        assert asyncio.run(cancelled()) == []


def test_without_data_the_agent_learns_from_what_it_recorded(base, tmp_path):
    recorder = ConversationRecorder(tmp_path / "said.sqlite")
    model = chat_model(base, stop=[" "])  # an answer that was cut short is not imitated
    agent = make_tunable(model=model, middlewares=[recorder])

    async def live():
        for _ in range(3):
            await say(agent)
        return await agent.fine_tune(output_dir=str(tmp_path), fine_tune_config=QUICK)

    result = asyncio.run(live())
    run = json.loads((result.folder / "run.json").read_text())
    assert run["config"]["data"]["data"] == f"{tmp_path / 'said.sqlite'}#friend"
    assert run["data"]["train"]["examples"] == 3
    assert any("3 examples" in note for note in result.notes)


def test_a_recording_model_is_found_and_what_it_records_goes_on(base, tmp_path):
    inner = chat_model(base)
    agent = make_agent(RecordingChatModel(inner, tmp_path / "said.sqlite", agent="poet"))
    tuner = FineTuner(agent)
    assert asyncio.run(tuner._recorded()) == f"{tmp_path / 'said.sqlite'}#poet"
    asyncio.run(tuner.load_model(str(base)))
    assert agent.model.inner is inner


def test_the_token_comes_from_the_env_file(tmp_path):
    env = tmp_path / "my.env"
    env.write_text("HUGGINGFACE_TOKEN=hf_mine\n")
    agent = make_tunable(model_id="owner/private", env_file=env)
    assert agent.model._settings.hub_token.reveal() == "hf_mine"


def test_device_and_quantization_are_those_asked_for(tmp_path):
    agent = make_tunable(
        model_id="owner/model",
        fine_tune_config={"bnb_config": {"load_in_4bit": "True"}},
    )
    assert agent.model.model_config.quantization == "4bit"
    assert agent.model.model_config.device == "cpu"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "agent 'a' has no model; give pretrained_model_name_or_path"),
        ({"model_id": "m/a", "pretrained_model_name_or_path": "m/b"}, "both of pretrained_model"),
        ({"model_id": "m/a", "model_config_name": "x", "model_configs": "c.json"}, r"c\.json"),
        ({"model_config_name": "x"}, "give model_configs, the path"),
        ({"device": "cpu"}, "device is 'cpu' and no model is named"),
        ({"model_id": "m/a", "system_prompt": "a", "sys_prompt": "b"}, "both of system_prompt"),
    ],
)
def test_what_cannot_be_meant_is_told(options, said):
    with pytest.raises(ConfigError, match=said):
        FineTuneAgent("a", **options)


def test_a_model_and_the_name_of_another_are_too_many(base):
    with pytest.raises(ConfigError, match="both of model, and the name of one"):
        FineTuneAgent("a", PROMPT, chat_model(base), model_id="m/a")


def test_a_local_path_that_is_not_there_is_told_at_once():
    with pytest.raises(ModelError, match="does not exist"):
        FineTuneAgent("a", PROMPT, local_model_path="nowhere")


def test_programs_of_2024_make_it_by_the_same_names(base, tmp_path):
    configs = tmp_path / "model_configs.json"
    entry = {
        "model_type": "huggingface",
        "config_name": "my_custom_model",
        "pretrained_model_name_or_path": str(base),
        "max_length": 8,
        "device": "cpu",
        "data_path": "nowhere.jsonl",
    }
    configs.write_text(json.dumps([entry]))
    assert FinetuneDialogAgent is Finetune_DialogAgent is FineTuneAgent
    agent = Finetune_DialogAgent(
        name="Assistant",
        sys_prompt="Explain.",
        model_config_name="my_custom_model",
        model_configs=configs,
    )
    assert agent.model.parameters.max_tokens == 8
    with pytest.raises(TrainError, match=r"nowhere\.jsonl"):
        asyncio.run(say(agent))
    with pytest.raises(ConfigError, match="has 'my_custom_model'"):
        Finetune_DialogAgent("a", model_config_name="other", model_configs=configs)


def test_an_output_folder_of_2024_is_loaded_at_the_first_answer(base, tmp_path):
    old = tmp_path / "sft_talkative_2024-07-01_12-00-00"
    shutil.copytree(base, old)
    (old / "embed_tokens_weights.pt").write_bytes(b"not needed by a whole model")
    agent = make_tunable(local_model_path=str(old), fine_tune_config={"max_length": 8})
    assert agent.model.engine._hold.worker is None
    assert asyncio.run(say(agent))
    assert agent.model.model_config.model == str(old)


def test_it_takes_what_an_agent_takes_in_the_same_order(base):
    own = list(inspect.signature(FineTuneAgent).parameters)
    names = list(inspect.signature(Agent).parameters)
    assert own[: len(names)] == names
    # What the agent service passes, once for each turn.
    service = ("name", "system_prompt", "model", "toolkit", "model_config", "context_config")
    service += ("react_config", "state", "middlewares", "offloader")
    given = dict.fromkeys(service) | {"name": "a", "system_prompt": "b", "model": chat_model(base)}
    assert FineTuneAgent(**given).model is given["model"]


def test_every_await_of_an_agent_trains_first(base):
    """A new public coroutine of the host must be thought about."""
    hosts = {
        name
        for name, member in inspect.getmembers(Agent, inspect.isfunction)
        if not name.startswith("_")
    }
    assert hosts <= vars(FineTuneAgent).keys()


def test_the_host_has_what_is_used_of_it_without_being_public(base):
    agent = make_agent(chat_model(base), middlewares=[ConversationRecorder("x.sqlite")])
    assert asyncio.run(agent._get_system_prompt()) == PROMPT
    assert len(agent._model_call_middlewares) == 1


def test_a_stream_of_a_reply_is_the_host_s(base):
    agent = make_tunable(model=chat_model(base))

    async def live():
        return [event async for event in agent.reply_stream(user("hello"))]

    kinds = [type(event).__name__ for event in asyncio.run(live())]
    assert kinds[0] == "ReplyStartEvent"
    assert kinds[-1] == "ReplyEndEvent"
    assert "TextBlockDeltaEvent" in kinds


def test_compressing_and_checking_a_tokenizer_need_no_training(base):
    agent = make_tunable(model=chat_model(base))

    async def live():
        await agent.compress_context()
        await agent.load_tokenizer(str(base))
        await agent.load_model(str(base))

    asyncio.run(live())
    assert agent.model.model_config.model == str(base)
