"""xlam-function-calling-60k: one question, calls in one turn, Python's types as JSON Schema."""

import json

import pytest
from agent_formats import functions, read, turns
from agent_rows import WEATHER, XLAM

from agent_finetune.errors import DataError

NUMBERS = {"type": "array", "items": {"type": "integer"}}


def parameter(**told):
    """The schema of a tool with one parameter."""
    tools = json.dumps([{"name": "f", "parameters": {"p": told}}])
    return functions(read("xlam", {**XLAM, "tools": tools}))[0][1]


def test_all_calls_are_made_in_one_turn():
    example = read("xlam", XLAM)
    assert example.id == "7"
    assert turns(example) == [
        ("user", "ASKED: live giveaways and the weather?", []),
        (
            "assistant",
            "",
            [("giveaways", {"type": "beta", "ids": [1, 2]}), ("weather", {"city": "Rome"})],
        ),
    ]


def test_parameters_by_name_become_a_schema_and_a_schema_stays():
    assert functions(read("xlam", XLAM)) == [
        (
            "giveaways",
            {
                "type": "object",
                "properties": {
                    "type": {"description": "which", "type": "string", "default": "game"},
                    "ids": {
                        "description": "of them",
                        "type": "array",
                        "items": {"type": "integer"},
                    },
                    "after": {"description": "when (type: Union[int, str])", "default": ""},
                },
                "required": ["ids"],
            },
        ),
        ("weather", WEATHER),
    ]


@pytest.mark.parametrize(
    ("written", "schema"),
    [
        ("str", {"type": "string"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("Dict[str, int]", {"type": "object"}),
        ("List[List[int]]", {"type": "array", "items": NUMBERS}),
        ("Tuple[int, int]", {"type": "array"}),
        ("Callable", {"description": "(type: Callable)"}),
        ("", {}),
    ],
)
def test_a_type_of_python_is_told_in_json_schema(written, schema):
    assert parameter(type=written) == {
        "type": "object",
        "properties": {"p": schema},
        "required": ["p"],
    }


@pytest.mark.parametrize("written", ["int, optional", "Optional[int]", "int optional"])
def test_an_optional_parameter_is_not_required(written):
    found = parameter(type=written)
    assert (found["properties"], found["required"]) == ({"p": {"type": "integer"}}, [])


def test_tools_and_answers_may_be_lists_and_tools_in_openais_form():
    plain = {
        "query": XLAM["query"],
        "answers": json.loads(XLAM["answers"]),
        "tools": [{"type": "function", "function": t} for t in json.loads(XLAM["tools"])],
    }
    assert turns(read("xlam", plain)) == turns(read("xlam", XLAM))
    assert functions(read("xlam", plain)) == functions(read("xlam", XLAM))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": 3}, "query is 3; expected a question"),
        ({"answers": "[]"}, "answers is empty; there is nothing to learn from"),
        ({"answers": "[{"}, "answers is a string that does not parse: not JSON"),
        ({"answers": [{"arguments": {}}]}, r"answers\[0\]: name is None; expected"),
        ({"answers": [{"name": "f", "arguments": 3}]}, r"answers\[0\]: arguments of 'f' is 3"),
        ({"tools": [3]}, r"tools\[0\] is 3; expected an object"),
        ({"tools": [{"function": 3}]}, r"tools\[0\].function is 3; expected an object"),
        ({"tools": [{"name": "f", "parameters": {"p": 3}}]}, r"\[0\].parameters.p is 3; expected"),
    ],
)
def test_a_broken_row_says_where_and_why(change, reason):
    with pytest.raises(DataError, match=reason):
        read("xlam", {**XLAM, **change})


def test_a_missing_key_is_named_with_those_that_are_there():
    with pytest.raises(DataError, match="no key 'answers'; keys are 'query'"):
        read("xlam", {"query": "q"})
