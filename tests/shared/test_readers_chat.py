"""Messages, tools and calls as OpenAI writes them, and as other formats bring them."""

import json
from datetime import date

import pytest

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import (
    as_call,
    as_message,
    as_tools,
    read_messages,
    read_prompt_completion,
)
from agent_finetune.readers.flat import read_alpaca, read_dolly, read_lima
from agent_finetune.readers.sharegpt import read_sharegpt
from agent_finetune.records import Message, Row, ToolCall

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "default": None}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
CALL = ToolCall(name="get_weather", arguments={"city": "Paris"}, id="c1")


def row(**data):
    return Row(source="f:1", data=data)


def call(arguments, **more):
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": "c1", "type": "function", "function": function, **more}


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city": "Paris"}'])
def test_arguments_are_read_from_an_object_and_from_a_string(arguments):
    message = {"role": "assistant", "content": None, "tool_calls": [call(arguments)]}
    assert as_message(message, "m") == Message(role="assistant", tool_calls=(CALL,))


@pytest.mark.parametrize("arguments", [None, "", {}, "{}"])
def test_a_call_may_have_no_arguments(arguments):
    assert as_call(call(arguments), "c").arguments == {}


def test_a_null_argument_stays():
    assert as_call(call('{"city": null}'), "c").arguments == {"city": None}


def test_a_legacy_function_call_and_its_result_are_read():
    legacy = {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    message = as_message(legacy, "m")
    assert message.tool_calls == (ToolCall(name="f", arguments={"a": 1}),)
    result = as_message({"role": "function", "name": "f", "content": "2"}, "m")
    assert result == Message(role="tool", name="f", text="2")


def test_text_parts_are_joined_and_the_developer_is_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    message = as_message({"role": "developer", "content": parts}, "m")
    assert message == Message(role="system", text="abc")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_is_read_under_its_three_names(key):
    message = as_message({"role": "assistant", "content": "a", key: "hm"}, "m")
    assert message.thinking == "hm"


@pytest.mark.parametrize("flag", [{"weight": 0}, {"loss": False}, {"loss": 0}])
def test_a_turn_without_weight_is_context_only(flag):
    assert not as_message({"role": "assistant", "content": "a", **flag}, "m").trained


@pytest.mark.parametrize("flag", [{}, {"weight": 1}, {"loss": True}, {"loss": None}])
def test_a_turn_is_trained_unless_told_otherwise(flag):
    assert as_message({"role": "assistant", "content": "a", **flag}, "m").trained


@pytest.mark.parametrize("tools", [[TOOL], [TOOL["function"]], json.dumps([TOOL])])
def test_tools_are_read_wrapped_bare_and_as_json(tools):
    assert as_tools(tools) == (TOOL,)


def test_a_schema_stays_as_it_is():
    (tool,) = as_tools([TOOL])
    assert tool["function"]["parameters"] is SCHEMA


def test_a_schema_written_as_a_json_string_becomes_its_object():
    function = {"name": "get_weather", "parameters": json.dumps(SCHEMA)}
    assert as_tools([{"type": "function", "function": function}]) == (TOOL,)


def test_legacy_functions_are_tools():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    example = read_messages(row(messages=messages, functions=[TOOL["function"]], id=7))
    assert example.tools == (TOOL,)
    assert example.id == "7"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "robot"}, "role is 'robot'; legal roles are system, developer, user"),
        ({"content": "a"}, "role is None"),
        ({"role": "user", "content": 3}, "content is 3"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "type 'image_url'; only text"),
        ({"role": "user", "content": [3]}, "content.0. is 3"),
        ({"role": "user", "tool_calls": [call({})]}, "only 'assistant'"),
        ({"role": "assistant", "tool_calls": "oops"}, "does not parse: not JSON"),
        ({"role": "assistant", "tool_calls": {"a": 1}}, "expected a list of objects"),
        ({"role": "assistant", "tool_calls": [3]}, r"tool_calls\[0\] is 3; expected an object"),
        ({"role": "assistant", "tool_calls": [call("{")]}, "arguments of 'get_weather' is a"),
        ({"role": "assistant", "tool_calls": [call("[1]")]}, r"is \[1\]; expected an object"),
        ({"role": "assistant", "tool_calls": [call({}, type="custom")]}, "type 'custom'"),
        ({"role": "assistant", "tool_calls": [call({}, id=3)]}, "id is 3; expected a string"),
        ({"role": "assistant", "tool_calls": [{"function": 3}]}, "function is 3"),
        ({"role": "assistant", "tool_calls": [{"name": ""}]}, "name is ''"),
        ({"role": "assistant", "function_call": [3]}, r"function_call is \[3\]"),
        ({"role": "assistant", "thinking": 3}, "thinking is 3"),
        ({"role": "tool", "tool_call_id": 3}, "tool_call_id is 3"),
        ({"role": "assistant", "tool_calls": [call({"d": date(2026, 1, 1)})]}, "as JSON"),
        ({"role": "assistant", "tool_calls": [call('{"a": 1, "a": 2}')]}, "'a' appears twice"),
    ],
)
def test_a_broken_message_says_where_and_what(message, reason):
    with pytest.raises(DataError, match=reason) as caught:
        as_message(message, "messages[0]")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({"type": "web_search", "function": {"name": "f"}}, "of type 'web_search'"),
        ({"type": "function", "function": "f"}, "function is 'f'"),
        ({"function": {"description": "d"}}, "name is None"),
        ({"name": "f", "parameters": [1]}, r"parameters is \[1\]"),
    ],
)
def test_a_broken_tool_says_where_and_what(tool, reason):
    with pytest.raises(DataError, match=r"tools\[0\].*" + reason):
        as_tools([tool])


def test_a_conversation_in_which_nothing_is_said_by_the_assistant_is_refused():
    with pytest.raises(DataError, match="nothing to learn from"):
        read_messages(row(messages=[{"role": "user", "content": "q"}]))


def test_a_row_without_messages_names_its_keys():
    with pytest.raises(DataError, match="no key 'messages'; keys are 'id', 'output'"):
        read_messages(row(id=1, output="a"))


def test_only_the_completion_is_trained():
    prompt = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "old"}]
    prompt.append({"role": "user", "content": "q2"})
    completion = [{"role": "assistant", "content": "new"}]
    for wrap in (lambda x: x, json.dumps):  # json.dumps: as a csv cell holds it
        example = read_prompt_completion(row(prompt=wrap(prompt), completion=wrap(completion)))
        trained = [m.text for m in example.messages if m.role == "assistant" and m.trained]
        assert trained == ["new"]


@pytest.mark.parametrize("prompt", ["q", "[1] is a footnote", '[{"a": 1}] is JSON', "[]"])
def test_a_prompt_may_be_any_text(prompt):
    example = read_prompt_completion(row(prompt=prompt, completion="a"))
    assert [m.text for m in example.messages] == [prompt, "a"]


@pytest.mark.parametrize("completion", ["", [], [{"role": "assistant", "content": ""}]])
def test_an_empty_completion_is_refused(completion):
    with pytest.raises(DataError, match="completion is empty"):
        read_prompt_completion(row(prompt="q", completion=completion))


def test_a_prompt_without_a_completion_is_refused():
    with pytest.raises(DataError, match="no key 'completion'; keys are 'prompt'"):
        read_prompt_completion(row(prompt="q"))


def texts(example):
    return [(m.role, m.text) for m in example.messages]


def test_dolly_puts_the_context_under_the_instruction():
    data = {"instruction": "Sum up.", "context": "Long.", "response": "Short.", "category": "x"}
    assert texts(read_dolly(row(**data))) == [("user", "Sum up.\n\nLong."), ("assistant", "Short.")]
    assert texts(read_dolly(row(**{**data, "context": ""})))[0] == ("user", "Sum up.")


def test_alpaca_reads_system_history_and_input():
    data = {"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["q", "a"]]}
    assert texts(read_alpaca(row(**data))) == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "i\n\nx"),
        ("assistant", "o"),
    ]


def test_lima_alternates_user_and_assistant():
    for turns in (["q", "a", "q2", "a2"], '["q", "a", "q2", "a2"]'):
        example = read_lima(row(conversations=turns))
        assert texts(example) == [
            ("user", "q"),
            ("assistant", "a"),
            ("user", "q2"),
            ("assistant", "a2"),
        ]


@pytest.mark.parametrize(
    ("read", "data", "reason"),
    [
        (read_dolly, {"response": "r"}, "no key 'instruction'"),
        (read_dolly, {"instruction": "i"}, "no key 'response'"),
        (read_dolly, {"instruction": "", "response": "r"}, "both empty"),
        (read_dolly, {"instruction": "i", "response": None}, "nothing to learn"),
        (read_alpaca, {"instruction": 3, "output": "o"}, "instruction is 3"),
        (read_alpaca, {"instruction": "i", "output": "o", "history": "x"}, "history is a string"),
        (read_alpaca, {"instruction": "i", "output": "o", "history": {"a": 1}}, "list of pairs"),
        (read_alpaca, {"instruction": "i", "output": "o", "history": [["q"]]}, "question, answer"),
        (read_lima, {"x": 1}, "no key 'conversations'"),
        (read_lima, {"conversations": ["q", "a", "q"]}, "3 turns"),
        (read_lima, {"conversations": []}, "0 turns"),
        (read_lima, {"conversations": [1, 2]}, "expected a list of strings"),
        (read_sharegpt, {"x": 1}, "no key 'conversations'; keys are 'x'"),
        (read_sharegpt, {"conversations": [{"from": "bot"}]}, "from is 'bot'; legal are system"),
        (read_sharegpt, {"conversations": [{"from": "gpt", "value": 3}]}, "value is 3"),
        (read_sharegpt, {"conversations": [{"from": "function_call", "value": "f()"}]}, "parse"),
    ],
)
def test_a_broken_row_says_what_is_wrong(read, data, reason):
    with pytest.raises(DataError, match=reason):
        read(row(**data))


def turn(speaker, value, **more):
    return {"from": speaker, "value": value, **more}


def test_sharegpt_calls_and_observations_become_tool_turns():
    value = json.dumps({"name": "get_weather", "arguments": {"city": "Paris"}})
    turns = [
        turn("human", "Weather?"),
        turn("function_call", value),
        turn("observation", {"celsius": 18}),
        turn("gpt", "18 degrees."),
    ]
    example = read_sharegpt(row(conversations=turns, system="s", tools=json.dumps([TOOL])))
    assert example.tools == (TOOL,)
    assert example.messages == (
        Message(role="system", text="s"),
        Message(role="user", text="Weather?"),
        Message(
            role="assistant",
            tool_calls=(ToolCall(name="get_weather", arguments={"city": "Paris"}),),
        ),
        Message(role="tool", text='{"celsius": 18}', name="get_weather"),
        Message(role="assistant", text="18 degrees."),
    )


def test_consecutive_sharegpt_calls_are_one_turn_and_results_find_their_names():
    turns = [
        turn("human", "q"),
        turn("gpt", "Let me look."),
        turn("function_call", {"name": "a", "arguments": {}}),
        turn("function_call", [{"name": "b", "arguments": {}}, {"name": "c", "arguments": {}}]),
        turn("observation", "1"),
        turn("observation", "2"),
        turn("tool", "3"),
        turn("gpt", "done", loss=False),
    ]
    _, called, *results, last = read_sharegpt(row(conversations=turns)).messages
    assert called.text == "Let me look."
    assert [c.name for c in called.tool_calls] == ["a", "b", "c"]
    assert [r.name for r in results] == ["a", "b", "c"]
    assert not last.trained


def test_a_result_without_a_call_has_no_name():
    turns = [turn("human", "q"), turn("observation", "1"), turn("gpt", "a")]
    assert read_sharegpt(row(conversations=turns)).messages[1].name is None
