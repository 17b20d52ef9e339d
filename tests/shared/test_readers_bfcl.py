"""The leaderboard's lines, as its own checker understands them."""

import json

import pytest

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.readers import bfcl_files
from agent_finetune.readers.bfcl import json_schema, read_bfcl
from agent_finetune.records import Row


def function(properties, required=(), name="math.hypot"):
    parameters = {"type": "dict", "properties": properties, "required": list(required)}
    return {"name": name, "description": "d", "parameters": parameters}


def row(properties, truth, required=(), row_id="simple_python_0", **more):
    data = {
        "id": row_id,
        "question": [[{"role": "user", "content": "q"}]],
        "function": [function(properties, required)],
        "ground_truth": [{"math.hypot": truth}],
    }
    return Row(source="f:1", data={**data, **more})


def only_call(example):
    (call,) = example.messages[-1].tool_calls
    return call.arguments


def test_type_names_become_those_of_json_schema_at_every_depth():
    schema = {
        "type": "dict",
        "required": ["a"],
        "properties": {
            "type": {"type": "string", "default": "dict"},
            "a": {"type": "tuple", "items": {"type": "float"}},
            "b": {"type": "dict", "properties": {"c": {"type": "any"}}, "optional": True},
        },
    }
    assert json_schema(schema) == {
        "type": "object",
        "required": ["a"],
        "properties": {
            "type": {"type": "string", "default": "dict"},
            "a": {"type": "array", "items": {"type": "number"}},
            "b": {
                "type": "object",
                "properties": {"c": {"type": "string"}},
                "optional": True,
            },
        },
    }


def test_a_dot_in_a_function_name_is_kept():
    example = read_bfcl(row({"x": {"type": "integer"}}, {"x": [4]}))
    assert example.tool_names == ("math.hypot",)
    assert example.messages[-1].tool_calls[0].name == "math.hypot"
    assert example.id == "simple_python_0"


def test_the_first_right_value_is_learned_and_all_are_accepted():
    example = read_bfcl(row({"x": {"type": "integer"}}, {"x": [4, 5]}))
    assert only_call(example) == {"x": 4}
    assert example.accepted[0].arguments == {"x": (4, 5)}
    assert example.accepted[0].optional == frozenset()


def test_an_argument_whose_first_value_is_empty_is_left_out_of_what_is_learned():
    example = read_bfcl(row({"z": {"type": "integer"}}, {"z": ["", 0]}))
    assert only_call(example) == {}
    assert example.accepted[0].arguments == {"z": (0,)}
    assert example.accepted[0].optional == {"z"}


def test_an_argument_that_may_be_left_out_is_learned_where_a_value_comes_first():
    example = read_bfcl(row({"unit": {"type": "string"}}, {"unit": ["units", ""]}))
    assert only_call(example) == {"unit": "units"}
    assert example.accepted[0].arguments == {"unit": ("units", "")}
    assert example.accepted[0].optional == {"unit"}


def test_a_required_argument_is_never_optional():
    example = read_bfcl(row({"x": {"type": "float"}}, {"x": ["", 25.0]}, required=["x"]))
    assert only_call(example) == {"x": 25.0}
    assert example.accepted[0].optional == frozenset()


def test_null_is_a_right_value():
    example = read_bfcl(row({"x": {"type": "string"}}, {"x": [None, "a"]}))
    assert only_call(example) == {"x": None}


def test_alternatives_inside_an_object_are_multiplied_out():
    truth = {"x": [{"a": [1, 2], "b": ["", "u"], "c": [[3, 4]]}]}
    example = read_bfcl(row({"x": {"type": "dict"}}, truth))
    assert only_call(example) == {"x": {"a": 1, "c": [3, 4]}}
    assert example.accepted[0].arguments["x"] == (
        {"a": 1, "c": [3, 4]},
        {"a": 1, "b": "u", "c": [3, 4]},
        {"a": 2, "c": [3, 4]},
        {"a": 2, "b": "u", "c": [3, 4]},
    )


def test_alternatives_inside_a_list_of_objects_are_multiplied_out():
    properties = {"x": {"type": "array", "items": {"type": "dict"}}}
    example = read_bfcl(row(properties, {"x": [[{"a": [1, 2]}, {"a": [3]}]]}))
    assert example.accepted[0].arguments["x"] == ([{"a": 1}, {"a": 3}], [{"a": 2}, {"a": 3}])


def test_a_list_of_plain_values_is_one_value():
    properties = {"x": {"type": "array", "items": {"type": "string"}}}
    assert only_call(read_bfcl(row(properties, {"x": [["a", "b"]]}))) == {"x": ["a", "b"]}


def test_too_many_alternatives_are_refused():
    truth = {"x": [{str(key): [1, 2] for key in range(13)}]}
    with pytest.raises(DataError, match="8192 right values"):
        read_bfcl(row({"x": {"type": "dict"}}, truth))


def test_a_chat_before_the_question_is_kept():
    chat = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    example = read_bfcl(row({"x": {"type": "integer"}}, {"x": [1]}, question=[chat]))
    roles = [message.role for message in example.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_an_irrelevance_row_accepts_no_call():
    asked = row({}, {}, row_id="live_irrelevance_0-0-0")
    data = {key: value for key, value in asked.data.items() if key != "ground_truth"}
    example = read_bfcl(Row(source="f:1", data=data))
    assert example.accepted == ()
    assert example.messages[-1].role == "user"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": [[], []]}, "2 turns"),
        ({"question": "why?"}, "expected one"),
        ({"function": [{"parameters": {}}]}, "function has the name None"),
        ({"ground_truth": [{"other": {}}]}, "calls 'other'; offered are math.hypot"),
        ({"ground_truth": [{"math.hypot": {"x": 4}}]}, "right values of math.hypot.x are 4"),
        ({"ground_truth": ["cd(folder='a')"]}, "ground_truth.0. is"),
        ({"ground_truth": [{"a": {}, "b": {}}]}, "expected {function: arguments}"),
    ],
)
def test_a_broken_row_says_what_is_wrong(change, reason):
    with pytest.raises(DataError, match=reason):
        read_bfcl(row({"x": {"type": "integer"}}, {"x": [4]}, **change))


def test_alternatives_of_an_object_that_are_no_list_are_refused():
    with pytest.raises(DataError, match=r"math\.hypot\.x\.a are 1"):
        read_bfcl(row({"x": {"type": "dict"}}, {"x": [{"a": 1}]}))


@pytest.mark.parametrize("key", ["question", "function"])
def test_a_missing_key_is_named(key):
    data = {k: v for k, v in row({}, {}).data.items() if k != key}
    with pytest.raises(DataError, match=f"no key '{key}'"):
        read_bfcl(Row(source="f:1", data=data))


@pytest.fixture
def leaderboard(tmp_path):
    """Two categories with answers, and one without."""
    (tmp_path / "possible_answer").mkdir()
    for category in ("simple_python", "live_multiple", "irrelevance", "multi_turn_base"):
        asked = dict(row({"x": {"type": "integer"}}, {}, row_id=f"{category}_0").data)
        del asked["ground_truth"]
        name = f"BFCL_v4_{category}.json"
        (tmp_path / name).write_text(json.dumps(asked) + "\n")
        if category != "irrelevance":
            answer = {"id": asked["id"], "ground_truth": [{"math.hypot": {"x": [7]}}]}
            (tmp_path / "possible_answer" / name).write_text(json.dumps(answer) + "\n")
    return tmp_path


def test_a_folder_gives_every_category_that_can_be_learned(leaderboard):
    result = readers.read(str(leaderboard), settings=Settings())
    assert result.format == "bfcl"
    assert [e.id for e in result.examples] == ["simple_python_0", "live_multiple_0"]
    assert [only_call(e) for e in result.examples] == [{"x": 7}, {"x": 7}]


def test_a_question_file_finds_its_answers_beside_it(leaderboard):
    file = leaderboard / "BFCL_v4_simple_python.json"
    result = readers.read(str(file), settings=Settings())
    assert only_call(result.examples[0]) == {"x": 7}
    assert result.examples[0].source == f"{file}:1"


def test_the_digest_covers_the_answers(leaderboard):
    file = leaderboard / "BFCL_v4_simple_python.json"
    before = readers.open_source(str(file), Settings()).digest
    answers = leaderboard / "possible_answer" / file.name
    answers.write_text(answers.read_text().replace("7", "8"))
    assert readers.open_source(str(file), Settings()).digest != before


def test_an_answer_that_is_missing_makes_a_bad_row(leaderboard):
    file = leaderboard / "BFCL_v4_simple_python.json"
    (leaderboard / "possible_answer" / file.name).write_text('{"id": "other"}')
    with pytest.raises(DataError, match=r":1: no ground truth for id 'simple_python_0'"):
        readers.read(str(file), settings=Settings())


def test_categories_are_chosen_by_name(leaderboard):
    files = bfcl_files.category_files(leaderboard, ["live_multiple", "irrelevance"])
    assert [f.name for f in files] == ["BFCL_v4_live_multiple.json", "BFCL_v4_irrelevance.json"]


@pytest.mark.parametrize("category", ["multi_turn_base", "multiple", "nonsense"])
def test_a_category_that_cannot_be_read_is_refused_with_the_legal_ones(leaderboard, category):
    legal = "simple_python, live_multiple, irrelevance"
    with pytest.raises(DataError, match=f"no category '{category}' .* legal are {legal}"):
        bfcl_files.category_files(leaderboard, [category])


def test_a_folder_with_no_category_that_can_be_learned_is_refused(leaderboard):
    for category in ("simple_python", "live_multiple"):
        (leaderboard / f"BFCL_v4_{category}.json").unlink()
    with pytest.raises(DataError, match="none of the categories"):
        readers.read(str(leaderboard), settings=Settings())


@pytest.mark.real
def test_the_shipped_leaderboard_is_read_whole():
    from agent_finetune.settings import read_settings

    name = "bfcl:simple_python,multiple,parallel,parallel_multiple,live_simple,live_multiple"
    result = readers.read(f"{name},live_parallel,live_parallel_multiple", settings=read_settings())
    assert len(result.examples) == 2351
    assert not result.bad


@pytest.mark.real
def test_the_shipped_leaderboard_defaults_to_one_call_per_question():
    from agent_finetune.settings import read_settings

    result = readers.read("bfcl", settings=read_settings())
    assert result.format == "bfcl"
    assert len(result.examples) == 400 + 200 + 258 + 1053
    assert all(len(example.accepted) == 1 for example in result.examples)
