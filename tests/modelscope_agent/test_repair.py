"""What is almost JSON is read, each repair by its name, and nothing is lost or invented."""

import ast
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent_finetune.errors import DataError
from modelscope_agent_train.formats.repair import (
    LONGEST_GUESS,
    REPAIRS,
    Repaired,
    load_call,
    load_value,
    note,
    noted,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    LEAVES | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"a": 1}', {"a": 1}, ()),
        ('```JSON\n{"a": 1}\n```', {"a": 1}, ()),
        ('```\n{"a": 1}```', {"a": 1}, ()),
        ('I call {"a": 1} now', {"a": 1}, ("words-around",)),
        ('{"a": "x\ny\t"}', {"a": "x\ny\t"}, ("raw-line-breaks",)),
        ('{"a": [1, 2,],}', {"a": [1, 2]}, ("trailing-commas",)),
        ('{"a": ",}"}', {"a": ",}"}, ()),
        ('{"a": [{"b": 1} {"b": 2}]}', {"a": [{"b": 1}, {"b": 2}]}, ("missing-commas",)),
        ('{"a": "C:\\dir"}', {"a": "C:\\dir"}, ("stray-backslashes",)),
        ('{"a": "it\\\'s"}', {"a": "it's"}, ("stray-backslashes",)),
        ("{'a': 'x', 'b': None, 'c': (1, True)}", {"a": "x", "b": None, "c": [1, True]},
         ("python-literal",)),
        ("{'a': \"it's\"}", {"a": "it's"}, ("python-literal",)),
        ("{'a': true, 'b': 'null'}", {"a": True, "b": "null"}, ("python-literal",)),
        ("{1: 'a'}", {"1": "a"}, ("python-literal",)),
        ("{'a': 'x\ny'}", {"a": "x\ny"}, ("raw-line-breaks", "python-literal")),
        ('"{\\"a\\": 1}"', {"a": 1}, ("nested-json",)),
        ('{"a": "he said "hi" to me"}', {"a": 'he said "hi" to me'}, ("guessed",)),
        ('{"a": {"b": "\u4e2d\u6587"}', {"a": {"b": "\u4e2d\u6587"}}, ("guessed",)),
        ("{a: 1}", {"a": 1}, ("guessed",)),
    ],
)  # fmt: skip
def test_a_call_is_read_and_its_repairs_are_named(text, value, repairs):
    assert load_call(text) == Repaired(value=value, repairs=repairs)
    assert set(repairs) <= set(REPAIRS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no object"),
        ("oops", "'oops' holds no object"),
        ("[1]", "holds no object"),
        ("{", "not JSON"),
        ("{oops", "not JSON"),
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("{'a': NaN}", "not JSON"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('"{oops"', "not JSON"),
        ("'5 {'", "not JSON"),
        ("{'a': b'x'}", "not JSON"),
        ("{" * 5000, "not JSON"),
    ],
)
def test_what_cannot_be_read_says_why(text, reason):
    with pytest.raises(DataError, match=reason):
        load_call(text)


def test_a_key_that_appears_twice_is_nobodys_to_choose():
    with pytest.raises(DataError):
        load_call("{'a': 1, 'a': 2}")


def test_a_guess_may_lose_no_word_and_invent_none():
    with pytest.raises(DataError, match="not JSON"):
        load_call('{"a": 1} and {"b": 2} here }')


def test_nothing_long_is_guessed():
    with pytest.raises(DataError, match="not JSON"):
        load_call('{"a": "' + "x " * LONGEST_GUESS)


def test_a_list_that_lost_its_commas_is_read_as_a_list():
    text = "[{'from': 'human', 'value': '} {'}\n {'from': 'gpt', 'value': 'a'}]"
    assert load_value(text).value == [
        {"from": "human", "value": "} {"},
        {"from": "gpt", "value": "a"},
    ]


def test_repairs_are_noted_for_whoever_counts_and_for_nobody_else():
    with noted() as outer:
        load_call("{'a': 1}")
        with noted() as inner:
            load_call('{"a": 1,}')
        load_call('{"a": 1}')
        with pytest.raises(DataError):
            load_call("{oops")
    note("guessed")
    assert (outer, inner) == (["python-literal"], ["trailing-commas"])


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_json_comes_back_as_it_is_without_repair(value):
    assert load_value(json.dumps(value)) == Repaired(value=value)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_pythons_repr_comes_back_as_it_is(value):
    # A double-quoted string with a backslash may be JSON's, too, and there it stands for itself.
    assume('"' not in repr(value) or "\\" not in repr(value))
    assert load_call(repr(value)).value == value


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("{}[]()\"'\\,:\n 0aTNrue`")))
def test_any_text_is_read_or_refused_with_a_data_error(text):
    for load in (load_value, load_call):
        try:
            found = load(text)
        except DataError as error:
            assert str(error)  # noqa: PT017 - both ways are right, and nothing else is
        else:
            assert json.loads(json.dumps(found.value, allow_nan=False)) == found.value


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("{}[]()\"',: 0aTNrue")))
def test_a_python_literal_is_what_python_says(text):
    try:
        expected = ast.literal_eval(text.strip())
        json.dumps(expected)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return
    try:
        found = load_value(text)
    except DataError:
        return
    assert found.value == json.loads(json.dumps(expected))
