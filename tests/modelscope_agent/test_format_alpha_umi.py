"""alpha-UMi: raw trajectories, rendered prompts with their targets, and the hub's copy."""

import copy

import pytest
from agent_formats import functions, read, trained, turns
from agent_rows import (
    UMI_BACKBONE,
    UMI_CALL,
    UMI_HUB_CALLER,
    UMI_HUB_CONCLUSION,
    UMI_PLANNER,
    UMI_RAW,
    UMI_SUMMARIZER,
    UMI_TOOL,
)

from agent_finetune.errors import DataError

SCHEMA = {
    "type": "object",
    "properties": {
        "quizid": {"type": "string", "description": "its number"},
        "way": {"description": "DATE (YYYY-MM-DD), when"},
    },
}
TWICE = UMI_BACKBONE["input"].replace('{"Name"', '{"Name": 1, "Name"')
CALL = [("quiz_for_moodring", {"quizid": "2"})]


def raw(place, **turn):
    row = copy.deepcopy(UMI_RAW)
    row["chains"][place].update(turn)
    return row


def test_a_raw_trajectory_is_trained_whole_and_finishes_in_words():
    example = read("alpha_umi", UMI_RAW)
    assert functions(example) == [("quiz_for_moodring", SCHEMA)]
    assert turns(example)[1:] == [
        ("user", "ASKED: fetch the quiz", []),
        ("user", "ASKED: This is not the first time you try", []),
        ("assistant", "I fetch it.", CALL),
        ("tool", "OBSERVED", []),
        ("assistant", "Here it is.", []),
    ]
    assert trained(example) == ["I fetch it.", "Here it is."]
    assert "Finish" not in example.messages[0].text


@pytest.mark.parametrize("valid", [False, "False"])
def test_an_invalid_step_of_a_raw_trajectory_is_context(valid):
    assert trained(read("alpha_umi", raw(3, valid=valid))) == ["Here it is."]


def test_arguments_that_are_almost_json_are_repaired():
    call = {"name": "f", "arguments": '{"a": "x\ny",}'}
    example = read("alpha_umi", raw(3, function_call=call))
    assert turns(example)[3][2] == [("f", {"a": "x\ny"})]


def test_no_arguments_are_none():
    example = read("alpha_umi", raw(3, function_call={"name": "f", "arguments": ""}))
    assert turns(example)[3][2] == [("f", {})]


def test_the_backbones_target_is_words_and_a_call():
    example = read("alpha_umi", UMI_BACKBONE)
    assert functions(example) == [("quiz_for_moodring", SCHEMA)]
    user, answer = turns(example)
    assert answer == ("assistant", "I fetch another.", CALL)
    assert user[1].startswith("The conversation history is:\nuser: ASKED")
    for gone in ("Action", '"Name"', "assistant: \n"):
        assert gone not in user[1]
    assert user[1].endswith("if you think you cannot answer this question.")


def test_planner_and_summarizer_say_words():
    assert turns(read("alpha_umi", UMI_PLANNER))[1][1] == "I should fetch it.\n Next: caller."
    summary = read("alpha_umi", UMI_SUMMARIZER)
    assert turns(summary)[1][1] == "There are two."
    assert summary.tools == ()


def test_the_hubs_copy_is_read_by_whom_it_names():
    caller = read("alpha_umi", UMI_HUB_CALLER)
    assert turns(caller)[1] == ("assistant", "", CALL)
    assert turns(caller)[0][1].endswith("Base on the thought make an api call")
    assert functions(caller) == [("quiz_for_moodring", SCHEMA)]
    assert turns(read("alpha_umi", UMI_HUB_CONCLUSION)) == turns(read("alpha_umi", UMI_SUMMARIZER))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": 1}, "no key 'chains, target or conversations'; keys are 'a'"),
        ({**UMI_BACKBONE, "input": None}, "input is None; expected a text"),
        ({**UMI_BACKBONE, "target": " "}, "target is ' '; expected a text"),
        ({**UMI_BACKBONE, "target": UMI_CALL.partition("{")[0] + "oops"}, "'oops' holds no object"),
        ({**UMI_BACKBONE, "input": TWICE}, "input: API 1: the key 'Name' appears twice"),
        ({**UMI_RAW, "tools": [{**UMI_TOOL, "Name": ""}]}, r"tools\[0\]: a tool has the name ''"),
        ({**UMI_RAW, "tools": [{**UMI_TOOL, "input": 3}]}, r"tools\[0\]: input is 3; expected"),
        ({**UMI_RAW, "tools": 3}, "tools is 3; expected a list"),
        (raw(0, role="boss"), r"chains\[0\]: role is 'boss'; legal roles are system"),
        (
            raw(3, function_call={"name": "f", "arguments": "{oops"}),
            r"\[3\]: arguments of 'f': not",
        ),
        ({"conversations": UMI_HUB_CALLER["conversations"][:1]}, "has 1 turns; expected a prompt"),
        (
            {"conversations": [UMI_HUB_CALLER["conversations"][0], {"from": "gpt", "value": "a"}]},
            r"conversations\[1\]: from is 'gpt'; legal: caller, conclusion",
        ),
    ],
)
def test_a_broken_row_says_where_and_why(row, reason):
    with pytest.raises(DataError, match=reason):
        read("alpha_umi", row)
