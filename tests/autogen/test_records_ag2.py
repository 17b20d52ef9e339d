"""Histories that AG2 1.x writes, and what its agent saw and said in them."""

import asyncio
import json

import pytest
from autogen_hosts import ag2

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import Message, ToolCall


def of(name, /, **fields):
    return {"__event__": f"ag2.events.{name}", "created_at": 1.0, **fields}


def logged(name, /, **fields):
    return {"type": f"ag2.events.{name}", "data": {"created_at": 1.0, **fields}}


def text(content):
    return of("input_events.TextInput", metadata={}, content=content)


def request(*parts):
    return logged("input_events.ModelRequest", parts=list(parts))


def response(content=None, *calls, forced=False, **metadata):
    message = None if content is None else of("types.ModelMessage", content=content)
    if message is not None:
        message["metadata"] = metadata
    held = of("tool_events.ToolCallsEvent", calls=list(calls))
    return logged("types.ModelResponse", message=message, tool_calls=held, response_force=forced)


def result(*parts, call="c1", name="weather"):
    held = {"__dataclass__": "ag2.events.tool_events.ToolResult", "data": {"parts": list(parts)}}
    return of("tool_events.ToolResultEvent", parent_id=call, name=name, result=held)


def loose(event):
    return {"type": event["__event__"], "data": event}


CALL = of("tool_events.ToolCallEvent", id="c1", name="weather", arguments='{"city": "Paris"}')
HISTORY = [
    request(text("Weather?")),
    response(None, CALL),
    logged("tool_events.ToolCallsEvent", calls=[CALL]),
    loose(CALL),
    loose(result(text("18C"))),
    logged("tool_events.ToolResultsEvent", results=[result(text("18C"))]),
    response("It is warm.", thinking="Hm."),
    logged("types.UsageEvent", usage={}),
]
TURNS = (
    Message(role="user", text="Weather?"),
    Message(
        role="assistant",
        tool_calls=(ToolCall(name="weather", arguments={"city": "Paris"}, id="c1"),),
    ),
    Message(role="tool", text="18C", name="weather", tool_call_id="c1"),
    Message(role="assistant", text="It is warm.", thinking="Hm."),
)


@pytest.fixture
def read(tmp_path):
    def read(events, name="history.jsonl", **options):
        path = tmp_path / name
        lines = name.endswith(".jsonl") and isinstance(events, list)
        path.write_text("\n".join(map(json.dumps, events)) if lines else json.dumps(events))
        return readers.read(str(path), settings=Settings(), **options)

    return read


def roles(example):
    return [(m.role, m.text) for m in example.messages]


def test_a_log_of_events_is_one_conversation(read):
    result = read(HISTORY)
    assert result.format == "autogen"
    (example,) = result.examples
    assert example.messages == TURNS


@pytest.mark.parametrize("name", ["history.json", "history.jsonl"])
def test_system_message_and_tools_may_stand_beside_the_events(read, name):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    row = {"events": HISTORY, "system_message": "Be kind.", "tools": [tool], "id": "first"}
    (example,) = read(row, name).examples
    assert example.messages == (Message(role="system", text="Be kind."), *TURNS)
    assert (example.tools, example.id) == ((tool,), "first")


def test_a_system_message_alone_is_not_lost_in_a_json_file(read):
    (example,) = read({"events": HISTORY, "system_message": "Be kind."}, "history.json").examples
    assert example.messages[0].text == "Be kind."


def test_events_as_redis_keeps_them_are_read(read):
    events = [{"__event__": event["type"], **event["data"]} for event in HISTORY]
    assert read(events).examples[0].messages == TURNS


def test_a_folder_of_logs_is_a_conversation_for_each(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, HISTORY)))
    result = readers.read(str(tmp_path), settings=Settings())
    assert [example.messages for example in result.examples] == [TURNS, TURNS]


def test_what_ag2_says_in_the_models_name_is_not_trained(read):
    history = [*HISTORY[:5], response("18C", forced=True), request(text("So?")), response("Warm.")]
    (example,) = read(history).examples
    assert roles(example)[1:] == [
        ("assistant", ""),
        ("tool", "18C"),
        ("assistant", "18C"),
        ("user", "So?"),
        ("assistant", "Warm."),
    ]
    assert [m.trained for m in example.messages if m.role == "assistant"] == [True, False, True]


def test_calls_that_are_handed_to_who_asked_are_not_said_twice(read):
    history = [*HISTORY[:2], response(None, CALL, forced=True), *HISTORY[5:]]
    assert read(history).examples[0].messages == TURNS


def test_a_summary_of_what_was_compacted_is_heard(read):
    summary = {
        "type": "ag2.compact.CompactionSummary",
        "data": {"summary": "Short.", "event_count": 2},
    }
    (example,) = read([summary, *HISTORY[5:7]]).examples
    assert roles(example)[0] == ("user", "[Summary of earlier conversation]\nShort.")


def test_data_is_written_as_json(read):
    data = of("input_events.DataInput", metadata={}, data={"city": "Köln"})
    assert roles(read([request(text("Where?"), data), HISTORY[6]]).examples[0])[0] == (
        "user",
        'Where?\n{"city":"Köln"}',
    )


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (request(of("input_events.BinaryInput", data={})), r"events\[0\] holds BinaryInput"),
        (logged("input_events.ModelRequest"), "not as AutoGen writes it: KeyError: 'parts'"),
    ],
)
def test_what_cannot_be_read_is_said_once_for_the_whole_history(read, event, reason):
    with pytest.raises(DataError, match=r"history\.jsonl:1: " + reason):
        read([event, *HISTORY])


def test_a_row_that_is_no_event_among_events_is_refused(read):
    with pytest.raises(DataError, match=r"jsonl:9: the rows before it are events; this is none"):
        read([*HISTORY, {"messages": []}])


def test_a_live_history_reads_as_its_model_saw_it(read):
    host = ag2()
    from ag2.events._serialization import qualified_name
    from ag2.testing import TestConfig
    from fast_depends.pydantic import PydanticSerializer

    from autogen_finetune.ag2.messages import to_dicts
    from autogen_finetune.oai import to_messages

    def weather(city: str) -> str:
        """The weather."""
        return f"18C in {city}"

    from ag2.events import ToolCallEvent

    called = ToolCallEvent(name="weather", arguments='{"city": "Paris"}', id="c1")
    config = TestConfig(called, "It is warm.")
    agent = host.Agent("helper", "Be kind.", config=config, tools=[weather])

    async def ask():
        reply = await agent.ask("Weather?")
        return list(await reply.history.get_events())

    events = asyncio.run(ask())
    (example,) = read(
        [{"type": qualified_name(event), "data": event.to_dict()} for event in events]
    ).examples
    assert list(example.messages) == to_messages(to_dicts(events, [], PydanticSerializer()))
    assert [m.role for m in example.messages] == ["user", "assistant", "tool", "assistant"]
