import asyncio
import base64
from pathlib import Path

import pytest
from agentscope.message import (
    Base64Source,
    DataBlock,
    HintBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    ToolResultBlock,
    URLSource,
)
from agentscope_models import WEATHER, assistant, system, user
from chat_templates import NAMES, renderer

from agentscope_finetune.convert import to_messages
from agentscope_finetune.formatter import (
    TransformersChatFormatter,
    TransformersMultiAgentFormatter,
)

PICTURE = DataBlock(
    source=Base64Source(data=base64.b64encode(b"pixels").decode(), media_type="image/png")
)
LINK = DataBlock(source=URLSource(url="https://example.com/a.png", media_type="image/png"))


def chat(*msgs, formatter=None):
    return asyncio.run((formatter or TransformersChatFormatter()).format(list(msgs)))


def several(*msgs):
    return chat(*msgs, formatter=TransformersMultiAgentFormatter())


def call(id="a", name="get_weather", input='{"city": "Paris"}'):
    return ToolCallBlock(id=id, name=name, input=input)


def result(id="a", output="sunny", name="get_weather"):
    return ToolResultBlock(id=id, name=name, output=output)


def roles(dicts):
    return [each["role"] for each in dicts]


WHOLE_REPLY = assistant(
    ThinkingBlock(thinking="I look it up."),
    TextBlock(text="One moment."),
    call("a"),
    call("b", input='{"city": "Rome"}'),
    result("a"),
    result("b", "rain"),
    HintBlock(hint="It is noon."),
    ThinkingBlock(thinking="Now I know."),
    TextBlock(text="Sunny in Paris, rain in Rome."),
)


def test_a_conversation_is_dicts_of_strings():
    said = chat(system("Be kind."), user("hello"), assistant(TextBlock(text="hi")), user("bye"))
    assert said == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "bye"},
    ]


def test_one_message_that_holds_a_whole_reply_becomes_its_turns():
    said = chat(user("weather?"), WHOLE_REPLY)
    assert roles(said) == ["user", "assistant", "tool", "tool", "user", "assistant"]
    assert said[1] == {
        "role": "assistant",
        "content": "One moment.",
        "reasoning_content": "I look it up.",
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
            },
            {
                "id": "b",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": "Rome"}},
            },
        ],
    }
    assert said[3] == {
        "role": "tool",
        "tool_call_id": "b",
        "name": "get_weather",
        "content": "rain",
    }
    assert said[4] == {"role": "user", "content": "It is noon."}
    assert said[5]["reasoning_content"] == "Now I know."


def test_a_call_without_words_has_an_empty_string_for_content():
    assert chat(assistant(call()))[0]["content"] == ""


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [("", {}), ('{"city": "Par', {"city": "Par"}), ("[1]", {}), ("nonsense", {})],
)
def test_arguments_are_an_object_whatever_the_model_said(raw, arguments):
    said = chat(assistant(call(input=raw)))
    assert said[0]["tool_calls"][0]["function"]["arguments"] == arguments


def test_neighbouring_system_messages_are_one_and_later_ones_are_the_users():
    said = chat(system("a"), system("b"), user("hello"), system("c"))
    assert said == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "hello"},
        {"role": "user", "content": "c"},
    ]


def test_an_empty_reply_leaves_no_turn_and_thinking_alone_leaves_one():
    assert chat(user("hello"), assistant(), user("again")) == chat(user("hello"), user("again"))
    assert chat(assistant(ThinkingBlock(thinking="hm"))) == [
        {"role": "assistant", "content": "", "reasoning_content": "hm"}
    ]


def test_a_hint_of_blocks_is_a_user_turn_of_text():
    said = chat(assistant(HintBlock(hint=[TextBlock(text="look:"), LINK])))
    assert roles(said) == ["user"]
    assert said[0]["content"].startswith("look:\n")
    assert "https://example.com/a.png" in said[0]["content"]


@pytest.mark.parametrize("types", [["text/plain"], ["text/plain", "image/*"]])
def test_media_are_named_in_words_since_models_here_read_text(types):
    formatter = TransformersChatFormatter()
    formatter.input_types = types  # as a service assigns them
    picture = user("")
    picture.content = [TextBlock(text="what is this?"), LINK]
    said = chat(picture, assistant(call(), result(output=[LINK])), formatter=formatter)
    assert all("URL: https://example.com/a.png" in said[place]["content"] for place in (0, 2))
    assert formatter.supported_input_media_types == types[1:]


def test_bytes_are_saved_once_so_that_a_prompt_begins_as_the_last_one_did():
    message = assistant(call(), result(output=[TextBlock(text="a picture"), PICTURE]))
    once, again = (chat(message)[1]["content"] for _ in range(2))
    assert once == again
    path = Path(once.rsplit("saved locally at: ", 1)[1].removesuffix(".</system-reminder>"))
    assert path.read_bytes() == b"pixels"
    assert path.suffix == ".png"


def test_what_is_no_list_of_messages_is_refused():
    with pytest.raises(TypeError, match="list"):
        asyncio.run(TransformersChatFormatter().format(user("hello")))
    with pytest.raises(TypeError, match="Msg"):
        chat("hello")


def test_several_speakers_are_one_user_turn_that_names_them():
    said = several(
        system("Be kind."),
        user("hello", name="Ada"),
        assistant(ThinkingBlock(thinking="hm"), TextBlock(text="hi"), name="Bob"),
        user("bye", name="Ada"),
    )
    assert roles(said) == ["system", "user"]
    assert said[1]["content"].endswith("<history>\nAda: hello\nBob: hi\nAda: bye\n</history>")
    assert said[1]["content"].startswith("# Conversation History\n")


def test_tools_of_several_speakers_stay_turns_and_the_history_is_told_of_once():
    said = several(
        user("weather?", name="Ada"),
        assistant(call(), result(), TextBlock(text="sunny")),
        user("thanks", name="Ada"),
        assistant(HintBlock(hint="It is noon.")),
    )
    assert roles(said) == ["user", "assistant", "tool", "assistant", "user", "user"]
    assert said[4]["content"] == "<history>\nAda: thanks\n</history>"
    assert said[5]["content"] == "It is noon."


def test_media_of_several_speakers_are_named_with_who_sent_them():
    message = user("", name="Ada")
    message.content = [LINK]
    assert "Ada: <system-reminder>" in several(message)[0]["content"]


def test_ids_of_other_providers_are_numbered_and_ours_are_kept():
    said = to_messages(
        chat(assistant(call("call_with_underscores"), result("call_with_underscores"))),
    )
    assert said[0].tool_calls[0].id == said[1].tool_call_id == "call00001"
    said = to_messages(chat(assistant(call("aB3456789"), result("aB3456789"))))
    assert said[0].tool_calls[0].id == said[1].tool_call_id == "aB3456789"


CONVERSATIONS = {
    "plain": (system("Be kind."), user("hello")),
    "no system": (user("hello"),),
    "hint behind the user": (
        system("Be kind."),
        user("hello"),
        assistant(HintBlock(hint="It is noon.")),
    ),
    "two users": (user("hello", name="Ada"), user("hi", name="Bob")),
    "whole reply": (system("Be kind."), user("weather?"), WHOLE_REPLY, user("thanks")),
    "in the loop": (
        user("weather?"),
        assistant(call("toolu_01ABC"), result("toolu_01ABC", [TextBlock(text="sunny"), LINK])),
    ),
    "broken call": (
        user("weather?"),
        assistant(call(input="Paris!"), result(output="Error: no JSON")),
    ),
    "interrupted": (user("hello"), assistant(TextBlock(text="I thi")), user("stop")),
}


@pytest.mark.parametrize("several", [False, True], ids=["chat", "multi-agent"])
@pytest.mark.parametrize("template", NAMES)
def test_every_serving_template_prints_every_conversation(template, several):
    formatter = TransformersMultiAgentFormatter() if several else TransformersChatFormatter()
    for name, conversation in CONVERSATIONS.items():
        messages = to_messages(chat(*conversation, formatter=formatter))
        made = renderer(template)
        text = made.prompt_text(made.said_messages(messages), [WEATHER])
        for word in ("hello", "It is noon.", "sunny", "thanks"):
            told = any(word in str(msg.model_dump()) for msg in conversation)
            assert not told or word in text, (name, word)
