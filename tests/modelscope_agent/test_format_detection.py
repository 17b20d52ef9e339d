"""No format takes another's rows, nor those of the kernel, and the kernel gets its own."""

import csv
import json
from importlib.resources import files

import pytest
from agent_rows import KERNEL_ROWS, MS_AGENT, MSAGENT, REFUSAL, ROWS

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.readers.formats import FORMATS as KERNEL
from agent_finetune.records import Row
from modelscope_agent_train.formats import FORMATS, detect

SAID = {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]}
OURS = [(name, place) for name, rows in ROWS.items() for place in range(len(rows))]
THEIRS = [(name, place) for name, rows in KERNEL_ROWS.items() for place in range(len(rows))]


def rows(*data):
    return [Row(source=f"a.jsonl:{line}", data=each) for line, each in enumerate(data, start=1)]


def read(tmp_path, *data, **options):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in data), encoding="utf-8")
    return readers.read(str(path), settings=Settings(), **options)


@pytest.mark.parametrize(("name", "place"), OURS)
def test_a_row_is_taken_by_its_own_format_and_by_no_other(name, place):
    row = rows(ROWS[name][place])
    assert [one.name for one in FORMATS.values() if one.matches(row)] == [name]


@pytest.mark.parametrize(("name", "place"), THEIRS)
def test_no_format_takes_a_row_of_the_kernel(name, place):
    assert detect(rows(KERNEL_ROWS[name][place])) is None


@pytest.mark.parametrize("name", ROWS)
def test_the_kernel_asks_us_first_and_finds_the_format(tmp_path, name):
    result = read(tmp_path, *ROWS[name])
    assert (result.format, len(result.examples)) == (name, len(ROWS[name]))


@pytest.mark.parametrize(("name", "place"), [t for t in THEIRS if t[0] != "bfcl"])
def test_the_kernel_still_reads_its_own(tmp_path, name, place):
    assert read(tmp_path, KERNEL_ROWS[name][place]).format == name


def test_a_format_can_be_named_where_nothing_tells_it(tmp_path):
    assert read(tmp_path, SAID, format="ms_agent").format == "ms_agent"


def test_names_of_formats_are_nobody_elses():
    assert FORMATS.keys().isdisjoint(one.name for one in KERNEL)
    assert all(name == one.name for name, one in FORMATS.items())


def test_a_few_rows_of_another_kind_do_not_decide():
    assert detect(rows(MS_AGENT, MS_AGENT, SAID)).name == "ms_agent"
    assert detect(rows(MS_AGENT, SAID, SAID)) is None


def test_one_row_of_msagent_is_enough():
    assert detect(rows(*[SAID] * 10, MSAGENT)).name == "msagent"


def test_a_refusal_is_msagent_by_its_plugins():
    assert detect(rows(REFUSAL)).name == "msagent"


def test_rows_that_do_not_parse_are_not_looked_at():
    broken = Row(source="a.jsonl:1", problem="not JSON")
    assert detect([broken] * 30) is None
    assert detect([broken] * 30 + rows(MS_AGENT)).name == "ms_agent"
    assert detect([]) is None


@pytest.mark.parametrize("name", ["msagent", "ms_agent", "agentfabric", "agentinstruct"])
def test_a_hubs_csv_holds_its_turns_as_a_string_in_python(tmp_path, name):
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["conversations"])
        writer.writerow([repr(ROWS[name][0]["conversations"])])
    result = readers.read(str(path), settings=Settings())
    whole = read(tmp_path, ROWS[name][0])
    assert (result.format, result.examples[0].messages) == (name, whole.examples[0].messages)


@pytest.mark.parametrize("name", FORMATS)
def test_the_sample_that_ships_is_found_and_read_whole(name):
    path = files("modelscope_agent_train") / "samples" / f"{name}.jsonl"
    result = readers.read(str(path), settings=Settings())
    assert (result.format, result.bad) == (name, ())
