"""Data by name or as an object: the same rows, each with the place it is from."""

import csv
import json

import datasets
import pytest

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError
from modelscope_agent_train.sources import names_of, open_dataset, read_dataset, sample_names

OFFLINE = Settings(offline=True)
CALL = '<|startofthink|>{"name": "f", "parameters": {"a": %d}}<|endofthink|>'


def row(number):
    return {
        "id": f"row {number}",
        "conversations": [
            {"from": "system", "value": '1. {"name": "f", "parameters": [{"name": "a"}]}'},
            {"from": "user", "value": f"question {number}"},
            {"from": "assistant", "value": CALL % number},
        ],
    }


def write(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row(n))}\n" for n in numbers), encoding="utf-8")
    return path


def ids(result):
    return [example.id for example in result.examples]


def read(*names, **options):
    return read_dataset(names, settings=OFFLINE, local_files_only=True, **options)


def test_a_file_is_read_with_file_and_line_and_digest(tmp_path):
    path = write(tmp_path / "a.jsonl", range(3))
    result = read(str(path))
    assert [example.source for example in result.examples] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert result.format == "msagent"
    assert result.digest == readers.read(str(path), settings=OFFLINE).digest


def test_a_list_of_objects_is_read(tmp_path):
    result = read([row(1), row(2)])
    assert ids(result) == ["row 1", "row 2"]
    assert [example.source for example in result.examples] == ["list:1", "list:2"]
    assert result.digest.startswith("sha256:")


def test_what_is_no_object_in_a_list_is_a_bad_row():
    assert read([row(1), "oops"], on_bad_row="skip").bad[0].reason.startswith("the row is of type")
    with pytest.raises(DataError, match="list:2: the row is of type str"):
        read([row(1), "oops"])


def test_conversations_may_be_pythons_repr_as_in_the_csv_files_of_the_hub(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "conversations"])
        writer.writerow(["row 7", repr(row(7)["conversations"])])
    (example,) = read(str(tmp_path / "a.csv")).examples
    assert dict(example.messages[-1].tool_calls[0].arguments) == {"a": 7}


def test_objects_with_other_keys_do_not_get_each_others_in_a_table():
    rows = [
        {
            "messages": [
                {"role": "user", "content": "q", "tool_calls": None},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
                },
            ],
            "tools": [{"type": "function", "function": {"name": name, "parameters": schema}}],
        }
        for name, arguments, schema in (
            ("f", {"city": "Rome"}, {"type": "object", "properties": {"city": {"type": "string"}}}),
            ("g", {"days": 3}, {"type": "object", "properties": {"days": {"type": "integer"}}}),
        )
    ]
    data = datasets.Dataset.from_list(rows)
    assert "days" in str(data.features)  # Arrow gives both rows both keys
    result = read(data)
    calls = [dict(example.messages[-1].tool_calls[0].arguments) for example in result.examples]
    assert calls == [{"city": "Rome"}, {"days": 3}]
    assert list(result.examples[0].tools[0]["function"]["parameters"]["properties"]) == ["city"]


def test_a_dataset_of_several_splits_gives_the_one_asked_for():
    parts = {
        name: datasets.Dataset.from_list([row(number)])
        for number, name in enumerate(("train", "validation"))
    }
    result = read(datasets.DatasetDict(parts), split="validation")
    assert [(e.id, e.source) for e in result.examples] == [("row 1", "DatasetDict[validation]:1")]
    with pytest.raises(DataError, match="no split 'test'; there are train, validation"):
        read(datasets.DatasetDict(parts), split="test")


def test_a_streamed_dataset_is_read_to_its_end():
    stream = datasets.Dataset.from_list([row(1), row(2)]).to_iterable_dataset()
    assert ids(read(stream)) == ["row 1", "row 2"]


def test_an_object_that_holds_no_rows_is_named():
    with pytest.raises(
        DataError, match="of type int; give a name, a list of objects, an MsDataset"
    ):
        read(3)


@pytest.mark.filterwarnings("ignore")  # ModelScope warns when it is imported
def test_an_msdataset_is_read(tmp_path):
    from modelscope.msdatasets import MsDataset

    data = MsDataset.load(str(write(tmp_path / "a.jsonl", range(2))))
    result = read(data)
    assert ids(result) == ["row 0", "row 1"]
    assert result.examples[1].source == "MsDataset[train]:2"


@pytest.mark.filterwarnings("ignore")
def test_modelscope_ignores_the_split_of_a_file_and_we_refuse(tmp_path):
    from modelscope.msdatasets import MsDataset

    path = str(write(tmp_path / "a.jsonl", range(2)))
    assert len(MsDataset.load(path, split="validation")) == 2
    with pytest.raises(DataError, match="is a single file, which has no split 'validation'"):
        read(path, split="validation")
    assert len(read(str(write(tmp_path / "validation.jsonl", [5])), split="validation").examples)


def test_a_folder_gives_the_files_of_one_split(tmp_path):
    write(tmp_path / "train-00000-of-00002.jsonl", [0])
    write(tmp_path / "train-00001-of-00002.jsonl", [1])
    write(tmp_path / "dev.jsonl", [2])
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert ids(read(str(tmp_path))) == ["row 0", "row 1"]
    assert ids(read(str(tmp_path), split="validation")) == ["row 2"]
    with pytest.raises(DataError, match="no split 'test'; there are train, validation"):
        read(str(tmp_path), split="test")


def test_a_folder_whose_files_name_no_split_is_all_train(tmp_path):
    write(tmp_path / "a.jsonl", [0])
    write(tmp_path / "b.jsonl", [1])
    assert ids(read(str(tmp_path))) == ["row 0", "row 1"]


def test_a_folder_without_data_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="no data file in this folder"):
        read(str(tmp_path))


def test_a_dataset_saved_to_disk_is_read(tmp_path):
    datasets.Dataset.from_list([row(4)]).save_to_disk(tmp_path / "saved")
    assert ids(read(str(tmp_path / "saved"))) == ["row 4"]


def test_an_id_is_read_from_modelscopes_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    folder = tmp_path / "datasets" / "damo--MSAgent-Bench" / "snapshots" / "master"
    write(folder / "train.jsonl", [1, 2])
    write(folder / "validation.jsonl", [3])
    result = read("damo/MSAgent-Bench")
    assert ids(result) == ["row 1", "row 2"]
    assert result.examples[0].source == f"{folder / 'train.jsonl'}:1"
    assert ids(read("modelscope:damo/MSAgent-Bench#1", split="validation")) == ["row 3"]


def test_an_id_that_is_nowhere_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="damo/MSAgent-Bnech"):
        read("damo/MSAgent-Bnech", hub="local")


def test_hugging_face_alone_can_be_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "agent_finetune.readers.hub.hub_rows",
        lambda name, split, settings: asked.append((name, split, settings.offline)) or (),
    )
    source = open_dataset(
        "hf://owner/data", settings=Settings(), split="dev", local_files_only=True
    )
    assert (source.name, source.rows) == ("owner/data", ())
    assert asked == [("owner/data", "dev", True)]


@pytest.mark.parametrize("name", ["msagent-sampel", "MSAgent-Bench", "nowhere.jsonl", "a/b.csv"])
def test_a_mistyped_name_is_an_error_and_nothing_else_is_taken(name):
    with pytest.raises(DataError, match="no such file or folder, no hub id"):
        read(name)


def test_the_error_names_the_nearest_sample():
    with pytest.raises(DataError, match="did you mean 'msagent-sample'"):
        read("msagent-sampel")


def test_every_shipped_sample_has_a_name():
    assert "msagent-sample" in sample_names()
    assert len(sample_names()) == 8


def test_a_count_behind_a_name_takes_so_many_by_the_seed(tmp_path):
    path = write(tmp_path / "a.jsonl", range(50))
    first = read(f"{path}#5")
    assert len(first.examples) == 5
    assert ids(first) == ids(read(f"{path}#5")) != ids(read(f"{path}#5", seed=1))
    assert first.digest == read(str(path)).digest


def test_a_sample_is_drawn_from_all_data_sets_together(tmp_path):
    few, many = write(tmp_path / "a.jsonl", range(10)), write(tmp_path / "b.jsonl", range(90))
    drawn = read(str(few), str(many), sample=50).examples
    from_few = sum(example.source.startswith(str(few)) for example in drawn)
    assert len({example.source for example in drawn}) == 50
    assert 1 <= from_few <= 10


def test_a_bad_row_is_replaced_by_another_in_a_sample(tmp_path):
    path = write(tmp_path / "a.jsonl", range(6))
    path.write_text(path.read_text() + "oops\n" * 6)
    result = read(f"{path}#6", on_bad_row="skip")
    assert len(result.examples) == 6
    assert 1 <= len(result.bad) <= 6


def test_more_than_there_is_gives_all_and_says_so(tmp_path):
    told = []
    path = write(tmp_path / "a.jsonl", range(3))
    assert len(read(f"{path}#9", sample=20, report=told.append).examples) == 3
    assert f"{path}: 9 asked for, 3 there, all taken" in told


def test_several_data_sets_in_several_forms_are_read_as_one():
    result = read("msagent-sample#2", "xlam-sample", "toolbench-sample#1")
    assert len(result.examples) == 9
    assert result.format == "msagent+xlam+toolbench"


def test_data_of_which_no_row_reads_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("oops\n")
    with pytest.raises(DataError, match=r"none of 1 rows could be read; the first: .*a\.jsonl:1"):
        read(str(tmp_path / "a.jsonl"), on_bad_row="skip", format="msagent")


@pytest.mark.parametrize(("names", "options"), [(["a#0"], {}), (["a"], {"sample": 0})])
def test_taking_no_rows_is_refused(names, options):
    with pytest.raises(ConfigError, match="give 1 or more"):
        read(*names, **options)


def test_names_are_apart_by_commas_but_for_those_inside_bfcl(tmp_path):
    assert names_of("a, b#5,hf://c/d") == ("a", "b#5", "hf://c/d")
    assert names_of("bfcl:simple_python,multiple,a.jsonl") == (
        "bfcl:simple_python,multiple",
        "a.jsonl",
    )
    path = write(tmp_path / "a,b.jsonl", [1])
    assert names_of(str(path)) == (str(path),)
    with pytest.raises(ConfigError, match="dataset is empty"):
        names_of(" , ")
