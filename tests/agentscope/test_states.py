"""States of real agents, as programs and the agent service store them, read as conversations."""

import asyncio
import json
import sqlite3

import pytest
from agentscope.agent import Agent
from agentscope.app.storage import (
    AgentData,
    AgentRecord,
    AsyncSQLAlchemyStorage,
    SessionConfig,
)
from agentscope.event import ConfirmResult, RequireUserConfirmEvent, UserConfirmResultEvent
from agentscope.message import UserMsg
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.state import AgentState
from agentscope.tool import FunctionTool, Toolkit
from openai_server import teacher

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError

ALLOWED = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="fine")


def look(city: str) -> str:
    """Look at the weather.

    Args:
        city: Where.
    """
    if city == "Nowhere":
        raise ValueError("no such city")
    return f"It is warm in {city}."


def leave(city: str) -> str:
    """Leave.

    Args:
        city: Where.
    """
    return "left"


def live(answers, *, denies=False, name="Friday"):
    """A state after one question, in JSON, of an agent with real tools."""
    with teacher(*answers) as server:
        agent = Agent(
            name=name,
            system_prompt="Be brief.",
            model=server.model(stream=True),
            toolkit=Toolkit(tools=[FunctionTool(look, permission=ALLOWED), FunctionTool(leave)]),
        )

        async def talk():
            asked = UserMsg(name="user", content="Weather?")
            events = [event async for event in agent.reply_stream(asked)]
            for event in events:
                if denies and isinstance(event, RequireUserConfirmEvent):
                    results = [
                        ConfirmResult(confirmed=False, tool_call=c) for c in event.tool_calls
                    ]
                    await agent.reply(
                        UserConfirmResultEvent(reply_id=event.reply_id, confirm_results=results)
                    )

        asyncio.run(talk())
        schemas = asyncio.run(agent.toolkit.get_tool_schemas())
        asked = server.asked
    state = agent.state.model_dump(mode="json")
    return json.loads(json.dumps(state)), schemas, asked


def read(tmp_path, document, name="state.json"):
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return readers.read(str(path), settings=Settings()).examples


def call(name, city, id="c1"):
    return [(id, name, json.dumps({"city": city}))]


def test_the_state_of_a_tool_loop_is_what_the_model_saw_and_said(tmp_path):
    state, tools, asked = live([call("look", "Rome"), "Warm."])
    (example,) = read(tmp_path, {**state, "system_prompt": "Be brief.", "tools": tools})
    roles = [m.role for m in example.messages]
    assert roles == ["system", "user", "user", "assistant", "tool", "assistant"]
    assert example.messages[2].text.startswith("<system-reminder>")  # a hint: the time of day
    assert example.messages[-1].text == "Warm."
    seen = [m["role"] for m in asked[-1]["messages"]]
    assert roles[:-1] == seen
    assert all(m.trained for m in example.messages)
    assert example.tool_names == ("look", "leave")


def test_a_call_that_was_denied_is_context_and_what_followed_is_trained(tmp_path):
    state, *_ = live([call("leave", "Rome"), "Then I stay."], denies=True)
    (example,) = read(tmp_path, state)
    said = [(m.text, m.trained) for m in example.messages if m.role == "assistant"]
    assert said == [("", False), ("Then I stay.", True)]
    assert "denied by user" in next(m.text for m in example.messages if m.role == "tool")


@pytest.mark.parametrize(
    "bad", [call("look", "Nowhere"), call("jump", "Rome"), [("c1", "look", '{"city": 5')]]
)
def test_a_call_that_failed_is_context(tmp_path, bad):
    state, *_ = live([bad, call("look", "Rome", "c2"), "Warm."])
    (example,) = read(tmp_path, state)
    said = [m.trained for m in example.messages if m.role == "assistant"]
    assert said == [False, True, True]


def test_a_call_that_still_waits_is_context(tmp_path):
    state, *_ = live([call("leave", "Rome")])
    path = tmp_path / "state.json"
    path.write_text(json.dumps(state))
    (example,) = readers.read(str(path), settings=Settings()).examples
    assert [m.trained for m in example.messages if m.role == "assistant"] == [False]


def test_the_end_of_an_interrupted_reply_is_context(tmp_path):
    state, *_ = live(["Warm, and"])
    state["context"][-1]["finished_reason"] = "interrupted"
    (example,) = read(tmp_path, state)
    assert [m.trained for m in example.messages if m.role == "assistant"] == [False]


def test_what_other_agents_said_is_context(tmp_path):
    state, *_ = live(["Warm."])
    other = {**state["context"][-1], "name": "Saturday", "id": "other"}
    context = [state["context"][0], other, state["context"][-1]]
    (example,) = read(tmp_path, {**state, "context": context, "agent": "Friday"})
    assert [m.trained for m in example.messages if m.role == "assistant"] == [False, True]


def test_states_in_lines_are_one_conversation_each(tmp_path):
    states = [live([text])[0] for text in ("Warm.", "Cold.")]
    path = tmp_path / "states.jsonl"
    path.write_text("".join(json.dumps(state) + "\n" for state in states))
    examples = readers.read(str(path), settings=Settings()).examples
    assert [e.messages[-1].text for e in examples] == ["Warm.", "Cold."]


def test_a_summary_comes_first(tmp_path):
    state, *_ = live(["Warm."])
    blocks = [{"type": "text", "text": "We met.", "id": "t"}]
    for summary in ("We met.", blocks):
        (example,) = read(tmp_path, {**state, "summary": summary})
        assert (example.messages[0].role, example.messages[0].text) == ("user", "We met.")


@pytest.fixture
def service(tmp_path):
    """The database of an agent service with four sessions of two agents."""
    path = tmp_path / "service.db"
    states = [
        live([call("look", "Rome"), "Warm."])[0],
        live([call("leave", "Rome")])[0],
        None,
        live(["Cold."], name="Saturday")[0],
    ]

    async def store():
        async with AsyncSQLAlchemyStorage(f"sqlite+aiosqlite:///{path}") as storage:
            ids = {}
            for name in ("Friday", "Saturday"):
                data = AgentData(name=name, system_prompt=f"You are {name}.")
                ids[name] = await storage.upsert_agent("jo", AgentRecord(user_id="jo", data=data))
            for state, name in zip(states, ["Friday", "Friday", "Friday", "Saturday"], strict=True):
                config = SessionConfig(workspace_id="w")
                kept = None if state is None else AgentState.model_validate(state)
                await storage.upsert_session("jo", ids[name], config, kept)

    asyncio.run(store())
    return path


def test_sessions_of_the_agent_service_are_read(service):
    result = readers.read(f"{service}#Friday", settings=Settings())
    (example,) = result.examples
    assert result.format == "agentscope"
    assert example.messages[0].text == "You are Friday."
    assert example.messages[-1].text == "Warm."
    assert result.left_out == {"nobody spoke": 1, "nothing went well": 1}
    both = readers.read(str(service), settings=Settings()).examples
    assert [e.messages[0].text for e in both] == ["You are Friday.", "You are Saturday."]
    with pytest.raises(DataError, match="no session of an agent 'Sunday'"):
        readers.read(f"{service}#Sunday", settings=Settings())


def test_a_database_of_others_is_not_taken_for_the_services(tmp_path):
    path = tmp_path / "notes.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sessions (id)")
    connection.close()
    with pytest.raises(Exception, match="a database of another program"):
        readers.read(str(path), settings=Settings())
