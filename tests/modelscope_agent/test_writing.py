"""Examples written as rows, and read back as they were."""

import json

import pytest

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import read_messages
from agent_finetune.records import AcceptedCall, Example, Message, Row, ToolCall
from modelscope_agent_train.formats import msagent
from modelscope_agent_train.writing import losses, to_messages, to_msagent


def tool(name="weather", **properties):
    required = [key for key, schema in properties.items() if schema.pop("must", False)]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": f"about {name}", "parameters": parameters}
    return {"type": "function", "function": function}


def user(text="Is it warm?"):
    return Message(role="user", text=text)


def calls(*names, text="", **arguments):
    made = tuple(ToolCall(name=name, arguments=arguments) for name in names)
    return Message(role="assistant", text=text, tool_calls=made)


def result(text, name="weather"):
    return Message(role="tool", text=text, name=name)


def says(text):
    return Message(role="assistant", text=text)


WEATHER = tool(
    city={"type": "string", "description": "where", "must": True},
    days={"type": "integer", "enum": [1, 2], "default": 1},
    place={"type": "object", "properties": {"lat": {"type": "number"}}},
)
SYSTEM = Message(role="system", text="Be kind.\nAnswer <|startofthink|>call<|endofthink|>.")
ROUND_TRIPS = {
    "words alone": (user(), says("Yes.")),
    "a system prompt": (SYSTEM, user(), says("Yes.")),
    "a call, its result and the words after": (
        user(),
        calls("weather", city="Rome", text="Let me see."),
        result('{"high": 25}'),
        says("Yes,\n\n25 degrees."),
    ),
    "two calls at once": (
        user(),
        calls("weather", "weather", city="Rome"),
        result("1"),
        result("2"),
        says("Both."),
    ),
    "several steps and several rounds": (
        user("a"),
        calls("weather", city="Rome"),
        result("1"),
        calls("weather", city="Oslo", text="Next."),
        result("2"),
        says("Both."),
        user("b"),
        says("Again."),
    ),
    "a call at the end": (user(), calls("weather", city="罗马")),
    "a result at the end": (user(), calls("weather", city="Rome"), result("")),
    "a tag inside an argument": (user(), calls("weather", city="<|endofthink|> ``` {")),
    "a fence inside a result": (user(), calls("weather"), result("```\n1\n```\nand 2"), says("a")),
    "deep arguments": (user(), calls("weather", city="a\nb", place={"lat": 1.5, "x": [None]})),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_row_is_read_back_as_it_was(name):
    example = Example(messages=ROUND_TRIPS[name], tools=(WEATHER, tool("other")), id="7")
    back = msagent.read_row(Row(source="a:1", data=json.loads(json.dumps(to_msagent(example)))))
    assert back.messages == example.messages
    assert back.tools == example.tools
    assert back.id == "7"
    assert losses(example) == ()


def test_a_row_has_the_published_form():
    messages = (SYSTEM, user(), calls("weather", city="Rome"), result('{"high": 25}'), says("Yes."))
    offered = (tool(city={"type": "string", "must": True}),)
    row = to_msagent(Example(messages=messages, tools=offered))
    assert [turn["from"] for turn in row["conversations"]] == ["system", "user", "assistant"]
    assert row["conversations"][0]["value"].endswith(
        '\n\n1. {"name": "weather", "description": "about weather", "parameters": '
        '[{"name": "city", "type": "string", "required": "True"}]}'
    )
    assert row["conversations"][2]["value"] == (
        '<|startofthink|>```JSON\n{"api_name": "weather", "parameters": {"city": "Rome"}}\n'
        '```<|endofthink|>\n\n<|startofexec|>```JSON\n{"high": 25}\n```<|endofexec|>\nYes.'
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "object", "required": ["b"]}}},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {}}},
        {"type": "object", "properties": {"a": {}}, "required": ["z"]},
    ],
)
def test_a_schema_that_a_list_cannot_hold_is_kept_as_it_is(schema):
    offered = {"type": "function", "function": {"name": "f", "parameters": schema}}
    row = to_msagent(Example(messages=(user(), says("a")), tools=(offered,)))
    back = msagent.read_row(Row(source="a:1", data=row))
    assert back.tools[0]["function"]["parameters"] == schema


def test_results_come_in_the_order_of_their_calls():
    made = tuple(ToolCall(name=name, arguments={}, id=name) for name in ("f", "g"))
    results = [
        Message(role="tool", text=f"of {name}", name=name, tool_call_id=name) for name in "gf"
    ]
    example = Example(
        messages=(user(), Message(role="assistant", tool_calls=made), *results, says("a")),
        tools=(tool("f"), tool("g")),
    )
    back = msagent.read_row(Row(source="a:1", data=to_msagent(example)))
    assert [(m.name, m.text) for m in back.messages[2:4]] == [("f", "of f"), ("g", "of g")]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((user(), result("1"), says("a")), "a tool's result without a call"),
        ((user(), says("a"), says("b")), "two turns of the assistant in a row"),
        ((user(), says("a <|endofexec|>")), r"has the tag <\|endofexec\|>"),
        ((user(), Message(role="system", text="late"), says("a")), "after the first turn"),
        ((Message(role="system", text="1. {}"), user(), says("a")), r"'1\. \{', which would be"),
    ],
)
def test_what_the_form_cannot_hold_is_refused_with_its_place(messages, reason):
    with pytest.raises(DataError, match=rf"b\.jsonl:3: .*{reason}"):
        to_msagent(Example(messages=messages, source="b.jsonl:3"))


def test_what_is_lost_is_named():
    example = Example(
        messages=(
            user(),
            Message(role="assistant", text="a ", thinking="hm", trained=False),
            user(),
            Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={}, id="1"),)),
        ),
        accepted=(AcceptedCall(name="f", arguments={"a": (1, 2)}),),
    )
    assert len(losses(example)) == 5
    assert losses(example, "messages") == ("other right answers than the first",)


def test_chat_messages_are_read_back_as_they_were():
    example = Example(
        messages=(
            SYSTEM,
            user(),
            Message(
                role="assistant",
                text=" a ",
                thinking="hm",
                trained=False,
                tool_calls=(ToolCall(name="weather", arguments={"city": "罗马"}, id="c1"),),
            ),
            Message(role="tool", text="1", name="weather", tool_call_id="c1"),
            says("Yes."),
        ),
        tools=(WEATHER,),
        id="7",
        source="a:1",
    )
    row = json.loads(json.dumps(to_messages(example)))
    assert read_messages(Row(source="a:1", data=row)) == example
