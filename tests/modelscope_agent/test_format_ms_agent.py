"""iic/ms_agent: ReAct text becomes calls and tool turns, its list of APIs the tools."""

import json

import pytest
from agent_formats import functions, read, turns
from agent_rows import MS_AGENT, REACT_SYSTEM

from agent_finetune.errors import DataError
from modelscope_agent_train.formats import repair


def row(answer, system=REACT_SYSTEM, **more):
    said = [("system", system), ("user", "q"), ("assistant", answer)]
    return {"conversations": [{"from": who, "value": text} for who, text in said], **more}


def steps(answer):
    """The turns after system and user."""
    return turns(read("ms_agent", row(answer)))[2:]


def test_actions_become_calls_and_observations_tool_turns():
    example = read("ms_agent", MS_AGENT)
    assert example.id == "MS_Agent_Bench_1"
    assert turns(example) == [
        ("system", "Answer the following questions as best you can.", []),
        ("user", "ASKED: weather and time?", []),
        ("assistant", "two things", [("get_w", {"city": "Rome's", "n": None})]),
        ("tool", "[{'OBSERVED': 9}]", []),
        ("assistant", "", [("get_t", {})]),
        ("tool", "OBSERVED noon", []),
        ("assistant", "9 C\nat noon", []),
    ]
    assert [m.name for m in example.messages if m.role == "tool"] == ["get_w", "get_t"]


def test_listed_apis_become_tools():
    example = read("ms_agent", MS_AGENT)
    city = {"type": "object", "properties": {"city": {"description": "c"}}, "required": ["city"]}
    assert functions(example) == [
        ("get_w", city),
        ("get_t", {"type": "object", "properties": {}, "required": []}),
    ]
    assert [tool["function"]["description"] for tool in example.tools] == ["weather.", "the time."]


def test_an_api_may_be_listed_without_a_number_or_parameters():
    system = REACT_SYSTEM.replace("1. get_w", "get_w").replace(" Parameters: []", "")
    assert [name for name, _ in functions(read("ms_agent", row("a", system)))] == ["get_w", "get_t"]


def test_an_api_with_other_words_keeps_them():
    system = REACT_SYSTEM.replace("What is the getw API useful for?", "It is used for the")
    example = read("ms_agent", row("a", system))
    assert example.tools[0]["function"]["description"] == "It is used for the weather."


def test_words_around_the_prompt_of_apis_stay():
    example = read("ms_agent", row("a", f"Be kind.\n{REACT_SYSTEM}\nBe short."))
    expected = "Be kind.\nAnswer the following questions as best you can.\n\nBe short."
    assert example.messages[0].text == expected


def test_a_conversation_may_be_a_string_in_python():
    written = {"conversations": repr(MS_AGENT["conversations"]).replace("}, {", "}\n {")}
    assert turns(read("ms_agent", written)) == turns(read("ms_agent", MS_AGENT))


def test_an_observation_that_looks_like_a_step_is_not_said():
    observed = json.dumps({"text": "x\nThought: y\nFinal Answer: z"}, indent=1).replace("\\n", "\n")
    said = steps(f"Action: get_w\nAction Input: {{}}\nObservation: {observed}\nThought: t")
    assert [(role, text) for role, text, _ in said] == [
        ("assistant", ""),
        ("tool", observed),
        ("assistant", "t"),
    ]


def test_an_input_of_several_lines_is_one_input():
    call = '{\n "city": "Rome\nAction: none"\n}'
    assert steps(f"Action: get_w\nAction Input: {call}") == [
        ("assistant", "", [("get_w", {"city": "Rome\nAction: none"})])
    ]


def test_an_observation_that_never_closes_ends_at_the_next_label():
    said = steps("Action: get_w\nAction Input:\nObservation: [1, ...\nFinal Answer: a")
    assert said[1:] == [("tool", "[1, ...", []), ("assistant", "a", [])]


def test_an_answer_without_an_action_is_words():
    assert steps("Hello: I am here.") == [("assistant", "Hello: I am here.", [])]


def test_a_round_without_an_answer_is_left_out_and_noted():
    data = row("a")
    data["conversations"][1:1] = [
        {"from": "user", "value": "first"},
        {"from": "assistant", "value": " "},
    ]
    with repair.noted() as repairs:
        example = read("ms_agent", data)
    assert [text for _, text, _ in turns(example)[1:]] == ["q", "a"]
    assert repairs == ["empty-turn"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"a": 1}, "no key 'conversations'; keys are 'a'"),
        ({"conversations": [{"from": "bot", "value": ""}]}, r"\[0\]: from is 'bot'; legal: system"),
        ({"conversations": [{"from": ["user"], "value": ""}]}, "legal: system"),
        ({"conversations": [{"from": "user", "value": 3}]}, "value is 3; expected a string"),
        (row(" "), "nothing to learn from"),
        (row("Action: f"), r"\[2\]: the Action 'f' has no Action Input"),
        (row("Action: f\nAction: g\nAction Input: {}"), "the Action 'f' has no Action Input"),
        (row("Action: f\nObservation: 1"), "has no Action Input"),
        (row("Action: f\nmore\nAction Input: {}"), "expected a name on one line"),
        (row("Action:\nAction Input: {}"), "its Action names nothing"),
        (row("Action Input: {}"), "an Action Input with no Action before it"),
        (row("Observation: 1"), "an Observation with no Action before it"),
        (row("Action: f\nAction Input: Rome"), "Action Input of 'f': 'Rome' holds no object"),
        (row("a", REACT_SYSTEM.replace("[{", "[{{")), "parameters of 'get_w': not JSON"),
        (row("a", "You have access to the following APIs:\nnone\nUse the following format:\n"),
         "no API can be found in the list 'none'"),
    ],
)  # fmt: skip
def test_a_broken_row_says_where_and_why(data, reason):
    with pytest.raises(DataError, match=reason):
        read("ms_agent", data)
