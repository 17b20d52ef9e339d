"""The data of the 2024 example: Dolly and LIMA, by id and as local copies, and its own splits."""

import json
from pathlib import Path

import pytest

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import Message
from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_tokenizer

SAMPLES = (
    Path(__file__).parents[2] / "examples/conversation_with_agent_with_finetuned_model" / "data"
)
DOLLY = SAMPLES / "dolly_sample.jsonl"
LIMA = SAMPLES / "lima_sample.jsonl"


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, rows):
    """The rows as a file of the kind that the name says."""
    from datasets import Dataset

    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".csv":
        Dataset.from_list(rows).to_csv(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_samples_have_the_columns_of_the_originals():
    assert {key for row in rows_of(DOLLY) for key in row} == {
        "instruction",
        "context",
        "response",
        "category",
    }
    assert all(set(row) == {"conversations", "source"} for row in rows_of(LIMA))
    assert any(row["context"] for row in rows_of(DOLLY))
    assert any(len(row["conversations"]) > 2 for row in rows_of(LIMA))


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_local_copy_of_dolly_is_read_by_itself(tmp_path, kind):
    rows = rows_of(DOLLY)
    path = write(tmp_path / f"databricks-dolly-15k.{kind}", rows)
    found = readers.read(str(path), settings=Settings())
    assert (found.format, len(found.examples)) == ("dolly", len(rows))
    for row, example in zip(rows, found.examples, strict=True):
        question = "\n\n".join(filter(None, (row["instruction"], row["context"])))
        assert example.messages == (
            Message(role="user", text=question),
            Message(role="assistant", text=row["response"]),
        )


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_local_copy_of_lima_is_read_with_all_its_turns(tmp_path, kind):
    rows = rows_of(LIMA)
    path = write(tmp_path / f"train.{kind}", rows)
    found = readers.read(str(path), settings=Settings())
    assert (found.format, len(found.examples)) == ("lima", len(rows))
    for row, example in zip(rows, found.examples, strict=True):
        assert [message.text for message in example.messages] == row["conversations"]
        assert {message.role for message in example.messages[1::2]} == {"assistant"}


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Put rows where `datasets` keeps what it once fetched from the hub."""
    from datasets import config
    from datasets.packaged_modules.json.json import Json

    cache = tmp_path / "datasets"
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", cache)
    monkeypatch.chdir(tmp_path)

    def keep(name, path):
        owner, _, dataset = name.partition("/")
        builder = Json(
            cache_dir=str(cache),
            dataset_name=dataset,
            repo_id=name,
            hash="0" * 40,
            data_files={"train": [str(path)]},
        )
        builder.download_and_prepare()
        # A dataset of the hub has its files in its configuration, and not in its folder's name.
        (made,) = (cache / f"{owner}___{dataset}").iterdir()
        made.rename(made.parent / "default")

    return keep


@pytest.mark.parametrize(
    ("name", "path", "format"),
    [("databricks/databricks-dolly-15k", DOLLY, "dolly"), ("GAIR/lima", LIMA, "lima")],
)
def test_the_ids_of_2024_are_read_offline_once_they_were_fetched(cached, name, path, format):
    cached(name, path)
    found = readers.read(name, settings=Settings(offline=True))
    local = readers.read(str(path), settings=Settings())
    assert found.format == format
    assert [each.messages for each in found.examples] == [each.messages for each in local.examples]
    assert found.examples[0].source == f"{name}[train]:1"


def test_an_id_that_was_never_fetched_says_so(cached):
    with pytest.raises(DataError, match=r"GAIR/lima: .* HF_HUB_OFFLINE forbids"):
        readers.read("GAIR/lima", settings=Settings(offline=True))


def test_limas_test_split_has_no_answers_and_is_refused_by_line(tmp_path):
    path = write(tmp_path / "test.jsonl", [{"conversations": ["Why?"], "source": "x"}])
    with pytest.raises(DataError, match=r"test\.jsonl:1: 1 turns; expected an answer"):
        readers.read(str(path), settings=Settings())


@pytest.mark.parametrize("path", [DOLLY, LIMA], ids=["dolly", "lima"])
def test_every_row_can_be_trained_and_only_answers_are(path):
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer)
    for example in readers.read(str(path), settings=Settings()).examples:
        (row,) = renderer.rows(example)
        trained = [id for id, flag in zip(row.ids, row.trained, strict=True) if flag]
        answers = [turn.text for turn in example.messages if turn.role == "assistant"]
        assert tokenizer.decode(trained) == "".join(f"{text}<|im_end|>" for text in answers)
