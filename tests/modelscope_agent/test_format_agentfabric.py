"""AgentFabric's section of tools and its `<result>` and `Answer:`."""

# ruff: noqa: RUF001 - the punctuation of Chinese text is the data's

import pytest
from agent_formats import functions, read, turns
from agent_rows import AGENTFABRIC, FABRIC_ENGLISH, FABRIC_SYSTEM, MS_AGENT, WEATHER

from agent_finetune.errors import DataError
from modelscope_agent_train.formats import repair


def with_system(system):
    _, *rest = AGENTFABRIC["conversations"]
    return {"conversations": [{"from": "system", "value": system}, *rest]}


def test_the_result_of_a_tool_is_all_that_stands_in_its_tags():
    assert turns(read("agentfabric", AGENTFABRIC)) == [
        ("system", "# 指令\n\n你扮演一个天气预报助手。", []),
        ("user", "(。你可以使用工具：[amap_weather])ASKED 朝阳区天气怎样？", []),
        ("assistant", "好的。", [("amap_weather", {"city": "朝阳区"})]),
        ("tool", "OBSERVED\nAnswer: not the model's\nThought: nor this", []),
        ("assistant", "朝阳区晴。", []),
    ]


def test_the_section_of_tools_becomes_tools():
    with repair.noted() as repairs:
        example = read("agentfabric", AGENTFABRIC)
    drawing = {"prompt": {"type": "string", "description": "d"}}
    assert functions(example) == [
        ("amap_weather", WEATHER),
        ("image_gen", {"type": "object", "properties": drawing, "required": []}),
    ]
    assert example.tools[0]["function"]["description"] == "获取天气"
    assert repairs == ["key-backslash"]


def test_a_parameter_that_the_converter_began_with_a_tab_gets_its_name_back():
    example = read("agentfabric", with_system(FABRIC_SYSTEM.replace("\\prompt", "\\text")))
    assert list(functions(example)[1][1]["properties"]) == ["text"]


def test_english_prompts_and_results_that_a_host_hands_back_are_read():
    example = read("agentfabric", FABRIC_ENGLISH)
    assert functions(example) == [("weather", WEATHER)]
    assert turns(example) == [
        ("system", "#Instructions\n\nBe kind.", []),
        ("user", "ASKED", []),
        ("assistant", "", [("weather", {"city": "Rome"})]),
        ("tool", "OBSERVED sun", []),
        ("assistant", "Sunny.", []),
    ]


def test_rows_converted_from_ms_agent_end_with_a_final_answer():
    converted = with_system(FABRIC_SYSTEM)
    converted["conversations"][2] = MS_AGENT["conversations"][2]
    assert turns(read("agentfabric", converted))[-1] == ("assistant", "9 C\nat noon", [])


def test_several_actions_before_their_results_are_one_turn():
    data = with_system(FABRIC_SYSTEM)
    call = "Action: f\nAction Input: {}\n"
    results = "Observation: <result>1</result>\nObservation: <result>2</result>\nAnswer: a"
    data["conversations"][2] = {"from": "assistant", "value": call + call + results}
    example = read("agentfabric", data)
    assert [len(m.tool_calls) for m in example.messages[2:]] == [2, 0, 0, 0]
    assert [m.text for m in example.messages[3:]] == ["1", "2", "a"]


def test_a_tool_without_parameters_takes_none():
    begun, _, _ = FABRIC_SYSTEM.partition("image_gen")
    system = f"{begun}clock: clock API。时间\n\n## 当你需要调用工具时"
    assert functions(read("agentfabric", with_system(system)))[1] == (
        "clock",
        {"type": "object", "properties": {}, "required": []},
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (with_system(FABRIC_SYSTEM.replace(" API", "")), "no tool can be found in the list 'amap"),
        (with_system(FABRIC_SYSTEM.replace('{"city"', "{{")), "of 'amap_weather': not JSON"),
        ({"conversations": [{"from": "gpt", "value": ""}]}, "from is 'gpt'; legal: system, user"),
    ],
)
def test_a_broken_row_says_where_and_why(data, reason):
    with pytest.raises(DataError, match=reason):
        read("agentfabric", data)
