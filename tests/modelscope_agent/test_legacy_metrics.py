"""The numbers of 2023, each fault of theirs beside what is right.

What the scripts printed was found by running them (`utils.py` and `eval_tool.py` of
ModelScope-Agent with `rouge` 1.0.1); the right numbers are worked out by hand.
"""

import json

import pytest

from agent_finetune import metrics
from agent_finetune.records import Example, Message, ToolCall
from modelscope_agent_train import legacy_metrics
from modelscope_agent_train.evaluation import run
from modelscope_agent_train.legacy_metrics import evaluate, evaluate_answers, rouge_l, written


def think(name, parameters=None, **rest):
    call = {"api_name": name} | ({} if parameters is None else {"parameters": parameters}) | rest
    return f"<|startofthink|>```JSON\n{json.dumps(call)}\n```<|endofthink|>"


def right_numbers(wanted, made, words="done"):
    """Ours for one step: calls as (name, arguments)."""
    step = metrics.score_step(
        [ToolCall(name=name, arguments=arguments) for name, arguments in made],
        [
            metrics.accepted_call(ToolCall(name=name, arguments=arguments))
            for name, arguments in wanted
        ],
    )
    return metrics.summarize([step])


def test_right_calls_and_words_get_full_marks():
    said = [think("f", {"x": 1}), "all is done"]
    found = evaluate(said, said)
    assert (found.action_em, found.input_em) == (1, 1)
    assert found.rouge == pytest.approx(1)
    assert (found.call_steps, found.text_steps, found.crashed) == (1, 1, None)


def test_by_hand_over_several_steps():
    references = [think("f", {"x": 1}), think("g", {}), think("f", {"x": 1}), "the cat sat"]
    predictions = [think("f", {"x": 2}), think("f", {}), "words", "the cat"]
    found = evaluate(references, predictions)
    assert found.action_em == pytest.approx(1 / 3)
    assert found.input_em == pytest.approx(1 / 3)  # g() and f() have equal arguments
    assert found.rouge == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))


def test_a_prediction_without_parameters_was_counted_twice():
    found = evaluate([think("f", {"x": 1}), "done"], [think("f"), "done"])
    assert (found.action_em, found.call_steps) == (0.5, 2)  # 1, and 0, for one step
    ours = right_numbers([("f", {"x": 1})], [("f", {})])
    assert (ours["name_accuracy"].value, ours["name_accuracy"].n) == (1, 1)
    assert ours["exact_match"].value == 0


@pytest.mark.parametrize("said", [[think("f", {})], ["words"]])
def test_nothing_of_one_kind_ended_the_script(said):
    found = evaluate(said, said)
    assert found.crashed == "ZeroDivisionError: division by zero"
    assert found.action_em == (1 if "think" in said[0] else None)
    assert set(right_numbers([], [])) == {"hallucinated", "spurious"}  # no number, no crash


def test_two_calls_in_one_turn_were_scored_as_words():
    both = think("f", {"x": 1}) + "\n" + think("g", {"y": 2})
    found = evaluate([both], [think("f", {"x": 1}) + "\n" + think("g", {"y": 3})])
    assert (found.action_em, found.text_steps) == (None, 1)
    wanted = [("f", {"x": 1}), ("g", {"y": 2})]
    ours = right_numbers(wanted, [("f", {"x": 1}), ("g", {"y": 3})])
    assert ours["name_accuracy"].value == 1
    assert ours["exact_match"].value == 0
    assert ours["argument_f1"].value == pytest.approx((1 + 0.5) / 2)


def test_equal_arguments_of_the_wrong_tool_were_right():
    found = evaluate([think("f", {"x": 1}), "done"], [think("g", {"x": 1}), "done"])
    assert (found.action_em, found.input_em) == (0, 1)
    assert right_numbers([("f", {"x": 1})], [("g", {"x": 1})])["exact_match"].value == 0


def test_case_and_blanks_of_an_argument_counted_and_so_did_the_kind_of_number():
    found = evaluate([think("f", {"x": "New York"})], [think("f", {"x": "new york"})])
    assert found.input_em == 0
    assert right_numbers([("f", {"x": "New York"})], [("f", {"x": "new york"})])[
        "exact_match"
    ].value
    # 1 against "1" is wrong for both: a schema that wants a number cannot take the string
    assert evaluate([think("f", {"x": 1})], [think("f", {"x": "1"})]).input_em == 0
    assert not right_numbers([("f", {"x": 1})], [("f", {"x": "1"})])["exact_match"].value


def test_a_call_where_words_are_wanted_cost_some_rouge_and_nothing_else():
    found = evaluate([think("f", {}), "it is done"], [think("f", {}), think("g", {})])
    assert (found.action_em, found.input_em) == (1, 1)
    assert right_numbers([], [("g", {})])["spurious"].value == 1


def test_the_role_header_was_a_part_of_the_first_word():
    header = "\n\n<|assistant|>:"
    assert evaluate(
        [think("f", {}), header + "it is done"], [think("f", {}), "it is done"]
    ).rouge == (pytest.approx(2 / 3))
    assert metrics.rouge_l("it is done", "it is done") == 1


def test_chinese_words_that_differ_in_one_character_scored_nothing():
    predicted, reference = "北京今天天气晴朗", "北京今天天气晴好"
    assert rouge_l(predicted, reference) == 0
    assert metrics.rouge_l(predicted, reference) == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    ("predicted", "reference", "f"),
    [
        # what the package rouge 1.0.1 answers
        ("the cat sat on the mat", "the cat is on the mat", 0.7999999950000002),
        ("He said hi. Then he left.", "He left. Then he said hi.", 0.999999995),
        ("a a a a", "a", 0.999999995),  # each word once
    ],
)
def test_rouge_is_that_of_the_package_of_2023(predicted, reference, f):
    assert rouge_l(predicted, reference) == pytest.approx(f, abs=1e-12)


def test_the_order_of_sentences_and_repetition_count_today():
    assert metrics.rouge_l("He said hi. Then he left.", "He left. Then he said hi.") < 0.7
    assert metrics.rouge_l("a a a a", "a") == pytest.approx(2 / 5)


def test_a_reference_that_does_not_parse_was_scored_as_words():
    torn = think("f", {"x": 1}).replace("1", '"a "b""')
    found = evaluate([torn], [think("f", {"x": "b"})])
    assert (found.call_steps, found.text_steps) == (0, 1)


def test_an_empty_prediction_became_a_blank_and_points_alone_ended_the_script():
    assert evaluate([think("f", {}), "it is"], [think("f", {}), ""]).rouge == 0
    found = evaluate([think("f", {}), "it is"], [think("f", {}), "..."])
    assert (found.crashed, found.rouge) == ("ValueError: Hypothesis is empty.", None)
    assert metrics.rouge_l("...", "it is") == 0


def test_line_ends_inside_of_a_call_are_taken_out():
    torn = (
        '<|startofthink|>```JSON\n{"api_name": "f", "parameters": {"x": "a\nb"}}\n```<|endofthink|>'
    )
    assert evaluate([torn, "w"], [think("f", {"x": "ab"}), "w"]).input_em == 1


def test_the_first_script_took_answers_as_bare_json():
    call = json.dumps({"api_name": "f", "parameters": json.dumps({"x": 1})})
    other = json.dumps({"api_name": "f", "parameters": json.dumps({"x": 2})})
    references = [{"answer": [call, "it is done"]}, {"answer": [call, "fine"]}]
    predictions = [{"answer": [call, "it is done"]}, {"answer": [other, "fine"]}]
    found = evaluate_answers(references, predictions)
    assert (found.action_em, found.input_em) == (1, 0.5)
    assert found.rouge == pytest.approx(1)


def test_the_first_script_died_of_an_answer_too_few_and_looked_at_none_too_many():
    call = json.dumps({"api_name": "f", "parameters": "{}"})
    few = evaluate_answers([{"answer": [call, "done"]}], [{"answer": [call]}])
    assert few.crashed == "ValueError: Hypothesis is empty."
    many = evaluate_answers([{"answer": [call, "a"]}], [{"answer": [call, "a", call]}])
    assert (many.action_em, many.text_steps) == (1, 1)


def test_a_summary_that_is_a_number_was_taken_for_a_call():
    found = evaluate_answers([{"answer": ["42"]}], [{"answer": ["42"]}])
    assert (found.action_em, found.call_steps) == (0, 1)


def test_turns_of_today_are_written_in_the_form_of_2023():
    call = ToolCall(name="f", arguments={"城市": "北京"})
    text = written([call], "I look.")
    assert text == (
        'I look.\n<|startofthink|>```JSON\n{"api_name": "f", "parameters": {"城市": "北京"}}\n'
        "```<|endofthink|>"
    )
    assert written([metrics.accepted_call(call)], "I look.") == text
    assert evaluate([text, "w"], [text, "w"]).input_em == 1


def test_the_table_says_what_is_missing():
    table = evaluate(["words"], ["words"]).table()
    assert table.splitlines()[0].split() == ["action_em", "-", "0"]
    assert "ended with ZeroDivisionError" in table


class Recited:
    """Says what is recorded, but the last words."""

    name = "recited"

    def answer(self, asked, *, on_progress=None):
        from agent_finetune.evaluate import Answer
        from agent_finetune.toolcalls import ParsedTurn

        calls = (ToolCall(name="f", arguments={"x": 1}),)
        return [
            Answer(said="", turn=ParsedTurn(text="", calls=calls))
            if one.messages[-1].role == "user"
            else Answer(said="", turn=ParsedTurn(text="it is done"))
            for one in asked
        ]


def test_an_evaluation_gives_both_side_by_side():
    example = Example(
        messages=(
            Message(role="user", text="go"),
            Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"x": 1}),)),
            Message(role="tool", text="ok"),
            Message(role="assistant", text="it is done"),
        ),
    )
    report = run(Recited(), [example], legacy=True)
    assert report.legacy == legacy_metrics.LegacyNumbers(
        action_em=1, input_em=1, rouge=pytest.approx(1), call_steps=1, text_steps=1
    )
    assert report.metrics["exact_match"] == report.metrics["legacy_action_em"] == 1
    assert "as computed in 2023" in report.table()
