"""`agent-finetune learn`: from recordings or feedback to an adapter that has passed its gate."""

import json
from dataclasses import replace
from itertools import count

import pytest
from live_engines import ask, open_engine
from updating_host import PAIRS

from agent_finetune.cli import main
from agent_finetune.engine.local import LocalEngine
from agent_finetune.errors import DataError
from agent_finetune.recordings import Recordings
from agent_finetune.testing import save_tiny_model
from agent_finetune.update.options import LEARNING, UpdateConfig
from agent_finetune.versions import Versions

LOOSE = ["--max-forgetting", "1", "--max-drift", "1"]
QUICK = ["--epochs", "3", "--batch-size", "2", "--learning-rate", "3e-3", "--rank", "4", *LOOSE]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AGENT_FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


def learn(model, store, source, *flags):
    where = ["--model", str(model), "--device", "cpu", "--dtype", "float32"]
    return main(["learn", str(source), *where, "--store", str(store), "--name", "helper", *flags])


def test_a_file_of_feedback_becomes_a_version(model, tmp_path, capsys):
    source = tmp_path / "feedback.jsonl"
    source.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    assert learn(model, tmp_path / "store", source, *QUICK, "--json") == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert report["accepted"]
    assert Versions(tmp_path / "store", "helper").current() == report["version"] == 1
    assert "feedback: 2 pairs, 0 verdicts" in told.err
    assert "dpo step 3" in told.err


def test_recordings_with_feedback_become_a_version(model, tmp_path, capsys):
    database = tmp_path / "recordings.sqlite"
    engine = open_engine(model, record_to=str(database))
    for text, right in (("What is the weather?", "It is sunny."), ("Who are you?", "I am.")):
        answer = engine.generate(ask(text))
        engine.feedback(answer.id, correction=right)
    engine.close()
    assert learn(model, tmp_path / "store", database, *QUICK) == 0
    told = capsys.readouterr()
    assert "update of 'helper': accepted" in told.out
    assert "labels not checked" in told.out
    assert Versions(tmp_path / "store", "helper").current() == 1


def test_answers_that_nobody_judged_bad_are_imitated_when_asked(model, tmp_path, capsys):
    database = tmp_path / "recordings.sqlite"
    engine = open_engine(model)
    recordings = Recordings(database)
    agents = ["Waiter", "Cook", "Cook"]
    for seed in count():
        said = engine.generate(ask("Hello?", max_new_tokens=400, temperature=1, seed=seed))
        if said.finish == "stop":
            recordings.add(engine.recent()[-1], agent=agents.pop())
        if not agents:
            break
    recordings.feedback(next(recordings.read()).id, correction="Well.")
    engine.close()
    store = tmp_path / "store"
    assert learn(model, store, f"{database}#Cook", *QUICK, "--demonstrations") == 0
    told = capsys.readouterr()
    assert "feedback: 1 pairs, 0 verdicts, 1 demonstrations, 0 dropped" in told.err
    assert "sft step" in told.err


def test_a_file_of_feedback_says_itself_what_to_imitate(model, tmp_path, capsys):
    source = tmp_path / "feedback.jsonl"
    source.write_text(json.dumps(PAIRS[0]))
    assert learn(model, tmp_path / "store", source, "--demonstrations") == 2
    assert "says itself what to imitate" in capsys.readouterr().err


def test_a_rejected_update_exits_1_and_leaves_no_version(model, tmp_path, capsys):
    source = tmp_path / "feedback.jsonl"
    swapped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    source.write_text("".join(json.dumps(pair) + "\n" for pair in swapped))
    trusted = tmp_path / "trusted.jsonl"
    trusted.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    flags = [*QUICK, "--trusted", str(trusted)]
    assert learn(model, tmp_path / "store", source, *flags) == 1
    assert "rejected; everything stands as it was" in capsys.readouterr().out
    assert Versions(tmp_path / "store", "helper").current() is None


def test_an_adapter_beside_the_name_is_refused(model, tmp_path, capsys):
    source = tmp_path / "feedback.jsonl"
    source.write_text(json.dumps(PAIRS[0]))
    assert learn(model, tmp_path / "store", source, "--adapter", "somewhere") == 2
    assert "goes on from the version" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective", "dpo"],
        ["--method", "full"],
        ["--eval-steps", "3"],
        ["--eval-generate", "3"],
        ["--patience", "3"],
        ["--save-steps", "3"],
        ["--keep-checkpoints", "3"],
        ["--resume"],
    ],
)
def test_a_flag_that_an_update_does_not_look_at_is_refused(model, tmp_path, capsys, flags):
    source = tmp_path / "feedback.jsonl"
    source.write_text(json.dumps(PAIRS[0]))
    assert learn(model, tmp_path / "store", source, *flags) == 2
    assert f"Unknown option: {flags[0]}" in capsys.readouterr().err


def test_flags_leave_the_other_settings_of_an_update_as_they_are(model, tmp_path, monkeypatch):
    source = tmp_path / "feedback.jsonl"
    source.write_text(json.dumps(PAIRS[0]))
    updates = []

    def update(self, name, learning, **options):
        updates.append(options["config"])
        raise DataError("enough is known")

    monkeypatch.setattr(LocalEngine, "update", update)
    learn(model, tmp_path / "store", source)
    learn(model, tmp_path / "store", source, "--epochs", "3")
    assert updates[0] == UpdateConfig()
    assert updates[1].train == replace(LEARNING, epochs=3.0)
