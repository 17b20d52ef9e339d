"""MSAgent-Bench rows, after the published format, turned into calls and tool turns."""

import json

import pytest

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import Message, ToolCall
from modelscope_agent_train.formats import repair

NESTED = {
    "plugin_name": "modelscope_text-ie",
    "plugin_owner": "ModelScopeGPT",
    "plugin_type": "default",
    "plugin_schema_for_model": {
        "name": "modelscope_text-ie",
        "description": "extract",
        "url": "http://1.2.3.4:80/",
        "paths": [
            {
                "name": "modelscope_text-ie",
                "model_id": "/damo/x",
                "method": "post",
                "description": "extract a schema",
                "parameters": [{"name": "text", "description": "input", "required": "True"}],
            }
        ],
    },
}
FLAT = {
    "name": "weather",
    "description": "tells it",
    "parameters": [{"name": "days", "description": "ahead", "required": "False", "type": "int"}],
}
SYSTEM = f"You are ModelScopeGPT. Call:\n1. {json.dumps(NESTED)}\n\n2. {json.dumps(FLAT)}\n\nGo."


def think(call):
    return f"<|startofthink|>```JSON\n{call}\n```<|endofthink|>"


def executed(result):
    return f"<|startofexec|>```JSON\n{result}\n```<|endofexec|>"


CALL = think('{"api_name": "modelscope_text-ie", "url": "http://x", "parameters": {"text": "a"}}')
ANSWER = f"{CALL}\n\n{executed('{1: []}')}\nResult: none."


def turns(answer=ANSWER, system=SYSTEM):
    return [
        {"from": "system", "value": system},
        {"from": "user", "value": "Extract from: a"},
        {"from": "assistant", "value": answer},
    ]


@pytest.fixture
def read(tmp_path):
    def read(*rows, name="a.jsonl", **options):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return readers.read(str(path), settings=Settings(), **options)

    return read


def steps(read, answer):
    """The turns after system and user."""
    return read({"conversations": turns(answer)}, format="msagent").examples[0].messages[2:]


def test_calls_and_results_become_turns(read):
    result = read({"id": "MS_1", "conversations": turns()})
    assert result.format == "msagent"
    (example,) = result.examples
    assert example.id == "MS_1"
    assert example.messages == (
        Message(role="system", text="You are ModelScopeGPT. Call:\n\nGo."),
        Message(role="user", text="Extract from: a"),
        Message(
            role="assistant",
            tool_calls=(ToolCall(name="modelscope_text-ie", arguments={"text": "a"}),),
        ),
        Message(role="tool", text="{1: []}", name="modelscope_text-ie"),
        Message(role="assistant", text="Result: none."),
    )


def test_plugins_of_the_system_prompt_become_tools(read):
    (example,) = read({"conversations": turns()}).examples
    text = {"type": "object", "properties": {"text": {"description": "input"}}}
    days = {"days": {"description": "ahead", "type": "int"}}
    assert [tool["function"] for tool in example.tools] == [
        {
            "name": "modelscope_text-ie",
            "description": "extract a schema",
            "parameters": {**text, "required": ["text"]},
        },
        {
            "name": "weather",
            "description": "tells it",
            "parameters": {"type": "object", "properties": days, "required": []},
        },
    ]


def test_a_plugin_listed_twice_is_offered_once(read):
    system = f"Call:\n1. {json.dumps(FLAT)}\n2. {json.dumps({**FLAT, 'url': 'http://other'})}"
    (example,) = read({"conversations": turns(system=system)}).examples
    assert example.tool_names == ("weather",)


def test_a_system_prompt_without_plugins_stays_as_it_is(read):
    (example,) = read({"conversations": turns(system="1. Be kind.")}).examples
    assert example.messages[0].text == "1. Be kind."
    assert example.tools == ()


@pytest.mark.parametrize("write", [repr, json.dumps])
def test_conversations_may_be_a_string_of_a_list(read, write):
    result = read({"conversations": write(turns())})
    assert result.format == "msagent"
    assert len(result.examples[0].messages) == 5


def test_several_calls_and_words_keep_their_order(read):
    again = think('{"name": "weather", "parameters": {}}')
    done = f"First.{CALL}{executed('1')}Then.{again}{executed('2')}Last."
    assert [(m.role, m.text, len(m.tool_calls)) for m in steps(read, done)] == [
        ("assistant", "First.", 1),
        ("tool", "1", 0),
        ("assistant", "Then.", 1),
        ("tool", "2", 0),
        ("assistant", "Last.", 0),
    ]


def test_calls_in_a_row_are_one_turn_and_results_find_their_names(read):
    other = think('{"name": "weather"}')
    _, first, second = steps(read, f"{CALL}{other}{executed('1')}{executed('2')}")
    assert (first.name, second.name) == ("modelscope_text-ie", "weather")


def test_line_breaks_inside_a_call_are_read_as_they_are(read):
    broken = think('{"api_name": "weather", "parameters": {"text": "two\nlines"}}')
    (called,) = steps(read, broken)
    assert called.tool_calls[0].arguments == {"text": "two\nlines"}


def test_words_before_a_call_are_kept_wherever_they_stand(read):
    inside = CALL.replace("```JSON", "I need it.\n```JSON")
    assert steps(read, f"First.{inside}")[0].text == "First.\nI need it."
    (called,) = steps(read, "<|startofthink|>I call {'name': 'weather'}<|endofthink|>")
    assert (called.text, called.tool_calls[0].name) == ("I call", "weather")


@pytest.mark.parametrize(
    ("call", "arguments", "repairs"),
    [
        ('{"name": "f", "parameters": "{\\"a\\": 1}"}', {"a": 1}, []),
        ("{'name': 'f', 'parameters': {'a': None}}", {"a": None}, ["python-literal"]),
        ('{"name": "f", "parameters": {"a": 1,},}', {"a": 1}, ["trailing-commas"]),
        ('{"name": "f", "parameters": {"a": "x\ny"}}', {"a": "x\ny"}, ["raw-line-breaks"]),
        (
            '{"name": "f", "parameters": {"a": "say "x" twice"}}',
            {"a": 'say "x" twice'},
            ["guessed"],
        ),
        ('{"name": "f", "parameters": ""}', {}, []),
    ],
)
def test_a_call_that_is_almost_json_is_repaired_and_it_is_noted(read, call, arguments, repairs):
    with repair.noted() as noted:
        (called,) = steps(read, think(call))
    assert (called.tool_calls[0].arguments, noted) == (arguments, repairs)


def test_flat_plugins_need_no_numbers_and_broken_ones_are_repaired(read):
    other = json.dumps({**FLAT, "name": "clock"}).replace('"}', '",}')
    system = f"Call:\n{json.dumps(FLAT)}\n2. {other}\n\nGo."
    (example,) = read({"conversations": turns(system=system)}).examples
    assert example.tool_names == ("weather", "clock")
    assert example.messages[0].text == "Call:\n\nGo."


def test_a_round_without_an_answer_is_left_out(read):
    row = {"conversations": [*turns("")[:1], *turns("")[1:], *turns()[1:]]}
    (example,) = read(row, format="msagent").examples
    assert [m.role for m in example.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_rows_without_tags_are_left_to_the_kernel(read):
    talk = [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]
    assert read({"conversations": talk}).format == "sharegpt"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": 1}, "no key 'conversations'; keys are 'a'"),
        ({"conversations": "[("}, "conversations is a string that does not parse"),
        ({"conversations": [{"from": "bot"}]}, "from is 'bot'; legal"),
        ({"conversations": [{"from": "user", "value": 3}]}, "value is 3"),
        ({"conversations": turns("<|startofthink|>oops")}, "startofthink.> has no partner"),
        ({"conversations": turns(executed("1"))}, "an exec block with no call before it"),
        ({"conversations": turns(think(think("{}")))}, "has no partner"),
        (
            {"conversations": turns(think('{"name": "f", "parameters": "oops"}'))},
            "'f': 'oops' holds",
        ),
        ({"conversations": turns(think("oops"))}, "a think block holds no call"),
        ({"conversations": turns(think('{"url": ""}'))}, "names no api; keys are 'url'"),
        ({"conversations": turns(think('{"name": "f", "parameters": 3}'))}, "'f' is 3"),
        ({"conversations": turns(system="1. {oops")}, r"plugin 1\. does not parse"),
        ({"conversations": turns(system='1. {"name": 3}')}, "a plugin has no name"),
        ({"conversations": turns(system='1. {"plugin_schema_for_model": 3}')}, "is 3; expected"),
    ],
)
def test_a_broken_row_is_named_by_file_line_and_place(read, row, reason):
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*" + reason):
        read(row, format="msagent")


def test_parameters_that_are_a_schema_already_stay(read):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    system = f"1. {json.dumps({'name': 'f', 'parameters': schema})}"
    (example,) = read({"conversations": turns(system=system)}).examples
    assert example.tools[0]["function"]["parameters"] == schema
