"""Saved runs and states of AutoGen 0.4 and later, and what one agent saw and said in them."""

import asyncio
import json

import pytest
from autogen_hosts import agentchat

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import Message, ToolCall

USAGE = {"prompt_tokens": 1, "completion_tokens": 1}
CALL = {"id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'}
RESULT = {"content": "18C", "name": "weather", "call_id": "c1", "is_error": False}


def said(source, content, kind="TextMessage", usage=None, **more):
    return {"type": kind, "source": source, "content": content, "models_usage": usage, **more}


RUN = [
    said("user", "Weather?"),
    said("writer", "Let me look.", "ThoughtEvent"),
    said("writer", [CALL], "ToolCallRequestEvent", USAGE),
    said("writer", [RESULT], "ToolCallExecutionEvent"),
    said("writer", "18C", "ToolCallSummaryMessage", tool_calls=[CALL], results=[RESULT]),
    said("critic", "Say more.", usage=USAGE),
    said("writer", "It is warm.", usage=USAGE),
]
WRITER = (
    Message(role="user", text="Weather?", name="user"),
    Message(
        role="assistant",
        name="writer",
        text="Let me look.",
        tool_calls=(ToolCall(name="weather", arguments={"city": "Paris"}, id="c1"),),
    ),
    Message(role="tool", text="18C", name="weather", tool_call_id="c1"),
    Message(role="user", text="critic: Say more.", name="critic"),
    Message(role="assistant", text="It is warm.", name="writer"),
)
CONTEXT = [
    {"type": "UserMessage", "source": "user", "content": "Weather?"},
    {"type": "AssistantMessage", "source": "planner", "content": "Ask the writer."},
    {"type": "AssistantMessage", "source": "writer", "content": [CALL], "thought": "Let me look."},
    {"type": "FunctionExecutionResultMessage", "content": [RESULT]},
    {"type": "AssistantMessage", "source": "writer", "content": "It is warm.", "thought": "Hm."},
]


def agent_state(messages):
    return {
        "type": "AssistantAgentState",
        "version": "1.0.0",
        "llm_context": {"messages": messages},
    }


def team_state(**agents):
    held = {
        name: {"type": "ChatAgentContainerState", "agent_state": state, "message_buffer": []}
        for name, state in agents.items()
    }
    manager = {"type": "RoundRobinManagerState", "message_thread": RUN, "current_turn": 1}
    return {"type": "TeamState", "agent_states": {**held, "RoundRobinGroupChatManager": manager}}


@pytest.fixture
def read(tmp_path):
    def read(document, name="run.json", **options):
        path = tmp_path / name
        path.write_text(json.dumps(document))
        return readers.read(str(path), settings=Settings(), **options)

    return read


@pytest.mark.parametrize("name", ["run.json", "run.jsonl"])
def test_a_task_result_is_an_example_for_each_agent_that_a_model_answered_for(read, name):
    result = read({"messages": RUN, "stop_reason": "done"}, name)
    assert result.format == "autogen"
    assert [example.id for example in result.examples] == ["writer", "critic"]
    assert result.examples[0].messages == WRITER
    assert [(m.role, m.text) for m in result.examples[1].messages] == [
        ("user", "Weather?"),
        ("user", "writer: 18C"),
        ("assistant", "Say more."),
        ("user", "writer: It is warm."),
    ]


def test_one_agent_may_be_meant(read):
    (example,) = read({"messages": RUN, "agent": "writer"}, "run.jsonl").examples
    assert example.messages == WRITER


def test_an_agent_that_no_model_answered_for_cannot_be_meant(read):
    with pytest.raises(DataError, match=r"agent is 'user'; a model answered for 'writer', 'crit"):
        read({"messages": RUN, "agent": "user"})


@pytest.mark.parametrize("name", ["run.json", "run.jsonl"])
def test_system_message_and_tools_stand_beside_it_for_all_or_by_agent(read, name):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    row = {"messages": RUN, "system_message": "Be kind.", "tools": {"writer": [tool]}}
    writer, critic = read(row, name).examples
    assert writer.messages[0] == critic.messages[0] == Message(role="system", text="Be kind.")
    assert (writer.tools, critic.tools) == ((tool,), ())


def test_a_bare_list_of_a_runs_messages_is_one_run(read):
    assert read(RUN).examples[0].messages == WRITER


def test_messages_that_no_model_made_are_not_trained(read):
    canned = [said("user", "Hi."), said("robot", "Beep."), said("writer", "Hello.", usage=USAGE)]
    (example,) = read(canned).examples
    assert [m.role for m in example.messages] == ["user", "user", "assistant"]


def test_an_answer_to_what_an_earlier_run_holds_is_context_only(read):
    (example,) = read([RUN[6], RUN[0], RUN[6]]).examples
    assert [m.trained for m in example.messages] == [False, True, True]


def test_a_run_without_a_model_is_refused(read):
    with pytest.raises(DataError, match="no model answered in this run"):
        read([said("user", "Hi."), said("robot", "Beep.")])


def test_an_agent_that_runs_code_is_refused_and_not_learned_from_in_part(read):
    code = said("writer", "```python```", "CodeGenerationEvent")
    with pytest.raises(DataError, match=r"messages\[1\]: agent 'writer' ran code"):
        read([RUN[0], code, RUN[6]])


def test_who_takes_over_has_heard_what_was_handed_over(read):
    handed = said("planner", "Take over.", "HandoffMessage", target="writer", context=CONTEXT[1:4])
    (example,) = read([RUN[0], handed, RUN[6]]).examples
    assert [(m.role, m.trained) for m in example.messages] == [
        ("user", True),
        ("assistant", False),
        ("assistant", True),
        ("tool", True),
        ("user", True),
        ("assistant", True),
    ]


def test_objects_and_images_are_words(read):
    asked = said("user", ["Look:", {"data": "iVBOR"}], "MultiModalMessage")
    answer = said("writer", {"name": "Ada", "age": 3}, "StructuredMessage[Person]", USAGE)
    (example,) = read([asked, answer]).examples
    assert [m.text for m in example.messages] == ["Look:\n<image>", '{"name": "Ada", "age": 3}']


def test_a_teams_state_is_an_example_for_each_agent(read):
    state = team_state(writer=agent_state(CONTEXT), silent=agent_state(CONTEXT[:1]))
    (example,) = read({**state, "system_message": {"writer": "Be kind."}}).examples
    assert example.id == "writer"
    system, user, planner, call, result, answer = example.messages
    assert (system.text, user.text) == ("Be kind.", "Weather?")
    assert (planner.text, planner.trained) == ("Ask the writer.", False)
    assert (call.text, call.tool_calls[0].name, result.text) == ("Let me look.", "weather", "18C")
    assert (answer.text, answer.thinking, answer.trained) == ("It is warm.", "Hm.", True)


def test_a_team_in_a_team_is_read_too(read):
    inner = team_state(writer=agent_state(CONTEXT))
    (example,) = read(team_state(society=inner)).examples
    assert example.id == "writer"


def test_an_agents_state_is_its_own_words(read):
    (example,) = read(agent_state(CONTEXT)).examples
    assert [m.trained for m in example.messages if m.role == "assistant"] == [True, True, True]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"type": "Note", "content": "x"}, r"messages\[0\]: type is 'Note'"),
        ({**CONTEXT[0], "content": [{"data": "iV"}]}, r"messages\[0\] holds an image"),
        ({**CONTEXT[0], "content": 3}, r"messages\[0\]: content is 3; expected a text"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_place(read, message, reason):
    with pytest.raises(DataError, match=r"run\.json:1: " + reason):
        read(agent_state([message, *CONTEXT]))


def test_a_file_of_messages_with_a_broken_line_is_not_read_around_it(tmp_path):
    path = tmp_path / "run.jsonl"
    lines = [json.dumps(message) for message in RUN]
    path.write_text("\n".join([*lines[:2], "{broken", *lines[2:]]))
    with pytest.raises(DataError, match=r"run\.jsonl:3"):
        readers.read(str(path), settings=Settings())


def live_run():
    """A team of two on scripted models, one with a tool: its result and its state, as saved."""
    agentchat()
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.teams import RoundRobinGroupChat
    from scripted_engine import ScriptedEngine

    from agent_finetune.config import ModelConfig
    from autogen_finetune.agentchat import HFChatCompletionClient
    from autogen_finetune.live import LiveModel

    def client(*answers):
        live = LiveModel(ModelConfig(model="script"), engine=ScriptedEngine(*answers))
        return HFChatCompletionClient("script", live=live)

    def weather(city: str) -> str:
        """The weather."""
        return f"18C in {city}"

    call = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
    writer = AssistantAgent("writer", client(call, "It is warm."), tools=[weather])
    team = RoundRobinGroupChat([writer, AssistantAgent("critic", client("Good."))], max_turns=3)

    async def run():
        return await team.run(task="Weather?"), await team.save_state()

    return asyncio.run(run())


def test_a_live_run_and_its_state_read_as_the_agents_saw_them(read):
    result, state = live_run()
    from autogen_finetune.agentchat.messages import heard
    from autogen_finetune.oai import to_messages

    run = {e.id: e.messages for e in read(result.model_dump(mode="json")).examples}
    states = {e.id: e.messages for e in read(state, "state.json").examples}
    assert run.keys() == states.keys() == {"writer", "critic"}
    for name in run:
        assert list(run[name]) == to_messages(heard(result.messages, name))
        seen = states[name]  # what came last waits in a buffer
        assert seen == run[name][: len(seen)]
        assert len(seen) >= len(run[name]) - 1
