"""Chat dicts of AutoGen as the model is to see them."""

import pytest

from agent_finetune.errors import DataError
from agent_finetune.records import Message, ToolCall
from autogen_finetune.oai import to_messages


def users(*said):
    return [{"role": "user", "name": name, "content": text} for name, text in said]


def texts(messages):
    return [message.text for message in to_messages(messages)]


def test_everyone_who_joins_after_the_first_user_is_named():
    said = users(("ann", "Hi"), ("bob", "Hello"), ("ann", "So?"))
    assert texts(said) == ["Hi", "bob: Hello", "So?"]


def test_what_was_said_does_not_change_when_somebody_joins():
    said = users(("ann", "Hi"), ("ann", "Anyone?"), ("bob", "Hello"))
    assert texts(said[:2]) == texts(said)[:2]


def test_a_lone_user_is_not_named():
    assert texts(users(("user_proxy", "Hi"), ("user_proxy", "Go"))) == ["Hi", "Go"]


def test_results_of_parallel_calls_become_a_turn_each():
    calls = [
        {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "2", "type": "function", "function": {"name": "add", "arguments": ""}},
    ]
    results = [{"tool_call_id": id, "role": "tool", "content": id} for id in "12"]
    messages = to_messages(
        [
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "1\n\n2", "tool_responses": results},
        ]
    )
    assert messages == [
        Message(
            role="assistant",
            tool_calls=(
                ToolCall(name="add", arguments={"a": 1}, id="1"),
                ToolCall(name="add", arguments={}, id="2"),
            ),
        ),
        Message(role="tool", text="1", tool_call_id="1"),
        Message(role="tool", text="2", tool_call_id="2"),
    ]


def test_a_call_that_did_not_parse_is_shown_without_arguments_and_never_trained():
    broken = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": '}}
    messages = to_messages(
        [
            {"role": "assistant", "content": "Let me see.", "tool_calls": [broken]},
            {"role": "tool", "content": "Error", "tool_call_id": "1"},
        ]
    )
    assert messages[0] == Message(
        role="assistant",
        text="Let me see.",
        tool_calls=(ToolCall(name="add", arguments={}, id="1"),),
        trained=False,
    )


def test_a_message_that_is_none_is_named_by_its_place():
    with pytest.raises(DataError, match=r"messages\[1\]: role is 'robot'"):
        to_messages([{"role": "user", "content": "x"}, {"role": "robot", "content": "y"}])
