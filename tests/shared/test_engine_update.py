"""An update makes the agent better, or leaves it exactly as it was."""

import threading
from dataclasses import replace

import pytest
from live_engines import ask, make_adapter, open_engine
from updating_host import PAIRS

from agent_finetune.config import AdapterConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import BusyError, DataError, TrainError
from agent_finetune.feedback import align, read_feedback
from agent_finetune.testing import save_tiny_model
from agent_finetune.train import fits
from agent_finetune.update.gate import GateConfig
from agent_finetune.update.options import UpdateConfig
from agent_finetune.versions import Versions

LOOSE = GateConfig(max_forgetting=1.0, max_drift=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(model, tmp_path):
    engine = open_engine(model)
    engine._settings = Settings(cache_dir=tmp_path / "cache")
    yield engine
    engine.close()


def quick(**options):
    train = {"epochs": 6, "batch_size": 2, "learning_rate": 3e-3, "sft_weight": 5.0} | options
    return UpdateConfig(train=TrainConfig(**train), lora=AdapterConfig(rank=4), gate=LOOSE)


def learned(engine, items, name=None):
    for text in ("What is the weather?", "Who are you?"):
        engine.generate(ask(text, adapter=name))
    return align(read_feedback(items), engine.recent()[-2:])


def test_an_accepted_update_speaks_under_its_name_and_is_a_version(engine, tmp_path):
    lines = []
    report = engine.update(
        "helper", learned(engine, PAIRS), store=tmp_path, config=quick(), on_progress=lines.append
    )
    assert report.accepted, str(report)
    answer = engine.generate(ask("Who are you?", adapter="helper"))
    assert answer.revision == report.revision != engine.info().revision
    versions = Versions(tmp_path, "helper")
    assert versions.current() == report.version == 1
    assert versions.facts(1)["after"]["trained"]["liked"] == list(
        report.stats["after"]["trained"]["liked"]
    )
    assert [line["objective"] for line in lines if "loss" in line] == ["dpo"] * 6
    assert "labels not checked" in str(report)


def test_a_second_update_builds_on_the_first_and_can_be_rolled_back(engine, tmp_path):
    first = engine.update("helper", learned(engine, PAIRS), store=tmp_path, config=quick())
    second = engine.update("helper", learned(engine, PAIRS), store=tmp_path, config=quick())
    assert second.version == 2, str(second)
    for side in ("liked", "disliked"):
        was = first.stats["after"]["trained"][side]
        assert second.stats["before"]["trained"][side] == pytest.approx(was)
    assert engine.generate(ask("Hello", adapter="helper")).revision == second.revision
    Versions(tmp_path, "helper").rollback()
    assert engine.generate(ask("Hello", adapter="helper")).revision == first.revision


def test_a_rejected_update_changes_nothing(engine, tmp_path):
    accepted = engine.update("helper", learned(engine, PAIRS), store=tmp_path, config=quick())
    before = engine.generate(ask("Who are you?", adapter="helper"))
    strict = UpdateConfig(
        train=TrainConfig(epochs=4, batch_size=2, learning_rate=1.0),
        gate=GateConfig(max_forgetting=0.0, max_drift=0.0),
    )
    report = engine.update("helper", learned(engine, PAIRS), store=tmp_path, config=strict)
    assert not report.accepted
    assert report.version == 1
    assert report.revision == accepted.revision
    after = engine.generate(ask("Who are you?", adapter="helper"))
    assert after.message == before.message
    assert after.revision == before.revision
    assert [info.number for info in Versions(tmp_path, "helper").list()] == [1]
    assert not list((tmp_path / "helper" / ".staging").iterdir())


def test_swapped_labels_are_rejected_by_a_trusted_set(engine, tmp_path):
    swapped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    trusted = align(read_feedback(PAIRS))
    report = engine.update(
        "helper", learned(engine, swapped), store=tmp_path, config=quick(), trusted=trusted
    )
    assert not report.accepted
    (failed,) = [check for check in report.checks if not check.passed]
    assert failed.name == "margin on the trusted set"
    assert report.version is None
    assert report.labels_checked


def test_verdicts_and_demonstrations_are_learned_too(engine, tmp_path):
    items = [
        {"prompt": "What is the weather?", "completion": "It is sunny.", "label": True},
        {"prompt": "Who are you?", "completion": "system user", "label": False},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
    ]
    report = engine.update("helper", learned(engine, items), store=tmp_path, config=quick())
    assert [phase["objective"] for phase in report.stats["training"]] == ["sft", "kto"]
    before, after = report.stats["before"]["trained"], report.stats["after"]["trained"]
    assert after["liked"][0] > before["liked"][0]
    assert len(after["liked"]) == len(after["disliked"]) == 3


def test_other_adapters_answer_as_before(engine, model, tmp_path):
    engine.attach("other", make_adapter(model, tmp_path / "adapter", seed=3))
    before = engine.generate(ask("Who are you?", adapter="other"))
    engine.update("helper", learned(engine, PAIRS), store=tmp_path, config=quick())
    after = engine.generate(ask("Who are you?", adapter="other"))
    assert after.message == before.message
    assert after.revision == before.revision


def test_training_that_fails_is_told_and_changes_nothing(engine, tmp_path):
    learning = learned(engine, PAIRS)
    with pytest.raises(TrainError, match="loss is nan"):
        engine.update("helper", learning, store=tmp_path, config=quick(learning_rate=1e30))
    assert Versions(tmp_path, "helper").current() is None
    assert not list((tmp_path / "helper" / ".staging").iterdir())


def test_nothing_to_learn_from_is_an_error_that_says_why(engine, tmp_path):
    config = UpdateConfig(max_length=5)
    with pytest.raises(DataError, match="the most is 5"):
        engine.update("helper", learned(engine, PAIRS), store=tmp_path, config=config)


def test_one_update_of_a_name_at_a_time(engine, tmp_path):
    learning = learned(engine, PAIRS)
    problems = []

    def second(line):
        if not problems:
            with pytest.raises(BusyError) as caught:
                engine.update("helper", learning, store=tmp_path, config=quick())
            problems.append(caught.value)

    engine.update("helper", learning, store=tmp_path, config=quick(), on_progress=second)
    assert "'helper' is under way" in str(problems[0])


def test_several_processes_train_one_version(engine, tmp_path):
    config = replace(quick(epochs=3), processes=2)
    report = engine.update("helper", learned(engine, PAIRS), store=tmp_path, config=config)
    assert report.accepted, str(report)
    assert report.stats["training"][0]["steps"] == 3
    assert engine.generate(ask("Hello", adapter="helper")).revision == report.revision


def test_answers_go_on_while_a_model_is_trained(engine, tmp_path):
    learning = learned(engine, PAIRS)
    done = threading.Event()
    answers = []

    def talk():
        while not done.is_set():
            answers.append(engine.generate(ask("Hello", max_new_tokens=2)))

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        engine.update("helper", learning, store=tmp_path, config=quick())
    finally:
        done.set()
        talking.join()
    assert len(answers) > 20
    assert {answer.revision for answer in answers} == {engine.info().revision}


def test_where_two_copies_do_not_fit_the_model_is_away_meanwhile(engine, tmp_path, monkeypatch):
    learning = learned(engine, PAIRS)
    monkeypatch.setattr(fits, "free_bytes", lambda device: 0)
    waiting = []

    def during(line):
        if not waiting:
            waiting.append(engine.stream(ask("Hello")))
            assert not waiting[0].done

    report = engine.update("helper", learning, store=tmp_path, config=quick(), on_progress=during)
    assert "does not fit beside" in report.stats["memory"]
    assert waiting[0].result(timeout=30).usage.completion_tokens > 0
    assert engine.generate(ask("Hello", adapter="helper")).revision == report.revision
