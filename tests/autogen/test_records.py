"""Threads as classic AutoGen keeps them, turned back into what its model saw and said."""

import json

import pytest

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import Message, ToolCall


def call(call_id, arguments):
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def response(call_id, content):
    return {"tool_call_id": call_id, "role": "tool", "content": content}


THREAD = [
    {"content": "Weather?", "role": "user", "name": "user_proxy"},
    {
        "content": None,
        "tool_calls": [call("c1", '{"city": "Paris"}'), call("c2", '{"city": "Rome"}')],
        "role": "assistant",
    },
    {
        "content": "18C\n\n21C",
        "tool_responses": [response("c1", "18C"), response("c2", "21C")],
        "role": "tool",
        "name": "user_proxy",
    },
    {"content": "18 and 21. TERMINATE", "role": "assistant", "name": "assistant"},
]
TURNS = (
    Message(role="user", text="Weather?", name="user_proxy"),
    Message(
        role="assistant",
        tool_calls=(
            ToolCall(name="get_weather", arguments={"city": "Paris"}, id="c1"),
            ToolCall(name="get_weather", arguments={"city": "Rome"}, id="c2"),
        ),
    ),
    Message(role="tool", text="18C", tool_call_id="c1"),
    Message(role="tool", text="21C", tool_call_id="c2"),
    Message(role="assistant", text="18 and 21. TERMINATE", name="assistant"),
)
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture
def read(tmp_path):
    def read(document, name="chat.json", **options):
        path = tmp_path / name
        path.write_text(json.dumps(document))
        return readers.read(str(path), settings=Settings(), **options)

    return read


@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl"])
def test_results_of_parallel_calls_are_unrolled(read, name):
    result = read(THREAD, name)
    assert result.format == "autogen"
    assert result.examples[0].messages == TURNS


def test_a_reply_that_also_carries_tool_responses_follows_them(read):
    both = {"content": "Done.", "tool_responses": [response("c1", "1")], "role": "assistant"}
    (example,) = read([THREAD[0], both]).examples
    assert [(m.role, m.text) for m in example.messages[1:]] == [
        ("tool", "1"),
        ("assistant", "Done."),
    ]


def test_system_message_and_tools_may_stand_beside_the_thread(read):
    row = {"messages": THREAD, "system_message": "Be kind.", "tools": [TOOL]}
    (example,) = read(row, "chats.jsonl").examples
    assert example.messages == (Message(role="system", text="Be kind."), *TURNS)
    assert example.tools == (TOOL,)


def test_a_thread_of_mere_words_keeps_the_system_message_beside_it(read):
    result = read({"messages": THREAD[:1] + THREAD[3:], "system_message": "Be kind."})
    assert result.format == "autogen"
    assert result.examples[0].messages[0] == Message(role="system", text="Be kind.")


def test_a_dumped_chat_result_is_read(read):
    (example,) = read({"chat_id": 1, "chat_history": THREAD, "summary": "x"}).examples
    assert example.messages == TURNS


def test_chat_messages_are_a_thread_for_each_peer(read):
    result = read({"user_proxy": THREAD, "critic": THREAD[:1] + THREAD[3:]})
    assert result.format == "autogen"
    assert [e.id for e in result.examples] == ["user_proxy", "critic"]
    assert [len(e.messages) for e in result.examples] == [5, 2]


def test_words_that_open_a_chat_are_context_only(read):
    opening = {"content": "Let us begin.", "role": "assistant", "name": "assistant"}
    (example,) = read([opening, *THREAD]).examples
    assert [m.trained for m in example.messages if m.role == "assistant"] == [False, True, True]


def test_a_thread_in_which_the_agent_only_opens_is_refused(read):
    opening = {"content": "Hi.", "role": "assistant", "name": "assistant"}
    with pytest.raises(DataError, match=r"chat\.json:1: the agent only opened the chat"):
        read([opening, THREAD[0]], format="autogen")


def test_a_legacy_function_call_is_read(read):
    thread = [
        THREAD[0],
        {"content": None, "function_call": {"name": "f", "arguments": "{}"}, "role": "assistant"},
        {"content": "1", "role": "function", "name": "f"},
    ]
    (example,) = read(thread, format="autogen").examples
    assert example.messages[1].tool_calls == (ToolCall(name="f", arguments={}),)
    assert example.messages[2] == Message(role="tool", text="1", name="f")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": THREAD[:1] + THREAD[3:]},
        {"prompt": THREAD[:1], "completion": THREAD[3:]},
        {"conversations": THREAD[:1] + THREAD[3:]},
    ],
)
def test_rows_that_others_write_too_are_left_to_the_kernel(read, row):
    assert read(row).format in ("messages", "prompt_completion")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"a": 1}, "no key 'messages' or 'chat_history'; keys are 'a'"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\]: role is 'robot'"),
        ([{**THREAD[2], "tool_responses": [3]}], r"messages\[0\]: tool_responses\[0\] is 3"),
    ],
)
def test_a_broken_thread_is_named_by_file_line_and_place(read, document, reason):
    with pytest.raises(DataError, match=r"chat\.json:1: " + reason):
        read(document, format="autogen")


def test_a_line_that_does_not_parse_is_a_bad_row(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(THREAD) + "\n{broken\n")
    result = readers.read(str(path), on_bad_row="skip", settings=Settings())
    assert result.format == "autogen"
    assert [bad.source for bad in result.bad] == [f"{path}:2"]
