"""A whole training run beside the live model, which goes on as if there were none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from live_engines import ask, close_all, open_engine

from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.engine import process
from agent_finetune.errors import ConfigError, DataError, ModelError, TrainError
from agent_finetune.records import Section
from agent_finetune.testing import save_tiny_model
from agent_finetune.train import fits

ROWS = [
    {"messages": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": "Yes."}]}
    for n in range(6)
]
FULL = RunConfig(
    model=ModelConfig(
        model="m",
        revision="r",
        adapter="a",
        device="cuda:1",
        dtype="bfloat16",
        quantization="4bit",
        four_bit_type="fp4",
        double_quantization=False,
        attention="eager",
        trust_remote_code=True,
    ),
    data=DataConfig(
        data="d",
        format="openai",
        split="s",
        eval_data="e",
        eval_share=0.2,
        on_bad_row="skip",
        max_length=99,
        overlong="drop",
        sections=(Section.FINAL_ANSWER, Section.STOP),
        system_prompt="p",
    ),
    out="o",
    lora=AdapterConfig(
        rank=3, alpha=5.0, dropout=0.1, targets=("q_proj", "v_proj"), rslora=True, dora=True
    ),
    train=TrainConfig(epochs=3.5, max_steps=7, learning_rate=1e-5, pack=False, resume=True),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_tiny_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.fixture
def engine(model):
    engine = open_engine(model)
    yield engine
    engine.close()


@pytest.fixture
def config(model, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return RunConfig(
        model=ModelConfig(model=str(model), device="cpu", dtype="float32"),
        data=DataConfig(data=str(data), max_length=64),
        out=str(tmp_path / "run"),
        lora=AdapterConfig(rank=4),
        train=TrainConfig(max_steps=4, batch_size=2, learning_rate=3e-2),
    )


def with_train(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, train=replace(config.train, **changes))


def test_a_run_travels_as_json_and_comes_back_equal() -> None:
    parts = (FULL.model, FULL.data, FULL.lora)
    for part in parts:
        for spec in fields(part):  # a new field must be given a value above
            assert getattr(part, spec.name) != spec.default, spec.name
    for config in (
        FULL,
        RunConfig(model=ModelConfig(model="m"), data=DataConfig(data="d"), out="o"),
    ):
        assert RunConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config
        assert RunConfig.from_dict(asdict(config)) == config


def test_answers_go_on_and_the_adapter_speaks_through_another_handle(engine, model, config) -> None:
    before = engine.generate(ask("Hi 1"))
    lines, told, meanwhile = [], [], []

    def during(line: Any) -> None:
        lines.append(line)
        meanwhile.append(engine.generate(ask("Hi 1")))

    result = engine.train(config, on_progress=during, report=told.append)
    assert result.steps == 4
    assert result.adapter_dir == Path(config.out) / "adapter"
    history = Path(config.out, "history.jsonl").read_text().splitlines()
    assert lines == [json.loads(line) for line in history]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert any(line.startswith("training: 6 rows") for line in told)
    assert told[0].startswith("memory: training needs")
    assert {each.revision for each in meanwhile} == {before.revision}
    assert {each.message.text for each in meanwhile} == {before.message.text}
    other = open_engine(model, adapter=result.adapter_dir)
    spoken = other.generate(ask("Hi 1"))
    assert spoken.revision != before.revision
    assert spoken.message.text.startswith("Y")
    assert not before.message.text.startswith("Y")
    assert engine.generate(ask("Hi 1")).message == before.message
    other.close()


def test_training_every_weight_gives_a_model_that_another_engine_serves(engine, config) -> None:
    whole = with_train(config, method="full", learning_rate=1e-2, max_steps=8)
    result = engine.train(whole)
    other = open_engine(result.adapter_dir)
    assert other.generate(ask("Hi 1")).message.text.startswith("Yes")
    assert other.info().revision != engine.info().revision
    other.close()


def test_a_run_can_be_stopped_and_taken_up_again(engine, config) -> None:
    long, stop = with_train(config, max_steps=400, save_steps=2), threading.Event()

    def until_saved(line: Any) -> None:
        if line["step"] >= 5:
            stop.set()

    with pytest.raises(TrainError, match="was stopped"):
        engine.train(long, on_progress=until_saved, stop=stop)
    assert json.loads(Path(long.out, "run.json").read_text())["status"] == "interrupted"
    assert engine.generate(ask("Hello")).usage.completion_tokens > 0
    lines = []
    with pytest.raises(TrainError, match="was stopped"):
        engine.train(with_train(long, resume=True), stop=stop)
    resumed = with_train(long, resume=True)
    again = threading.Event()

    def further(line: Any) -> None:
        lines.append(line["step"])
        if line["step"] >= 12:
            again.set()

    with pytest.raises(TrainError, match="was stopped"):
        engine.train(resumed, on_progress=further, stop=again)
    assert lines == sorted(set(lines))
    assert lines[0] <= 1
    assert lines[-1] >= 12


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"data": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        ({"format": "no such"}, (ConfigError, DataError), "no such"),
    ],
)
def test_what_the_user_must_change_is_told_in_its_own_words(
    engine, config, changes, error, what
) -> None:
    before = engine.generate(ask("Hello"))
    wrong = replace(config, data=replace(config.data, **changes))
    with pytest.raises(error, match=what) as caught:
        engine.train(wrong)
    assert "ended with code" not in str(caught.value)
    assert engine.generate(ask("Hello")).message == before.message


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_moved(
    engine, config, monkeypatch
) -> None:
    Path(config.out).mkdir()
    Path(config.out, "adapter").mkdir()
    monkeypatch.setattr(process, "train", None)
    with pytest.raises(ConfigError, match="give another out"):
        engine.train(config)


def test_an_error_of_a_plugin_comes_back_as_the_kernels(tmp_path) -> None:
    class OwnError(ModelError):
        """Of a plugin."""

    process.write_error(tmp_path, OwnError("the words"))
    with pytest.raises(ModelError, match=r"^the words$"):
        process._fail(tmp_path, 2, stopped=False)


def test_a_trainer_that_is_killed_is_told_and_changes_nothing(engine, config, monkeypatch) -> None:
    before = engine.generate(ask("Hello"))
    started = subprocess.Popen
    children = []

    def watched(*words: Any, **options: Any) -> Any:
        children.append(started(*words, **options))
        return children[-1]

    monkeypatch.setattr(process.subprocess, "Popen", watched)

    def kill(_: Any) -> None:
        os.kill(children[0].pid, signal.SIGKILL)

    with pytest.raises(TrainError, match="code -9: it was killed"):
        engine.train(with_train(config, max_steps=400), on_progress=kill)
    after = engine.generate(ask("Hello"))
    assert (after.message, after.revision) == (before.message, before.revision)


def test_where_both_do_not_fit_the_model_is_away_and_comes_back(
    engine, config, monkeypatch
) -> None:
    before = engine.generate(ask("Hello"))
    monkeypatch.setattr(fits, "free_bytes", lambda device: 0)
    waiting, told = [], []

    def during(line: Any) -> None:
        if not waiting:
            waiting.append(engine.stream(ask("Hello")))
            time.sleep(0.3)
            assert not waiting[0].done

    engine.train(config, on_progress=during, report=told.append)
    assert "does not fit beside" in told[0]
    assert waiting[0].result(timeout=60).message == before.message


def test_a_failure_while_the_model_is_away_brings_it_back(engine, config, monkeypatch) -> None:
    monkeypatch.setattr(fits, "free_bytes", lambda device: 0)
    wrong = replace(config, data=replace(config.data, data="nowhere.jsonl"))
    with pytest.raises(DataError):
        engine.train(wrong)
    assert engine.generate(ask("Hello")).usage.completion_tokens > 0


def test_weights_of_an_adapter_are_counted_by_its_targets(engine) -> None:
    def count(*targets: str) -> int:
        return engine._worker().call(
            lambda served: fits.lora_weights(served.loaded.model, 4, targets)
        )

    assert count("q_proj") == 2 * 4 * (32 + 32)
    assert count("q_proj", "v_proj") == 2 * 4 * (32 + 32 + 32 + 16)
    assert count("all-linear") == 2 * 4 * (3 * 96 + 2 * (32 + 16) + 2 * 32 + 2 * 32)
