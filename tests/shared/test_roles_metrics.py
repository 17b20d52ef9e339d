"""Each figure of the paper against one worked out by hand."""

import pytest

from agent_finetune.metrics import mean, rate
from agent_finetune.records import AcceptedCall, ToolCall
from agent_finetune.roles.metrics import COLUMNS, mark, summarize, table
from agent_finetune.roles.prompts import Next, Plan, Step

TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "hotels", "now")
)


def calls(name="weather", **arguments):
    return Step(
        plan=Plan(thought="t", next=Next.CALL),
        calls=(ToolCall(name=name, arguments=arguments),),
    )


def concludes(answer):
    return Step(plan=Plan(thought="t", next=Next.CONCLUDE), answer=answer)


def plans(next_):
    return Step(plan=Plan(thought="t", next=next_))


GIVES_UP = plans(Next.GIVE_UP)


def marks(said, right, **options):
    return mark(said, right, tools=TOOLS, **options)


def figures(*steps):
    return {name: m.value for name, m in summarize([marks(*step) for step in steps]).items()}


def test_plan_accuracy_counts_all_steps_and_an_unreadable_plan_is_wrong():
    found = summarize(
        [
            marks(calls(city="Paris"), calls(city="Paris")),  # right
            marks(concludes("sun"), calls(city="Paris")),  # concludes too early
            marks(plans(None), concludes("sun")),  # cannot be read
            marks(GIVES_UP, GIVES_UP),  # right
        ]
    )
    assert (found["plan_accuracy"].hits, found["plan_accuracy"].n) == (2, 4)
    assert (found["plan_caller"].hits, found["plan_caller"].n) == (1, 2)
    assert (found["plan_conclusion"].hits, found["plan_conclusion"].n) == (0, 1)
    assert (found["plan_give_up"].hits, found["plan_give_up"].n) == (1, 1)
    assert (found["unreadable"].hits, found["unreadable"].n) == (1, 4)


def test_action_exact_match_is_over_call_steps_and_no_call_is_wrong():
    found = summarize(
        [
            marks(calls("weather", city="Rome"), calls("weather", city="Paris")),  # the name counts
            marks(calls("hotels"), calls("weather")),
            marks(GIVES_UP, calls("weather")),
            marks(plans(Next.CALL), calls("weather")),  # the caller called nothing
            marks(concludes("sun"), concludes("sun")),  # no call step
        ]
    )
    assert (found["action_exact_match"].hits, found["action_exact_match"].n) == (1, 4)


def test_a_broken_call_has_its_name_but_no_arguments():
    broken = '{"name": "weather", "arguments": {"city": "Pa'
    one = marks(plans(Next.CALL), calls(city="Paris"), broken=[broken])
    assert one.names
    assert one.call.argument_f1 == 0
    assert not one.call.exact
    assert not marks(plans(Next.CALL), calls(city="Paris"), broken=["weather(city="]).names
    assert not marks(plans(Next.CALL), calls(), broken=['{"name": "\\u12"}']).names


def test_hallucination_is_over_all_steps_calls_or_not():
    found = summarize(
        [
            marks(calls("wheather"), calls("weather")),
            marks(calls("weather"), calls("weather")),
            marks(calls("search"), concludes("sun")),  # where no call was right
            marks(concludes("sun"), concludes("sun")),
            marks(plans(Next.CALL), calls(), broken=['{"name": "serch", "arguments": ']),
        ]
    )
    assert (found["hallucination"].hits, found["hallucination"].n) == (3, 5)


@pytest.mark.parametrize(
    ("said", "right", "f1"),
    [
        # one of two values right: e = 1.5, P = 1.5 / 2, R = 1.5 / 2
        (calls(city="Paris", days=4), calls(city="Paris", days=3), 0.75),
        # a key missing: e = 1, P = 1 / 1, R = 1 / 2
        (calls(city="Paris"), calls(city="Paris", days=3), 2 / 3),
        # one key wrong, one unknown: e = 0.5, P = 0.5 / 2, R = 0.5 / 1
        (calls(city="Rome", x=1), calls(city="Paris"), 1 / 3),
        (calls(city="Paris"), calls(city="Paris"), 1),
        (calls("hotels", city="Paris"), calls("weather", city="Paris"), 0),  # a wrong name
        (plans(Next.CALL), calls(city="Paris"), 0),
        (calls("now"), calls("now"), 1),  # nothing wanted, nothing given
        (calls("now", zone="UTC"), calls("now"), 0),
    ],
)
def test_argument_f1_gives_half_a_point_for_a_right_key_with_a_wrong_value(said, right, f1):
    assert marks(said, right).call.argument_f1 == pytest.approx(f1)


def test_argument_f1_is_told_again_without_the_calls_that_have_no_arguments():
    found = figures(
        (calls("now"), calls("now")),  # 1, and easy
        (calls(city="Rome"), calls(city="Paris")),  # 0.5
        (GIVES_UP, calls(city="Paris")),  # 0
        (concludes("a"), concludes("a")),  # no call step
    )
    assert found["argument_f1"] == pytest.approx(0.5)
    assert found["argument_f1_nonempty"] == pytest.approx(0.25)


def test_any_accepted_value_is_right_and_one_may_be_left_out():
    right = calls(city="Paris", unit="C")
    accepted = [
        AcceptedCall(
            name="weather",
            arguments={"city": ("Paris", "Paris, France"), "unit": ("C", "celsius")},
            optional=frozenset({"unit"}),
        )
    ]
    one = marks(calls(city="paris france"), right, accepted=accepted)
    assert one.call.exact
    assert one.call.argument_f1 == 1
    assert marks(calls(city="paris france"), right).call.argument_f1 == pytest.approx(1 / 3)


def test_several_calls_are_right_in_any_order():
    def both(*names):
        made = tuple(ToolCall(name=name, arguments={}) for name in names)
        return Step(plan=Plan(thought="", next=Next.CALL), calls=made)

    assert marks(both("now", "hotels"), both("hotels", "now")).call.exact
    assert marks(both("now", "hotels"), both("hotels", "now")).names
    assert not marks(both("now"), both("hotels", "now")).names


def test_rouge_l_is_over_conclusions_and_none_given_is_zero():
    found = summarize(
        [
            # the subsequence "the cat" has 2 words: P = 2/3, R = 2/6, F = 4/9
            marks(concludes("the cat sat"), concludes("the cat is on the mat")),
            marks(GIVES_UP, concludes("the cat")),
            marks(concludes("the cat"), concludes("")),  # nothing is known
            marks(concludes("the cat"), calls()),
        ]
    )
    assert found["rouge_l"].n == 2
    assert found["rouge_l"].value == pytest.approx((4 / 9 + 0) / 2)


def test_what_was_never_wanted_is_not_measured():
    assert figures((GIVES_UP, GIVES_UP)).keys() == {
        "plan_accuracy",
        "hallucination",
        "plan_give_up",
        "unreadable",
        "broken",
    }
    assert summarize([]) == {}


def test_a_right_step_that_names_no_next_is_refused():
    with pytest.raises(ValueError, match="nothing that comes next: 't'"):
        marks(GIVES_UP, plans(None))


def test_the_table_has_the_papers_columns_in_its_order_with_intervals_and_n():
    one = {
        "rouge_l": mean([0.5]),
        "plan_accuracy": rate(8, 10),
        "action_exact_match": rate(1, 2),
        "hallucination": rate(0, 10),
        "argument_f1": mean([0.25, 0.5]),
    }
    assert table({"roles": one}, COLUMNS).splitlines() == [
        "        Plan ACC   Act. EM    Hallu.  Arg F1  Arg F1 (non-empty)    R-L",
        "roles      80.0%     50.0%      0.0%   37.5%                   -  50.0%",
        "  95%  49.0-94.3  9.5-90.5  0.0-27.8",
        "  n           10         2        10       2                          1",
    ]
