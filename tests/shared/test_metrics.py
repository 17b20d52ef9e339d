"""Each metric against figures worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_finetune import metrics
from agent_finetune.errors import DataError
from agent_finetune.metrics import same_value, score_call, score_step, summarize
from agent_finetune.records import AcceptedCall, ToolCall


def call(name="f", **arguments):
    return ToolCall(name=name, arguments=arguments)


def right(name="f", *, optional=(), **arguments):
    return AcceptedCall(name=name, arguments=arguments, optional=frozenset(optional))


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


# Values


@pytest.mark.parametrize(
    ("value", "good", "same"),
    [
        ("April 1, 2024", "april 1,2024", True),
        ("New York", "new_york", True),
        ("it's", 'it"s', True),
        ("Paris", "Rome", False),
        ("a+b", "ab", False),
        (5, 5.0, True),
        (5.5, 5, False),
        ("5", 5, False),
        (True, True, True),
        (True, 1, False),
        (0, False, False),
        (None, None, True),
        (None, "", False),
        ([1, "Two "], [1.0, "two"], True),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ("ab", ["a", "b"], False),
        ({"a": "X", "b": [1]}, {"b": [1], "a": "x"}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": {"b": ["C."]}}, {"a": {"b": ["c"]}}, True),
    ],
)
def test_values_are_compared_as_bfcl_does(value, good, same):
    assert same_value(value, good) is same


def test_a_float_is_wrong_where_the_schema_says_integer_and_right_where_it_says_number():
    assert not same_value(5.0, 5, {"type": "integer"})
    assert same_value(5.0, 5, {"type": "number"})
    assert not same_value([5.0], [5], {"type": "array", "items": {"type": "integer"}})
    inside = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert same_value({"n": 5.0}, {"n": 5}, inside)  # as BFCL, which does not look there


def test_a_variable_given_for_a_number_is_spelt_exactly():
    assert same_value("my_var", "my_var", {"type": "integer"})
    assert not same_value("MyVar", "my_var", {"type": "integer"})


def test_a_schema_that_is_no_object_is_as_good_as_none():
    assert same_value(["a"], ["A"], {"type": "array", "items": True})


# One call


def test_any_listed_value_is_right():
    answer = right(city=("Paris", "Paris, France"))
    assert score_call(call(city="paris france"), answer).exact
    assert not score_call(call(city="Lyon"), answer).exact


def test_an_optional_argument_may_be_left_out_but_not_be_wrong():
    answer = right(city=("Paris",), unit=("C",), optional=["unit"])
    assert score_call(call(city="Paris"), answer).exact
    assert score_call(call(city="Paris", unit="C"), answer).exact
    assert not score_call(call(city="Paris", unit="F"), answer).exact


def test_an_argument_that_must_be_there_and_one_too_many_are_wrong():
    answer = right(city=("Paris",), days=(3,))
    assert not score_call(call(city="Paris"), answer).exact
    assert not score_call(call(city="Paris", days=3, unit="C"), answer).exact


def test_no_value_is_right_when_none_is_listed():
    assert not score_call(call(x=1), right(x=())).exact


@pytest.mark.parametrize(
    ("made", "answer", "f1"),
    [
        # precision 0.5 / 1, recall 0.5 / 2
        (call(city="Rome"), right(city=("Paris",), days=(3,)), 1 / 3),
        # precision (1 + 0.5) / 3, recall (1 + 0.5) / 2
        (call(city="Paris", days=4, x=0), right(city=("Paris",), days=(3,)), 0.6),
        (call(city="Paris", days=3), right(city=("Paris",), days=(3,)), 1.0),
        (call(), right(), 1.0),
        (call(x=1), right(), 0.0),
        (call(), right(x=(1,)), 0.0),
        (call(x=1), right(y=(1,)), 0.0),
        (call("g", x=1), right("f", x=(1,)), 0.0),
        # an optional argument counts only when it is there
        (call(), right(x=(1,), optional=["x"]), 1.0),
        (call(x=2), right(x=(1,), optional=["x"]), 0.5),
    ],
)
def test_argument_f1_by_hand(made, answer, f1):
    assert score_call(made, answer).argument_f1 == pytest.approx(f1)


# One step


def test_parallel_calls_count_in_any_order():
    answers = [right(x=(1,)), right(x=(2,)), right("g")]
    assert score_step([call("g"), call(x=2), call(x=1)], answers).exact


def test_pairing_moves_a_call_that_fits_two_answers():
    # Taken in order, the first answer would keep 1 and leave the second with nothing.
    assert score_step([call(x=1), call(x=2)], [right(x=(1, 2)), right(x=(1,))]).exact


def test_one_call_cannot_answer_twice():
    score = score_step([call(x=1)], [right(x=(1,)), right(x=(1,))])
    assert not score.exact
    assert not score.names
    assert score.argument_f1 == 0.5


def test_what_is_left_is_paired_best_first():
    answers = [right(x=(1,), y=(1,)), right(x=(2,), y=(2,))]
    score = score_step([call(x=2, y=0), call(x=1, y=0)], answers)
    assert score.names
    assert not score.exact
    assert score.argument_f1 == pytest.approx(0.75)  # one right value and one wrong, in both


def test_an_extra_call_spoils_the_step_and_halves_its_f1():
    score = score_step([call(x=1), call(x=1)], [right(x=(1,))])
    assert (score.names, score.exact, score.argument_f1) == (False, False, 0.5)


def test_a_broken_call_beside_a_right_one_spoils_the_step():
    score = score_step([call(x=1)], [right(x=(1,))], broken=1)
    assert (score.names, score.exact) == (False, False)


def test_a_broken_attempt_is_wrong_but_not_missing():
    score = score_step([], [right()], broken=1)
    assert (score.missing, score.names, score.argument_f1) == (False, False, 0.0)


def test_silence_is_missing_where_a_call_is_wanted_and_fine_where_none_is():
    assert score_step([], [right()]).missing
    assert not score_step([], []).missing
    assert not score_step([], []).spurious
    assert score_step([call()], []).spurious
    assert score_step([], [], broken=1).spurious


def test_a_name_that_was_not_offered_is_hallucinated():
    score = score_step([call("f"), call("h")], [right("f")], tools=[tool("f"), tool("g")])
    assert score.hallucinated == 1


def test_the_tools_schema_decides_whether_a_float_will_do():
    made, answers = [call(x=5.0)], [right(x=(5,))]
    assert not score_step(made, answers, tools=[tool("f", x={"type": "integer"})]).exact
    assert score_step(made, answers, tools=[tool("f", x={"type": "number"})]).exact


calls = st.lists(
    st.builds(lambda n, x: call(n, x=x), st.sampled_from("fg"), st.integers(0, 2)), max_size=4
)


@given(calls, calls, st.randoms())
def test_order_of_calls_never_matters(made, wanted, random):
    answers = [metrics.accepted_call(c) for c in wanted]
    shuffled = random.sample(made, len(made))
    one, other = score_step(made, answers), score_step(shuffled, answers)
    assert (one.exact, one.names) == (other.exact, other.names)
    assert one.argument_f1 == pytest.approx(other.argument_f1)


@given(calls)
def test_the_right_calls_are_fully_right(wanted):
    score = score_step(wanted, [metrics.accepted_call(c) for c in wanted])
    assert score.exact is bool(wanted)
    assert not score.missing
    assert not score.spurious


# Over steps


def test_summary_by_hand():
    tools = [tool("f"), tool("g")]
    steps = [
        score_step([call(x=1)], [right(x=(1,))], tools=tools),  # right
        score_step([call(x=2)], [right(x=(1,))], tools=tools),  # wrong value, F1 0.5
        score_step([call("h")], [right("g")], tools=tools),  # hallucinated
        score_step([], [right("g")], tools=tools),  # missing
        score_step([], [right("g")], tools=tools, broken=1),  # not JSON
        score_step([call("g")], [], tools=tools),  # spurious
        score_step([], [], tools=tools),  # rightly silent
    ]
    found = summarize(steps)
    assert {name: (m.hits, m.n) for name, m in found.items()} == {
        "name_accuracy": (2, 5),
        "exact_match": (1, 5),
        "argument_f1": (None, 5),
        "argument_f1_nonempty": (None, 2),
        "valid_json": (4, 5),
        "schema_valid": (3, 5),  # not h(), not the one that is not JSON
        "hallucinated": (1, 7),
        "hallucinated_arguments": (2, 3),  # f lists no arguments, and x was given twice
        "missing": (1, 5),
        "spurious": (1, 2),
    }
    assert found["argument_f1"].value == pytest.approx(1.5 / 5)
    assert found["argument_f1_nonempty"].value == pytest.approx(0.75)


def test_what_cannot_be_measured_is_left_out():
    assert set(summarize([score_step([], [])])) == {"hallucinated", "spurious"}
    assert summarize([]) == {}


# Schemas


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("arguments", "fits", "unlisted"),
    [
        ({"city": "Rome"}, True, ()),
        ({"city": "Rome", "days": 3}, True, ()),
        ({"city": "Rome", "days": "3"}, False, ()),  # a string is no integer
        ({"days": 3}, False, ()),  # city is required
        ({"city": "Rome", "mood": 1}, True, ("mood",)),  # JSON Schema lets it pass
    ],
)
def test_arguments_are_held_against_the_schema(arguments, fits, unlisted):
    assert metrics.fits_schema(arguments, WEATHER) is fits
    assert metrics.unlisted(arguments, WEATHER) == unlisted


def test_a_schema_that_says_more_may_come_knows_every_argument():
    assert metrics.unlisted({"x": 1}, WEATHER | {"additionalProperties": True}) == ()
    assert metrics.unlisted({"x": 1}, WEATHER | {"patternProperties": {"x": {}}}) == ()
    assert metrics.unlisted({"x": 1}, {}) == ()


def test_what_no_schema_can_say_is_left_out_of_the_rate():
    broken = {"type": "object", "properties": {"x": {"type": "dict"}}}
    lost = {"type": "object", "properties": {"x": {"$ref": "#/$defs/none"}}}
    assert metrics.fits_schema({"x": {}}, broken) is None
    assert metrics.fits_schema({"x": {}}, lost) is None
    afar = {"properties": {"x": {"$ref": "http://127.0.0.1:1/schema.json"}}}
    assert metrics.fits_schema({"x": {}}, afar) is None  # and nothing is fetched
    offered = {"type": "function", "function": {"name": "f", "parameters": broken}}
    step = score_step([call(x=1)], [right(x=(1,))], tools=[offered])
    assert (step.schema_valid, step.uncheckable) == (0, 1)
    assert "schema_valid" not in summarize([step])


# Statistics and text


def test_wilson_interval_of_the_textbook():
    assert metrics.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert metrics.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert metrics.wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_perplexity_weighs_tokens_not_rows():
    # 3 tokens of ln 2 and 1 of ln 32: mean ln 4
    assert metrics.perplexity([3 * math.log(2), math.log(32)], [3, 1]) == pytest.approx(4)


def test_a_hopeless_perplexity_is_infinite_and_one_of_nothing_an_error():
    assert metrics.perplexity([1e4], [1]) == math.inf
    with pytest.raises(DataError, match="no tokens"):
        metrics.perplexity([], [])


@pytest.mark.parametrize(
    ("predicted", "reference", "f"),
    [
        ("the cat sat", "the cat is on the mat", 4 / 9),
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, example S2
        ("the gunman kill police", "police kill the gunman", 0.5),  # Lin 2004, example S3
        ("It's 5 o'clock!", "it s 5 o clock", 1.0),
        ("snake_case", "snake case", 1.0),
        ("北京天气", "北京的天气", 8 / 9),
        ("Überraschung", "überraschung", 1.0),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("", "...", 1.0),
    ],
)
def test_rouge_l_by_hand(predicted, reference, f):
    assert metrics.rouge_l(predicted, reference) == pytest.approx(f)


@given(st.text("ab ", max_size=12), st.text("ab ", max_size=12))
def test_rouge_l_agrees_with_a_recursive_subsequence(predicted, reference):
    ours, theirs = predicted.split(), reference.split()

    def longest(i, j):
        if i == len(ours) or j == len(theirs):
            return 0
        if ours[i] == theirs[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    if ours and theirs:
        expected = 2 * longest(0, 0) / (len(ours) + len(theirs))
        assert metrics.rouge_l(predicted, reference) == pytest.approx(expected)
