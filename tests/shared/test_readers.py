"""Finding the data and its format, and what becomes of rows that cannot be read."""

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_finetune import hookimpl, plugins, readers
from agent_finetune.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Reading, Secret, Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.readers import formats, hub
from agent_finetune.records import BadRow, Example, Generation, Message, Row

MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ROWS = {
    "bfcl": {
        "id": "x_0",
        "question": [[{"role": "user", "content": "q"}]],
        "function": [{"name": "f"}],
        "ground_truth": [{"f": {}}],
    },
    "messages": {"messages": MESSAGES},
    "sharegpt": {"conversations": TURNS},
    "lima": {"conversations": ["q", "a"], "source": "wiki"},
    "dolly": {"instruction": "q", "context": "", "response": "a", "category": "x"},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "prompt_completion": {"prompt": "q", "completion": "a"},
}


def read(path, **options):
    return readers.read(str(path), settings=Settings(), **options)


@pytest.fixture
def jsonl(tmp_path):
    def jsonl(*rows, name="a.jsonl"):
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("\n".join(lines))
        return path

    return jsonl


@pytest.mark.parametrize("name", ROWS)
def test_every_format_is_found_by_itself_and_by_name(jsonl, name):
    path = jsonl(ROWS[name])
    found, named = read(path), read(path, format=name)
    assert found.format == named.format == name
    assert found.examples == named.examples
    assert found.examples[0].messages[0] == Message(role="user", text="q")


@pytest.mark.parametrize("name", [name for name in ROWS if name != "bfcl"])
def test_every_format_is_found_in_csv_and_parquet(tmp_path, name):
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    row = ROWS[name]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for file in ("a.csv", "a.parquet"):
        result = read(tmp_path / file)
        assert result.format == name
        assert [m.text for m in result.examples[0].messages] == ["q", "a"]


def test_conversations_with_roles_are_messages(jsonl):
    assert read(jsonl({"conversations": MESSAGES})).format == "messages"
    assert read(jsonl({"conversation": MESSAGES})).format == "messages"


def test_the_more_specific_format_has_the_row(jsonl):
    both = {**ROWS["messages"], **ROWS["alpaca"], **ROWS["prompt_completion"]}
    assert read(jsonl(both)).format == "messages"
    assert read(jsonl(both), format="alpaca").format == "alpaca"


def test_the_format_of_most_rows_wins_over_a_stray_first_row(jsonl):
    path = jsonl({"oops": 1}, ROWS["alpaca"], ROWS["messages"], ROWS["messages"])
    result = read(path, on_bad_row="skip")
    assert result.format == "messages"
    assert [bad.source for bad in result.bad] == [f"{path}:1", f"{path}:2"]


def test_an_unknown_format_lists_the_keys_seen_and_the_formats_known(jsonl):
    path = jsonl({"foo": 1}, {"bar": [2]})
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: no known format has the keys 'foo', 'bar'; known formats are bfcl, messages, "
        "sharegpt, lima, dolly, alpaca, prompt_completion"
    )


def test_a_format_name_that_nobody_knows_is_refused_with_the_known_ones(jsonl):
    with pytest.raises(DataError, match=r"no reader knows format 'dollly'; .* dolly, alpaca"):
        read(jsonl(ROWS["dolly"]), format="dollly")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "completion": "a", "label": False},
        {"messages": MESSAGES, "rejected": "b"},
        {"messages": MESSAGES, "rejected_response": "b"},
        {"messages": MESSAGES, "label": False},
    ],
)
def test_preferences_are_not_mistaken_for_things_to_say(jsonl, row):
    with pytest.raises(
        DataError, match=r"good and bad answers; that is feedback, .*read_feedback_file"
    ):
        read(jsonl(row))


def test_a_file_of_broken_lines_says_what_is_wrong_with_the_first(jsonl):
    path = jsonl("{", "}")
    with pytest.raises(DataError, match=f"{path}:1: not JSON"):
        read(path)


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_a_file_without_rows_is_refused(tmp_path, name):
    (tmp_path / name).write_text("[]" if name == "a.json" else "a,b\n")
    for format, reason in (("auto", "holds no rows"), ("messages", "none of 0 rows")):
        with pytest.raises(DataError, match=f"{name}: {reason}"):
            read(tmp_path / name, format=format)


def test_the_first_bad_row_stops_with_its_file_line_and_reason(jsonl):
    path = jsonl(ROWS["messages"], "", {"id": 1, "output": "a"}, ROWS["messages"])
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == f"{path}:3: no key 'messages'; keys are 'id', 'output'"


def test_bad_rows_are_skipped_and_kept_with_their_reasons(jsonl):
    path = jsonl(ROWS["messages"], '{"messages": ', ROWS["messages"], {"messages": 3})
    result = read(path, on_bad_row="skip")
    assert len(result.examples) == 2
    assert result.bad == (
        BadRow(source=f"{path}:2", reason="not JSON: Expecting value at column 14"),
        BadRow(source=f"{path}:4", reason="messages is 3; expected a list of objects"),
    )


def test_data_without_one_good_row_is_refused_even_when_skipping(jsonl):
    path = jsonl({"messages": 3})
    with pytest.raises(DataError, match=f"none of 1 rows could be read; the first: {path}:1: mess"):
        read(path, format="messages", on_bad_row="skip")


def test_a_folder_is_all_its_data_files_in_order_of_name(tmp_path, jsonl):
    jsonl(ROWS["messages"], name="b.jsonl")
    jsonl(ROWS["messages"], ROWS["messages"], name="a.jsonl")
    (tmp_path / "README.md").write_text("not data")
    examples = read(tmp_path).examples
    assert [e.source.rpartition("/")[2] for e in examples] == [
        "a.jsonl:1",
        "a.jsonl:2",
        "b.jsonl:1",
    ]


def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(jsonl):
    path = jsonl(ROWS["messages"])
    assert read(path).digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_the_digest_of_a_folder_changes_with_names_and_bytes(tmp_path, jsonl):
    jsonl(ROWS["messages"], name="a.jsonl")
    second = jsonl(ROWS["messages"], name="b.jsonl")
    first = read(tmp_path).digest
    second.rename(tmp_path / "c.jsonl")
    renamed = read(tmp_path).digest
    jsonl(ROWS["messages"], ROWS["messages"], name="c.jsonl")
    assert len({first, renamed, read(tmp_path).digest}) == 3


def test_the_digest_of_rows_without_files_covers_every_value():
    def digest(text):
        rows = [Row(source="hub:1", data={"a": text})]
        return readers.OpenedSource("hub", None, lambda: rows).digest

    assert digest("x") == digest("x") != digest("y")


@pytest.mark.parametrize("name", ["none.jsonl", "no/such/folder/here", "a b", "", "/nowhere"])
def test_a_name_that_is_neither_path_nor_hub_id_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name == "":
        (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match=r"no such file or folder|no data file in this folder"):
        read(name)


def test_a_file_type_that_is_not_read_is_refused_with_those_that_are(tmp_path):
    path = tmp_path / "a.xlsx"
    path.write_text("x")
    with pytest.raises(DataError, match=r"'\.xlsx' are not read; read are \.json, \.jsonl"):
        read(path)


def test_a_plugin_is_asked_before_the_kernel(jsonl):
    class Mine:
        @hookimpl
        def finetune_read_examples(self, source, format):
            messages = (Message(role="assistant", text="mine"),)
            example = Example(messages=messages, source=source.rows[0].source)
            return Reading(format="mine", items=[example])

    with plugins.registered(Mine(), "mine"):
        assert read(jsonl(ROWS["messages"])).format == "mine"
    assert read(jsonl(ROWS["messages"])).format == "messages"


def test_opening_a_hub_id_fetches_nothing():
    source = readers.open_source("owner/data:config", Settings())
    assert source.path is None
    assert source.files == ()


def test_an_offline_hub_id_that_is_not_cached_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(offline=True, hub_token=Secret("hf_x"))
    with pytest.raises(DataError, match=r"owner/never-seen: .* HF_HUB_OFFLINE forbids"):
        readers.read("owner/never-seen", settings=settings)


def test_hub_errors_say_what_to_do():
    from datasets.exceptions import DatasetNotFoundError

    def say(error):
        return hub.explain("o/d", "train", error, offline=False)

    assert "does not exist, or is private" in say(DatasetNotFoundError("Dataset 'o/d' doesn't"))
    assert "accept its terms" in say(DatasetNotFoundError("Dataset 'o/d' is a gated dataset"))
    assert "no connection to the hub" in say(ConnectionError("Couldn't reach"))
    assert "split 'train' cannot be read: Unknown split" in say(ValueError("Unknown split\nmore"))
    assert "ValueError" in say(ValueError())


def test_a_system_prompt_stands_before_examples_that_have_none(jsonl):
    own = [{"role": "system", "content": "Mine."}, *MESSAGES]
    path = jsonl({"messages": MESSAGES}, {"messages": own})
    config = DataConfig(data=str(path), system_prompt="Ours.")
    first, second = readers.read_configured(config, Settings()).examples
    assert [turn.text for turn in first.messages] == ["Ours.", "q", "a"]
    assert [turn.text for turn in second.messages] == ["Mine.", "q", "a"]


def test_what_a_model_said_without_a_system_prompt_gets_none():
    said = Message(role="assistant", text="a", generation=Generation(prompt_ids=(1,), ids=(2,)))

    class Recorded:
        @hookimpl
        def finetune_read_examples(self, source, format):
            return Reading(format="recorded", items=[Example(messages=(said,))])

    with plugins.registered(Recorded(), "recorded"):
        config = DataConfig(data=__file__, system_prompt="Ours.")
        assert readers.read_configured(config, Settings()).examples[0].messages == (said,)


def test_a_system_prompt_is_not_put_into_feedback():
    with pytest.raises(ConfigError, match="objective is 'dpo'"):
        RunConfig(
            model=ModelConfig(model="m"),
            data=DataConfig(data="d", system_prompt="Ours."),
            out="o",
            train=TrainConfig(objective="dpo"),
        )


KEYS = [
    *("messages", "conversations", "role", "content", "tool_calls", "function", "name"),
    *("arguments", "from", "value", "tools", "instruction", "output", "response", "prompt"),
    *("completion", "question", "ground_truth", "id", "type", "parameters"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
broken_rows = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=5)
lines = st.builds(json.dumps, broken_rows) | st.text(max_size=20) | st.binary(max_size=20)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(lines, min_size=1, max_size=4),
    format=st.sampled_from(["auto", *formats.names()]),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]),
)
def test_random_data_gives_examples_bad_rows_or_one_clean_error(tmp_path, rows, format, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\n".join(r if isinstance(r, bytes) else r.encode() for r in rows))
    try:
        result = read(path, format=format, on_bad_row="skip")
    except DataError as error:
        said = str(error)
    else:
        said = f"{path}: {len(result.examples)} examples"
        assert all(isinstance(example, Example) for example in result.examples)
        assert all("\n" not in bad.reason for bad in result.bad)
    assert str(path) in said
    assert "\n" not in said


@settings(max_examples=300, deadline=None)
@given(row=broken_rows, format=st.sampled_from(formats.FORMATS))
def test_a_random_row_is_an_example_or_a_bad_row_in_every_format(row, format):
    (item,) = readers.convert([Row(source="f:1", data=row)], format.read)
    assert isinstance(item, (Example, BadRow))
    format.fits(row)
