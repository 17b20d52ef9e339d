"""Dumps of AgentScope 2.0.10 messages, cut into the turns that a model saw and said."""

import copy
import json

import pytest

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import Message, ToolCall
from agentscope_finetune.records import read_row


def block(kind, /, **content):
    times = {"created_at": "2026-11-21T07:03:28.837542", "finished_at": None}
    return {"type": kind, "id": f"{kind}-id", **times, **content}


def msg(role, *blocks, **more):
    return {
        "name": "Friday",
        "content": list(blocks),
        "role": role,
        "id": "8d019043eaae46d1ad605faf4d228d4d",
        "metadata": {},
        "created_at": "2026-11-21T07:03:28.837503",
        "usage": None,
        "finished_at": None,
        "finished_reason": None,
        "structured_output": None,
        "error": None,
        **more,
    }


def call(call_id, arguments):
    return block("tool_call", id=call_id, name="get_weather", input=arguments, state="finished")


def result(call_id, output):
    return block("tool_result", id=call_id, name="get_weather", output=output, state="success")


DUMP = [
    msg("user", block("text", text="Weather in Paris and Rome?")),
    msg(
        "assistant",
        block("thinking", thinking="Two cities."),
        block("text", text="Let me look."),
        call("c1", '{"city": "Paris"}'),
        call("c2", ""),
        result("c1", "18C"),
        result("c2", [block("text", text="21C")]),
        block("hint", hint="Be short."),
        block("text", text="18 and 21."),
    ),
]
TURNS = (
    Message(role="user", text="Weather in Paris and Rome?"),
    Message(
        role="assistant",
        thinking="Two cities.",
        text="Let me look.",
        tool_calls=(
            ToolCall(name="get_weather", arguments={"city": "Paris"}, id="c1"),
            ToolCall(name="get_weather", arguments={}, id="c2"),
        ),
    ),
    Message(role="tool", text="18C", tool_call_id="c1", name="get_weather"),
    Message(role="tool", text="21C", tool_call_id="c2", name="get_weather"),
    Message(role="user", text="Be short."),
    Message(role="assistant", text="18 and 21."),
)
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture
def read(tmp_path):
    def read(document, name="chat.json", **options):
        path = tmp_path / name
        path.write_text(json.dumps(document))
        return readers.read(str(path), settings=Settings(), **options)

    return read


def broken(**change):
    dump = copy.deepcopy(DUMP)
    dump[1]["content"][2].update(change)
    return dump


@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl"])
def test_a_reply_is_cut_into_the_turns_a_model_saw_and_said(read, name):
    found = read(DUMP, name)
    assert found.format == "agentscope"
    assert found.examples[0].messages == TURNS


def test_system_prompt_and_tools_may_stand_beside_the_messages(read):
    (example,) = read({"messages": DUMP, "system_prompt": "Be kind.", "tools": [TOOL]}).examples
    assert example.messages == (Message(role="system", text="Be kind."), *TURNS)
    assert example.tools == (TOOL,)


def test_a_dumped_agent_state_is_its_summary_and_its_context(read):
    (example,) = read({"session_id": "s", "summary": "We met.", "context": DUMP}).examples
    assert example.messages == (Message(role="user", text="We met."), *TURNS)


def test_openai_messages_are_left_to_the_kernel(read):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read(messages).format == "messages"
    parts = [{"role": m["role"], "content": [{"type": "text", "text": "x"}]} for m in messages]
    assert read(parts).format == "messages"


def test_the_format_can_be_named(read):
    assert read(DUMP, format="agentscope").examples[0].messages == TURNS


@pytest.mark.parametrize(
    ("dump", "reason"),
    [
        (broken(input=5), r"messages\[1\]: content\[2\]: input of 'get_weather' is 5"),
        (broken(name=""), "name is ''"),
        (broken(type="data"), "of type 'data'; only text, thinking, tool_call, tool_result, hint"),
        ([{**DUMP[0], "role": "robot"}], "role is 'robot'; legal are system, user, assistant"),
        ([{**DUMP[1], "error": {"message": "x"}}], "ended in an error"),
        (DUMP[:1], "nothing to learn from"),
    ],
)
def test_a_broken_message_is_named_by_file_line_and_place(read, dump, reason):
    with pytest.raises(DataError, match=r"chat\.json:1: .*" + reason):
        read(dump, format="agentscope")


def test_a_row_without_messages_names_its_keys(read):
    with pytest.raises(DataError, match="no key 'messages' or 'context'; keys are 'a'"):
        read({"a": 1}, format="agentscope")


def test_text_that_a_dump_holds_as_a_string_is_read(read):
    dump = [{**DUMP[0], "content": "q"}, msg("assistant", block("text", text="a"))]
    (example,) = read(dump, format="agentscope").examples
    assert [m.text for m in example.messages] == ["q", "a"]


def test_words_after_a_call_without_a_result_are_a_turn_of_their_own(read):
    reply = msg("assistant", call("c1", "{}"), block("text", text="Never mind."))
    (example,) = read([DUMP[0], reply]).examples
    assert [bool(m.tool_calls) for m in example.messages] == [False, True, False]


def test_real_messages_of_an_installed_agentscope_are_read():
    message = pytest.importorskip("agentscope.message")
    reply = message.AssistantMsg(
        name="Friday",
        content=[
            message.ThinkingBlock(thinking="Hm."),
            message.ToolCallBlock(id="c1", name="f", input='{"a": 1}'),
            message.ToolResultBlock(id="c1", name="f", output="2", state="success"),
            message.TextBlock(text="Two."),
        ],
    )
    dump = [message.UserMsg(name="u", content="q").model_dump(mode="json")]
    dump.append(reply.model_dump(mode="json"))
    from agent_finetune.records import Row
    from agentscope_finetune.records import is_agentscope

    row = Row(source="f:1", data={"messages": dump})
    assert is_agentscope([row])
    roles = [m.role for m in read_row(row).messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
