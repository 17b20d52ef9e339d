"""Recordings as the data of a run."""

import json

import pytest
from command_line import answer_of, run_verb
from live_engines import ask, close_all, config_of, open_engine

from agent_finetune import readers, train
from agent_finetune.config import AdapterConfig, DataConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.models import open_tokenizer
from agent_finetune.recordings import Recordings
from agent_finetune.render import Renderer
from agent_finetune.testing import save_tiny_model

SETTINGS = Settings()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models whose ids stand for different words."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "one")
    save_tiny_model(folder / "other", special=("<|other|>", "<|im_start|>", "<|im_end|>"))
    yield folder
    close_all()


@pytest.fixture(scope="module")
def database(models):
    """Three answers of Cook and one of Waiter, as the engine gave them; one of Cook is bad."""
    engine = open_engine(models / "one")
    recordings = Recordings(models / "sessions.sqlite")
    for number, agent in enumerate(["Cook", "Cook", "Cook", "Waiter"]):
        engine.generate(ask(f"What is {number}?", max_new_tokens=400, seed=number, temperature=1))
        exchange = engine.recent()[-1]
        recordings.add(exchange, model="one", agent=agent)
        if number == 1:
            recordings.feedback(exchange.result.id, value=False)
    engine.close()
    return recordings


@pytest.fixture(scope="module")
def whole(database):
    return [r for r in database.read() if r.not_to_imitate is None]


def test_recordings_are_read_with_their_exact_ids(database, whole):
    read = readers.read(str(database.path), settings=SETTINGS)
    assert read.format == "recordings"
    assert [e.id for e in read.examples] == [r.id for r in whole]
    assert sum(read.left_out.values()) == 4 - len(whole)
    assert read.left_out["judged bad"] == 1
    for example, recorded in zip(read.examples, whole, strict=True):
        assert example.messages[-1] == recorded.exchange.result.message
        assert example.messages[-1].generation.renderer.startswith("sha256:")


def test_recordings_of_one_agent_are_read(database, whole):
    read = readers.read(f"{database.path}#Cook", settings=SETTINGS)
    assert [e.id for e in read.examples] == [r.id for r in whole if r.agent == "Cook"]
    with pytest.raises(DataError, match="nothing of an agent 'Chef'; agents are 'Cook', 'Waiter'"):
        readers.read(f"{database.path}#Chef", settings=SETTINGS)


def test_the_digest_says_what_was_read(database, tmp_path):
    def digest(name):
        return readers.read(name, settings=SETTINGS).digest

    path = tmp_path / "copy.sqlite"
    copy = Recordings(path)
    for recorded in database.read():
        copy.add(recorded.exchange, model="one", agent=recorded.agent)
    before = digest(str(path))
    assert digest(str(path)) == before
    assert digest(f"{path}#Cook") != before
    copy.feedback(next(copy.read()).id, comment="hm")
    assert digest(str(path)) != before


def test_a_database_is_read_in_no_other_format(database, tmp_path):
    with pytest.raises(DataError, match="a database is read as 'recordings', not as 'lima'"):
        readers.read(str(database.path), format="lima", settings=SETTINGS)
    import sqlite3

    with sqlite3.connect(tmp_path / "notes.db") as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    with pytest.raises(DataError, match="a database of another program"):
        readers.read(str(tmp_path / "notes.db"), settings=SETTINGS)
    with pytest.raises(DataError, match="no such file"):
        readers.read(str(tmp_path / "missing.sqlite#Cook"), settings=SETTINGS)


def test_the_model_that_spoke_trains_its_own_ids_and_another_the_words(models, database, whole):
    examples = readers.read(str(database.path), settings=SETTINGS).examples
    own, other = (
        Renderer(open_tokenizer(config_of(models / name), SETTINGS)) for name in ("one", "other")
    )
    for example, recorded in zip(examples, whole, strict=True):
        said = recorded.exchange.result.message.generation
        (row,) = own.rows(example)
        assert row.ids == said.prompt_ids + said.ids
        (row,) = other.rows(example)
        assert row.ids[: len(said.prompt_ids)] == other.prompt_ids(example.messages[:-1])


def test_a_run_trains_on_recordings(models, database, whole, tmp_path):
    said = []
    config = RunConfig(
        model=config_of(models / "one"),
        data=DataConfig(data=f"{database.path}#Cook"),
        train=TrainConfig(epochs=1, batch_size=2),
        lora=AdapterConfig(rank=2),
        out=str(tmp_path / "run"),
    )
    result = train.run(config, SETTINGS, report=said.append)
    assert result.steps >= 1
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["sources"][0]
    assert facts["format"] == "recordings"
    assert facts["left_out"]["judged bad"] == 1
    assert any("format recordings (found)" in line and "judged bad" in line for line in said)


def test_recordings_are_inspected(models, database, capsys):
    shown = answer_of("inspect", capsys, "--model", models / "one", "--data", database.path)
    assert shown["format"] == "recordings"
    assert any(shown["rows"][0]["trained"])
    assert shown["left_out"]["judged bad"] == 1
    _, out, _ = run_verb("inspect", capsys, "--model", models / "one", "--data", database.path)
    assert "1 left out: judged bad" in out
