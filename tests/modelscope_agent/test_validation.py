"""What is wrong with a data set is counted, and named by file and line."""

import json

import pytest

from agent_finetune.errors import DataError
from modelscope_agent_train.validation import KINDS, validate

WEATHER = {
    "name": "weather",
    "description": "tells it",
    "parameters": [
        {"name": "city", "description": "where", "required": "True", "type": "string"},
        {"name": "days", "required": "False", "type": "int"},
        {"name": "unit", "required": "False", "enum": ["C", "F"]},
    ],
}


def think(call):
    text = call if isinstance(call, str) else json.dumps(call)
    return f"<|startofthink|>```JSON\n{text}\n```<|endofthink|>"


def call(name="weather", **arguments):
    return think({"api_name": name, "parameters": arguments})


def row(answer, question="Is it warm?", plugin=WEATHER):
    return {
        "conversations": [
            {"from": "system", "value": f"Call:\n\n1. {json.dumps(plugin)}"},
            {"from": "user", "value": question},
            {"from": "assistant", "value": answer},
        ]
    }


def report(tmp_path, *rows, **options):
    path = tmp_path / "a.jsonl"
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return validate(str(path), options.pop("format", "msagent"), **options)


def places(found, tmp_path):
    return [(place.removeprefix(f"{tmp_path}/"), what) for place, what in found.examples]


def test_clean_rows_have_no_problem(tmp_path):
    found = report(tmp_path, row(call(city="Rome")), row("I cannot tell.", "Why?"))
    assert (found.rows, found.readable, found.calls) == (2, 2, 1)
    assert (found.problems, found.repairs) == ({}, {})
    assert not found.failed(strict=True)
    assert "no problem found" in found.text()


@pytest.mark.parametrize(
    ("answer", "kind", "what"),
    [
        ("<|startofthink|>{", "unbalanced_tags", "<|startofthink|> at character 0 has no partner"),
        ("a <|endofexec|>", "unbalanced_tags", "<|endofexec|> at character 2 has no partner"),
        (
            "<|startofthink|>{}<|endofexec|>",
            "unbalanced_tags",
            "<|startofthink|> at character 0 has no partner",
        ),
        (think("no call at all"), "broken_json", "holds no object"),
        (call("wheather", city="Rome"), "unknown_tool", "'wheather'; offered are weather"),
        (
            call(city="Rome", town="x"),
            "unknown_argument",
            "'town'; the schema has city, days, unit",
        ),
        (call(days=1), "missing_argument", "'city' is required"),
        (call(city=3), "wrong_value", "city is 3; expected string"),
        (call(city="Rome", days="2"), "wrong_value", "days is '2'; expected int"),
        (call(city="Rome", days=True), "wrong_value", "days is True; expected int"),
        (call(city="Rome", unit="K"), "wrong_value", "unit is 'K'; legal are 'C', 'F'"),
    ],
)
def test_each_kind_of_problem_is_found_at_its_line(tmp_path, answer, kind, what):
    found = report(tmp_path, row(call(city="Rome")), row(answer, "And now?"))
    assert list(found.problems) == [kind]
    ((place, told),) = places(found.problems[kind], tmp_path)
    assert place == "a.jsonl:2"
    assert what in told
    assert found.failed()
    assert not found.failed(allow=[kind])


def test_whole_floats_are_integers_and_unknown_types_say_nothing(tmp_path):
    plugin = {
        "name": "f",
        "parameters": [{"name": "a", "type": "integer"}, {"name": "b", "type": "Date"}],
    }
    assert report(tmp_path, row(call("f", a=5.0, b=7), plugin=plugin)).problems == {}


def test_a_line_that_does_not_parse_is_unreadable(tmp_path):
    found = report(tmp_path, row(call(city="Rome")), "{oops")
    assert (found.rows, found.readable) == (2, 1)
    assert found.problems["unreadable"].count == 1


def test_an_answer_that_says_nothing_is_an_empty_turn(tmp_path):
    found = report(tmp_path, row("", "a"), row("yes", "b"))
    ((_, told),) = found.problems["empty_turn"].examples
    assert told == "conversations[2]: assistant says nothing"


def test_a_row_that_comes_again_names_the_first(tmp_path):
    found = report(tmp_path, row("yes"), row("no"), row("yes"))
    assert list(found.problems) == ["duplicate"]
    assert places(found.problems["duplicate"], tmp_path) == [
        ("a.jsonl:3", f"the same as {tmp_path}/a.jsonl:1")
    ]


def test_what_was_repaired_is_counted_and_is_no_failure_unless_strict(tmp_path):
    python = think("{'api_name': 'weather', 'parameters': {'city': 'Rome'}}")
    raw = think('{"api_name": "weather", "parameters": {"city": "Ro\nme"}}')
    found = report(tmp_path, row(python, "a"), row(python, "b"), row(raw, "c"))
    counts = {name: (one.count, one.rows) for name, one in found.repairs.items()}
    assert counts == {"python-literal": (2, 2), "raw-line-breaks": (1, 1)}
    assert found.readable == 3
    assert not found.failed()
    assert found.failed(strict=True)
    assert "repaired, python-literal: 2 in 2 rows" in found.text()


def test_react_data_is_checked_in_the_same_way(tmp_path):
    system = (
        "You have access to the following APIs:\n1. weather: Call this tool to interact with the "
        f"weather API. Parameters: {json.dumps(WEATHER['parameters'])}\n\nUse the following format:"
        "\n\nThought: ...\nAction: the action to take\nBegin!"
    )
    rows = [
        {
            "conversations": [
                {"from": "system", "value": system},
                {"from": "user", "value": f"question {text}"},
                {"from": "assistant", "value": f"Action: weather\nAction Input: {text}"},
            ]
        }
        for text in ("{'city': 'Rome'}", '{"town": "Rome"}', "{broken")
    ]
    found = report(tmp_path, *rows, format="ms_agent")
    assert {kind: one.count for kind, one in found.problems.items()} == {
        "broken_json": 1,
        "unknown_argument": 1,
        "missing_argument": 1,
    }
    assert found.repairs["python-literal"].count == 1


def test_only_the_first_places_are_named_and_the_rest_is_counted(tmp_path):
    found = report(tmp_path, *(row(call(days=1), str(n)) for n in range(5)), limit_examples=2)
    assert len(found.problems["missing_argument"].examples) == 2
    assert "missing_argument: 5 in 5 rows" in found.text()
    assert "and in 3 more" in found.text()


def test_the_report_is_json_for_programs(tmp_path):
    found = json.loads(json.dumps(report(tmp_path, row(call(days=1))).json()))
    assert found["format"] == "msagent"
    assert found["digest"].startswith("sha256:")
    assert found["problems"]["missing_argument"]["count"] == 1
    assert found["problems"]["missing_argument"]["examples"][0]["source"].endswith("a.jsonl:1")


def test_rows_in_memory_are_validated_too():
    assert validate([row(call(days=1))]).problems["missing_argument"].examples == [
        ("list:1", "weather: 'city' is required")
    ]


def test_data_that_does_not_exist_is_an_error():
    with pytest.raises(DataError, match="no such file"):
        validate("nowhere.jsonl")


def test_problems_come_in_the_order_in_which_they_are_told_of(tmp_path):
    found = report(tmp_path, row(call(days=1)), row(call("g"), "b"), "{oops")
    assert list(found.problems) == [kind for kind in KINDS if kind in found.problems]
    assert len(found.problems) == 3
