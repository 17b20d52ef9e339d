"""ToolBench: a row is one step, Finish is the final answer, and APIs come in Python or as tools."""

import pytest
from agent_formats import functions, read, trained, turns
from agent_rows import APIS, STEP, SWIFT_TOOLBENCH, TOOLLLAMA, TOOLLLAMA_SYSTEM

from agent_finetune.errors import DataError


def row(answer, *, system=TOOLLLAMA_SYSTEM):
    said = [("system", system), ("user", "\nq\nBegin!\n"), ("assistant", answer)]
    return {"conversations": [{"from": who, "value": text} for who, text in said]}


def offering(**tool):
    return {**SWIFT_TOOLBENCH, "tools": [tool]}


def finish(arguments, thought=""):
    return f"\nThought: {thought}\nAction: Finish\nAction Input: {arguments}"


def last(answer):
    return turns(read("toolbench", row(answer)))[-1]


def test_only_the_last_step_is_trained():
    example = read("toolbench", TOOLLLAMA)
    assert example.id == "Step 4: the query"
    assert trained(example) == ["All is well."]
    assert turns(example)[1:] == [
        ("user", "ASKED the query", []),
        ("assistant", "t", [("quiz_for_moodring", {})]),
        ("tool", '{"error": "", "response": "OBSERVED"}', []),
        ("assistant", "All is well.", []),
    ]


def test_apis_written_in_python_become_tools_without_finish():
    example = read("toolbench", TOOLLLAMA)
    assert functions(example) == [("quiz_for_moodring", APIS[0]["parameters"])]
    assert example.tools[0]["function"]["description"] == 'the "quiz" of it'


def test_what_the_prompt_dictates_about_text_is_cut_and_the_rest_stays():
    text = read("toolbench", TOOLLLAMA).messages[0].text
    for gone in ("Action", "Finish", "following APIs", "[{"):
        assert gone not in text
    for kept in ("You are AutoGPT", "give your thought.", "irreversible", "Do not use origin tool"):
        assert kept in text


def test_words_behind_the_list_of_apis_stay():
    data = row("a", system=f"{TOOLLLAMA_SYSTEM}\nBe kind.")
    assert read("toolbench", data).messages[0].text.endswith("Be kind.")


def test_swifts_copy_has_its_tools_beside_the_turns():
    example = read("toolbench", SWIFT_TOOLBENCH)
    assert functions(example) == [("quiz_for_moodring", APIS[0]["parameters"])]
    assert turns(example)[-1] == ("assistant", "again", [("quiz_for_moodring", {"quizid": "2"})])
    assert trained(example) == ["again"]


def test_a_thought_stays_before_the_final_answer_unless_one_repeats_the_other():
    answer = '{"return_type": "give_answer", "final_answer": "All is well."}'
    assert last(finish(answer, "I know."))[1] == "I know.\n\nAll is well."
    assert last(finish(answer, "All is"))[1] == "All is well."
    assert last(finish(answer, "All is well. I know."))[1] == "All is well. I know."


def test_giving_up_is_said_in_the_words_of_the_prompt():
    given_up = '{"return_type": "give_up_and_restart"}'
    assert last(finish(given_up, "No way."))[1] == "No way.\n\nI give up and restart."
    assert last(finish("{}"))[1] == "I give up and restart."


def test_a_step_that_only_thinks_is_words():
    assert last("\nThought: hm\nAction: \nAction Input: ") == ("assistant", "hm", [])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"id": "Step 1"}, "no key 'conversations'; keys are 'id'"),
        ({"conversations": TOOLLLAMA["conversations"][:4]}, "the last turn is not the assistant's"),
        ({"conversations": []}, "the last turn is not the assistant's"),
        ({"conversations": [{"from": "human", "value": ""}]}, "from is 'human'; legal: system"),
        (row(finish('{"final_answer": 3}')), r"\[2\]: final_answer is 3; expected a string"),
        (row(STEP["value"] + finish("{}")), "Finish beside another action"),
        (row(finish("oops")), r"\[2\]: Action Input of 'Finish': 'oops' holds no object"),
        (row("a", system=TOOLLLAMA_SYSTEM.replace("[{", "[{{")), r"\[0\]: APIs is a string that"),
        ({**SWIFT_TOOLBENCH, "tools": "[{"}, "tools is a string that does not parse"),
        ({**SWIFT_TOOLBENCH, "tools": [{"function": 3}]}, r"tools\[0\].function is 3"),
        ({**SWIFT_TOOLBENCH, "tools": [{"a": 3}]}, r"tools\[0\]: a tool has the name None"),
        (
            {**SWIFT_TOOLBENCH, "tools": [{"name": "f", "parameters": 3}]},
            "'f' is 3; expected a list",
        ),
        (
            {**SWIFT_TOOLBENCH, "tools": [{"name": "f", "parameters": [{}]}]},
            r"'f'\[0\]: name is None",
        ),
    ],
)
def test_a_broken_row_says_where_and_why(data, reason):
    with pytest.raises(DataError, match=reason):
        read("toolbench", data)
