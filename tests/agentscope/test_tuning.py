"""`FineTuner`: plain AgentScope agents are loaded and fine-tuned while they answer."""

import asyncio
import json
import shutil

import pytest
from agentscope.model import ChatModelBase
from agentscope_models import chat_model
from live_engines import close_all, load, make_adapter, plain_ids
from talkative import save_talkative_model
from tuned_agents import LONG, PROMPT, QUICK, make_agent, say, write_rows

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import BusyError, ConfigError, ModelError, TrainError
from agent_finetune.testing import save_tiny_model
from agentscope_finetune.fine_tune_config import read_fine_tune_config
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.plans import trained
from agentscope_finetune.tuning import FineTuner


class Hosted(ChatModelBase):
    """A model of somebody else's."""

    def __init__(self):
        super().__init__(credential=None, model="hosted", parameters=None)


class World:
    """What one fine-tuning in the midst of traffic left behind."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("models") / "talkative")
    close_all()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "dolly.jsonl")


@pytest.fixture(scope="module")
def world(base, data, tmp_path_factory):
    """Twenty agents on one engine answer all the time; the first is fine-tuned meanwhile."""
    world = World()
    world.output = tmp_path_factory.mktemp("runs")
    world.agents = [make_agent(base, f"agent {n}") for n in range(20)]
    world.models = [agent.model for agent in world.agents]
    world.lines, world.answers, world.during = [], [], []

    async def chat(agent, done):
        while not done.is_set():
            world.answers.append(await say(agent))
            await asyncio.sleep(0.3)

    async def live():
        tuned, *others = world.agents
        world.before = [await say(tuned), await say(others[0])]
        done = asyncio.Event()
        traffic = [asyncio.create_task(chat(agent, done)) for agent in world.agents]
        world.result = await FineTuner(tuned, on_progress=world.lines.append).fine_tune(
            str(data), str(world.output), QUICK
        )
        world.during = list(world.answers)
        done.set()
        world.ended = await asyncio.gather(*traffic, return_exceptions=True)
        world.after = [await say(tuned), await say(others[0])]

    asyncio.run(live())
    return world


def test_the_agent_speaks_through_what_it_learned(world):
    assert world.after[0] != world.before[0]
    tuned = world.agents[0].model
    assert tuned is world.models[0]  # so that a router that puts models back changes nothing
    assert tuned.model_config.adapter == str(world.result.adapter)


def test_other_agents_on_the_same_weights_are_left_alone(world):
    assert world.after[1] == world.before[1]
    assert all(agent.model.model_config.adapter is None for agent in world.agents[1:])


def test_no_reply_is_lost_while_one_of_twenty_agents_is_fine_tuned(world):
    assert world.ended == [None] * 20
    assert len(world.during) > 20
    assert set(world.during) == {world.before[0]}  # nobody spoke with half of it


def test_the_answer_is_that_of_plain_peft(world, base):
    loaded = load(base, adapter=world.result.adapter)
    exchange = world.agents[0].model.engine.recent()[-2]
    generation = exchange.result.message.generation
    assert generation.ids == plain_ids(loaded, generation.prompt_ids, len(generation.ids))


def test_a_run_is_the_kernel_s_with_2024_s_name_and_history(world):
    folder = world.result.folder
    assert folder.parent == world.output
    assert folder.name.startswith("sft_talkative_2")
    names = {"adapter", "run.json", "history.jsonl", "metrics.json", "log_history.json"}
    assert names <= {path.name for path in folder.iterdir()}
    history = json.loads((folder / "log_history.json").read_text())
    assert [line["step"] for line in history] == [1, 2, 3, 4, 4]
    assert {"loss", "learning_rate", "epoch", "step"} <= history[0].keys()


def test_progress_is_told_line_by_line(world):
    assert [line["step"] for line in world.lines if "loss" in line] == [1, 2, 3, 4]


def test_a_result_says_what_came_of_it(world):
    result = world.result
    assert result.steps == 4
    assert result.model is None
    first, place, *notes = str(result).splitlines()
    assert first == f"fine-tuned: 4 steps in {result.seconds:.0f} s, loss {result.loss:.4f}"
    assert place == str(result.folder / "adapter")
    assert any(note.startswith("data: ") and "dolly" in note for note in notes)


def test_rows_are_trained_behind_the_system_prompt_that_serves(world):
    run = json.loads((world.result.folder / "run.json").read_text())
    assert run["config"]["data"]["system_prompt"] == PROMPT
    exchange = world.agents[0].model.engine.recent()[-1]
    assert exchange.request.messages[0].text == PROMPT


def test_the_folder_of_a_run_is_loaded(base, world):
    agent = make_agent(base)
    asyncio.run(FineTuner(agent).load_model(local_model_path=str(world.result.folder)))
    assert asyncio.run(say(agent)) == world.after[0]


def test_there_must_be_an_adapter_to_go_on_with(base):
    with pytest.raises(ConfigError, match="speaks through no adapter"):
        asyncio.run(
            FineTuner(make_agent(base)).fine_tune(
                "x", fine_tune_config={"continue_lora_finetuning": "True"}
            )
        )


def test_without_continuing_a_new_adapter_is_begun_and_said_so(base, world, tmp_path):
    notes = []
    served = ModelConfig(model=str(base), adapter=str(world.result.adapter))
    config = trained(served, read_fine_tune_config(None), notes)
    assert config == ModelConfig(model=str(base))
    assert "continue_lora_finetuning goes on with it" in notes[0]


def test_full_fine_tuning_makes_a_new_model_and_leaves_others_alone(base, data, tmp_path):
    tuned, other = make_agent(base, "tuned"), make_agent(base, "other")

    async def live():
        before = await say(tuned)
        result = await FineTuner(tuned).fine_tune(
            str(data), str(tmp_path), {**QUICK, "lora_config": {}}
        )
        return before, result, await say(tuned), await say(other)

    before, result, after, others = asyncio.run(live())
    assert after != before == others
    assert result.adapter is None
    assert (result.model / "model.safetensors").is_file()
    assert tuned.model.model_config.model == str(result.model)
    assert tuned.model.engine.info().revision != other.model.engine.info().revision


def test_a_training_that_fails_leaves_the_agent_as_it_was(base, tmp_path):
    agent = make_agent(base)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "q", "response": 7}\n')

    async def live():
        before = await say(agent)
        with pytest.raises((TrainError, ValueError), match=r"bad\.jsonl:1"):
            await FineTuner(agent).fine_tune(str(bad), str(tmp_path / "runs"), QUICK)
        assert await say(agent) == before

    asyncio.run(live())
    assert agent.model.model_config.adapter is None
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith("sft_")]


def test_cancelling_stops_the_training_and_the_agent_goes_on(base, data, tmp_path):
    agent, begun = make_agent(base), asyncio.Event()
    tuner = FineTuner(agent, on_progress=lambda line: begun.set())

    async def live():
        before = await say(agent)
        task = asyncio.create_task(tuner.fine_tune(str(data), str(tmp_path), LONG))
        await begun.wait()
        with pytest.raises(BusyError, match="'friend' is being loaded or fine-tuned"):
            await FineTuner(agent).load_model(str(base))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await say(agent) == before
        await tuner.load_model(str(base))  # it is free again

    asyncio.run(live())
    (folder,) = tmp_path.glob("sft_*")
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    lines = (folder / "history.jsonl").read_text()
    assert len(lines.splitlines()) < 3000


def test_a_loaded_model_answers_instead(base, tmp_path):
    other = save_tiny_model(tmp_path / "tiny")
    adapter = make_adapter(base, tmp_path / "adapter", seed=3)
    agent = make_agent(base)
    tuner = FineTuner(agent)

    async def live():
        answers = [await say(agent)]
        for pretrained, local in ((None, adapter), (str(other), None), (str(base), None)):
            await tuner.load_model(pretrained, local and str(local), {"max_length": 8})
            answers.append(await say(agent))
        return answers

    first, adapted, _, again = asyncio.run(live())
    assert adapted != first[: len(adapted)]
    assert first.startswith(again)
    assert agent.model.parameters.max_tokens == 8
    assert agent.model.model == str(base)
    assert agent.model.model_config.device == "cpu"


def test_what_cannot_be_loaded_leaves_the_agent_as_it_was(base, tmp_path):
    agent = make_agent(base)
    tuner = FineTuner(agent)
    broken = save_tiny_model(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")

    async def live():
        before = await say(agent)
        with pytest.raises(ModelError, match="broken"):
            await tuner.load_model(str(broken))
        with pytest.raises(ModelError, match="does not exist"):
            await tuner.load_model(local_model_path=str(tmp_path / "nowhere"))
        with pytest.raises(ConfigError, match="give pretrained"):
            await tuner.load_model()
        assert await say(agent) == before

    asyncio.run(live())
    assert agent.model.model_config.model == str(base)


def test_a_model_of_another_class_is_replaced(base):
    agent = make_agent(Hosted())
    tuner = FineTuner(agent, settings=Settings())

    async def live():
        with pytest.raises(ConfigError, match="speaks with a Hosted, which cannot be fine-tuned"):
            await tuner.fine_tune("data.jsonl")
        await tuner.load_model(str(base), fine_tune_config={"device": "cpu", "max_length": 8})
        return await say(agent)

    assert asyncio.run(live())
    assert isinstance(agent.model, TransformersChatModel)


def test_a_model_that_cannot_be_had_replaces_none(tmp_path):
    agent = make_agent(Hosted())
    with pytest.raises(ModelError):
        asyncio.run(FineTuner(agent).load_model(str(tmp_path)))
    assert isinstance(agent.model, Hosted)


def test_a_tokenizer_that_belongs_is_checked_and_nothing_changes(base, tmp_path):
    agent = make_agent(base)
    engine = agent.model.engine
    only = tmp_path / "tokenizer"
    shutil.copytree(base, only, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    for names in ((str(base), None), (None, str(base)), (None, str(only))):
        asyncio.run(FineTuner(agent).load_tokenizer(*names))
    assert agent.model.engine is engine


def test_the_tokenizer_of_another_model_is_refused(base, tmp_path):
    other = save_tiny_model(tmp_path / "other", special=("<|im_start|>", "<|im_end|>", "<more>"))
    with pytest.raises(ModelError, match="is not that of the agent's model"):
        asyncio.run(FineTuner(make_agent(base)).load_tokenizer(str(other)))


def test_without_data_and_without_a_recorder_both_ways_are_named(base):
    with pytest.raises(ConfigError, match="ConversationRecorder among its middlewares or a Rec"):
        asyncio.run(FineTuner(make_agent(base)).fine_tune())


def test_a_wrong_key_is_told_before_anything_is_done(base):
    with pytest.raises(ConfigError, match="lora_confg"):
        asyncio.run(FineTuner(make_agent(base)).fine_tune("x", fine_tune_config={"lora_confg": {}}))


def test_whole_weights_that_are_quantized_are_refused_before_anything_is_done(base):
    model = chat_model(base, quantization="4bit")
    with pytest.raises(ConfigError, match="quantization"):
        asyncio.run(
            FineTuner(make_agent(model)).fine_tune("x", fine_tune_config={"lora_config": {}})
        )


def test_an_engine_that_does_not_train_is_named(base):
    class Elsewhere:
        def info(self):
            return chat_model(base).engine.info()

    agent = make_agent(chat_model(base, engine=Elsewhere()))
    with pytest.raises(ConfigError, match="served by Elsewhere, which does not train"):
        asyncio.run(FineTuner(agent).fine_tune("x"))


def test_a_terminal_shows_how_far_training_is(base, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    async def live():
        with FineTuner(make_agent(base))._following() as follow:
            follow({"step": 3, "epoch": 0.5, "loss": 1.25})
            follow({"step": 3, "epoch": 0.5, "eval_loss": 2.5})
            await asyncio.sleep(0.3)

    asyncio.run(live())
    assert "step 3, epoch 0.50, loss 2.5000" in capsys.readouterr().err
