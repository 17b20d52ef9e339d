"""Files as rows: what a file holds, and on which line, whatever wrote it."""

import json

import pytest

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.readers.arrow import parquet_rows, table_rows
from agent_finetune.readers.text_files import csv_rows, json_rows


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def seen(rows):
    return [(int(row.source.rpartition(":")[2]), dict(row.data) or row.problem) for row in rows]


def test_a_jsonl_row_knows_its_line_past_blank_lines(write):
    path = write("a.jsonl", '{"a": 1}\n\n  \r\n{"a": 2}\r\n')
    assert seen(json_rows(path)) == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_line_separator_inside_a_string_does_not_end_a_line(write):
    path = write("a.jsonl", '{"a": "x\u2028y"}\n{"a": 2}')
    assert seen(json_rows(path)) == [(1, {"a": "x\u2028y"}), (2, {"a": 2})]


def test_a_byte_order_mark_is_dropped(write):
    for name, content, read in (
        ("a.jsonl", '{"a": "1"}', json_rows),
        ("a.json", '[{"a": "1"}]', json_rows),
        ("a.csv", "a\n1\n", csv_rows),
    ):
        rows = read(write(name, b"\xef\xbb\xbf" + content.encode()))
        assert [row.data for row in rows] == [{"a": "1"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": 1', "not JSON: Expecting ',' delimiter at column 8"),
        ('{"a": NaN}', "NaN is not JSON; write null or a number"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"a": %s}' % ("9" * 5000), "an integer has more digits than Python reads"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "the row is of type int; expected an object"),
        ("[1, 2]", "the row is of type list; expected an object"),
        ("[]", "the row is of type list; expected an object"),
    ],
)
def test_a_bad_line_is_a_row_with_a_problem_and_the_rest_is_read(write, line, reason):
    path = write("a.jsonl", '{"a": 1}\n' + line + '\n{"a": 3}\n')
    rows = json_rows(path)
    assert [row.source for row in rows] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert reason in rows[1].problem
    assert "\n" not in rows[1].problem
    assert rows[2].data == {"a": 3}


def test_a_whole_surrogate_pair_is_a_character(write):
    (row,) = json_rows(write("a.jsonl", '{"a": "\\ud83d\\ude00"}'))
    assert row.data == {"a": "\U0001f600"}


def test_a_big_integer_keeps_its_digits(write):
    (row,) = json_rows(write("a.jsonl", '{"a": 123456789012345678901234567890}'))
    assert row.data == {"a": 123456789012345678901234567890}


def test_null_stays_null(write):
    (row,) = json_rows(write("a.jsonl", '{"a": {"b": null}, "c": null}'))
    assert row.data == {"a": {"b": None}, "c": None}


def test_a_line_that_is_not_utf8_is_a_row_with_a_problem(write):
    rows = json_rows(write("a.jsonl", b'{"a": "\xe9"}\n{"a": 2}'))
    assert rows[0].problem == "not UTF-8 (byte 0xe9); save the file as UTF-8"
    assert rows[1].data == {"a": 2}


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_another_encoding_is_named_with_its_line(write, name):
    path = write(name, b"a,b\n1,\xe9\n")
    with pytest.raises(DataError, match=r":2: not UTF-8 \(byte 0xe9\)"):
        (json_rows if name == "a.json" else csv_rows)(path)


def test_utf16_is_named(write):
    path = write("a.json", '[{"a": 1}]'.encode("utf-16"))
    with pytest.raises(DataError, match=":1: the file is UTF-16; save it as UTF-8"):
        json_rows(path)


@pytest.mark.parametrize("content", [b"", b"  \n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_an_empty_file_is_refused(write, name, content):
    path = write(name, content)
    with pytest.raises(DataError, match=f"{name}: the file is empty"):
        (csv_rows if name == "a.csv" else json_rows)(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: No such file"):
        json_rows(tmp_path / "none.json")


def test_items_of_a_json_list_know_their_lines(write):
    path = write("a.json", '[\n  {"a": 1},\n\n  {\n   "a": 2\n  }, {"a": 3}\n]\n')
    assert seen(json_rows(path)) == [(2, {"a": 1}), (4, {"a": 2}), (6, {"a": 3})]


def test_an_object_around_one_list_is_unwrapped(write):
    path = write("a.json", '{"version": [1], "n": {"x": [2]},\n "data": [\n{"a": 1}, {"a": 2}]}')
    assert seen(json_rows(path)) == [(3, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    "document",
    [
        {"instruction": "i", "output": "o"},
        {"messages": [{"role": "user", "content": "q"}], "tools": []},
        {"conversations": [{"from": "human", "value": "q"}]},
        {"question": [[]], "function": [{"name": "f"}]},
        {"user": [{"role": "user", "content": "q"}], "critic": [{"role": "user", "content": "q"}]},
    ],
)
def test_an_object_that_is_one_row_stays_whole(write, document):
    (row,) = json_rows(write("a.json", "\n" + json.dumps(document)))
    assert row.data == document
    assert row.source.endswith(":2")


def test_a_bare_list_of_turns_is_one_row(write):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]
    (whole,) = json_rows(write("a.json", json.dumps(turns)))
    assert whole.data == {"messages": turns}
    lines = json_rows(write("a.jsonl", f"{json.dumps(turns)}\n" * 2))
    assert [row.data for row in lines] == [{"messages": turns}] * 2
    talk = [{"from": "human", "value": "q"}]
    (row,) = json_rows(write("b.json", json.dumps([talk])))
    assert row.data == {"conversations": talk}


def test_a_json_file_of_lines_is_read_as_jsonl(write):
    path = write("a.json", '{"a": 1}\n{"a": 2}\nbroken\n')
    rows = json_rows(path)
    assert seen(rows[:2]) == [(1, {"a": 1}), (2, {"a": 2})]
    assert "not JSON" in rows[2].problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', r":3: not JSON: Expecting value at column 7"),
        ('[{"a": NaN}]', ":1: NaN is not JSON"),
        ("[1]\n2", ":2: not JSON: more text after the end"),
        ("3", ": holds one int; expected a list"),
    ],
)
def test_a_json_file_that_does_not_parse_names_the_line(write, content, reason):
    with pytest.raises(DataError, match=reason):
        json_rows(write("a.json", content))


def test_an_item_of_a_json_list_that_is_no_object_is_a_row_with_a_problem(write):
    first, second = json_rows(write("a.json", '[{"a": 1},\n 2]'))
    assert first.data == {"a": 1}
    assert second.problem == "the row is of type int; expected an object"
    assert second.source.endswith(":2")


def test_an_empty_json_list_has_no_rows(write):
    assert json_rows(write("a.json", "[ ]")) == ()


def test_csv_cells_are_strings_and_rows_know_the_line_they_start_on(write):
    path = write("a.csv", 'a,b\n1,"two\nlines"\n\n3,4\n')
    assert seen(csv_rows(path)) == [(2, {"a": "1", "b": "two\nlines"}), (5, {"a": "3", "b": "4"})]


def test_a_csv_row_with_a_cell_too_many_is_a_row_with_a_problem(write):
    rows = csv_rows(write("a.csv", "a,b\n1\n1,2\n1,2,3\n"))
    assert [row.problem for row in rows] == [
        "1 cells, and the header has 2",
        None,
        "3 cells, and the header has 2",
    ]


def test_a_csv_cell_may_be_longer_than_the_module_allows(write):
    (row,) = csv_rows(write("a.csv", f"a\n{'x' * 200_000}\n"))
    assert len(row.data["a"]) == 200_000


def test_a_csv_column_named_twice_is_refused(write):
    with pytest.raises(DataError, match=":1: the column 'a' appears twice"):
        csv_rows(write("a.csv", "a,a\n1,2\n"))


def test_a_csv_quote_that_never_closes_is_refused_at_its_line(write):
    with pytest.raises(DataError, match=":3: not CSV"):
        csv_rows(write("a.csv", 'a\n1\n"open\n\n'))


TOOLS = [
    [{"name": "f", "parameters": {"properties": {"city": {"type": "string"}}, "required": []}}],
    [{"name": "g", "parameters": {"properties": {"days": {"type": "integer", "enum": [1, None]}}}}],
]
ARGUMENTS = [{"city": "Paris"}, {}]


def rows_written_by_datasets(folder, features=None):
    """A parquet file of two rows whose structs have different keys."""
    from datasets import Dataset

    rows = [{"tools": t, "arguments": a} for t, a in zip(TOOLS, ARGUMENTS, strict=True)]
    path = folder / "a.parquet"
    Dataset.from_list(rows, features=features).to_parquet(path)
    return path


def test_nulls_that_arrow_invented_do_not_reach_schemas_and_arguments(tmp_path):
    rows = parquet_rows(rows_written_by_datasets(tmp_path))
    assert [row.data["tools"] for row in rows] == TOOLS
    assert [row.data["arguments"] for row in rows] == ARGUMENTS
    assert rows[1].source.endswith("a.parquet:2")


def test_json_columns_are_untouched(tmp_path):
    from datasets import Features, Json

    features = Features({"tools": Json(), "arguments": Json()})
    rows = parquet_rows(rows_written_by_datasets(tmp_path, features))
    assert [row.data["tools"] for row in rows] == TOOLS
    assert [row.data["arguments"] for row in rows] == ARGUMENTS


def test_strings_whole_columns_and_items_keep_their_nulls():
    import pyarrow as pa

    table = pa.table({"s": ['{"a": null}', None], "c": [None, {"x": 1}], "l": [[1, None], None]})
    first, second = table_rows(table, "t")
    assert first.data == {"s": '{"a": null}', "c": None, "l": [1, None]}
    assert second.data == {"s": None, "c": {"x": 1}, "l": None}


def test_a_json_column_that_does_not_parse_is_a_row_with_a_problem():
    import pyarrow as pa

    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": NaN}', "{}", None]))
    first, *others = table_rows(pa.table({"j": column}), "t")
    assert "NaN is not JSON" in first.problem
    assert [row.data for row in others] == [{"j": {}}, {"j": None}]


def test_what_is_not_parquet_or_holds_no_rows_is_refused(write, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(DataError, match=r"a\.parquet: not a parquet file"):
        parquet_rows(write("a.parquet", "hello"))
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="holds no rows"):
        parquet_rows(tmp_path / "b.parquet")


def test_strict_json_says_why_on_one_line():
    with pytest.raises(DataError, match="not JSON: Expecting value at column 1"):
        strictjson.loads("oops")
