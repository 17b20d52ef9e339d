"""`MultiRoleAgent`: three roles behind one agent of the host, on a script."""

import asyncio
import json

import pytest
from agentscope.agent import Agent, ModelConfig, ReActConfig
from agentscope.event import (
    ModelCallStartEvent,
    ReplyEndEvent,
    ReplyStartEvent,
    UserConfirmResultEvent,
)
from agentscope.message import AssistantMsg, Msg
from agentscope.middleware import MiddlewareBase
from agentscope.state import AgentState
from agentscope.tool import ToolChoice, Toolkit
from agentscope.types import ReplyFinishedReason
from agentscope_models import scripted_model, user
from multi_role_agents import (
    ASK,
    CALL,
    CONCLUDE,
    GIVE_UP,
    adapter_folders,
    adder,
    asked_roles,
    call,
    said,
    team,
    write_manifest,
)
from openai_server import teacher

from agent_finetune.errors import ConfigError, ContextError
from agent_finetune.recordings import Recordings, Which
from agentscope_finetune import ConversationRecorder, MultiRoleAgent, RecordingChatModel
from agentscope_finetune.multi_role import voices

SUM = (f"I need the sum.\n{CALL}", call(), f"I have it.\n{CONCLUDE}", "It is 5.")


def run(work):
    return asyncio.run(work)


def say(agent, text="What is 2 + 3?"):
    return run(agent.reply(user(text)))


async def events_of(agent, text="What is 2 + 3?"):
    return [event async for event in agent.reply_stream(user(text), yield_final_msg=True)]


@pytest.mark.parametrize("stream", [True, False])
def test_planner_caller_and_summarizer_solve_a_request_with_a_real_tool(stream):
    agent = team(*SUM, stream=stream)
    reply = say(agent)
    assert isinstance(agent, Agent)
    assert (reply.name, reply.get_text_content()) == ("Friday", "It is 5.")
    assert reply.finished_reason == ReplyFinishedReason.COMPLETED
    assert asked_roles(agent) == ["planner", "caller", "planner", "summarizer"]
    assert said(agent) == [
        ("user", "What is 2 + 3?"),
        ("planner", f"I need the sum.\n{CALL}"),
        ("caller", '{"a": 2, "b": 3}'),
        ("caller's add", "5"),
        ("planner", f"I have it.\n{CONCLUDE}"),
        ("summarizer", "It is 5."),
    ]


def test_each_role_speaks_through_its_adapter_and_each_is_attached_once(tmp_path):
    folders = adapter_folders(tmp_path)
    agent = team(*SUM, *SUM, **folders)
    say(agent)
    say(agent, "And 2 + 3?")
    engine = agent.model.engine
    names = [request.adapter for request in engine.requests]
    order = ["planner", "caller", "planner", "summarizer"] * 2
    assert names == [str(folders[part].resolve()) for part in order]
    assert sorted(engine.attached) == sorted(
        (str(folder), folder) for folder in map(type(tmp_path).resolve, folders.values())
    )


def test_a_second_request_sees_the_first_as_the_roles_are_trained_to():
    agent = team(*SUM, f"Easy.\n{CONCLUDE}", "Still 5.")
    say(agent)
    say(agent, "Sure?")
    turns = [(m.role, m.text) for m in agent.model.engine.requests[4].messages[1:]]
    assert turns == [
        ("user", "What is 2 + 3?"),
        ("assistant", f"I need the sum.\n{CALL}"),
        ("tool", "5"),
        ("assistant", "It is 5."),
        ("user", "Sure?"),
    ]


def test_giving_up_is_a_message_that_says_so_and_why():
    agent = team(f"No function books flights.\n{GIVE_UP}", f"Fine.\n{CONCLUDE}", "Hello.")
    events = run(events_of(agent, "Book a flight."))
    reply = events[-1]
    assert isinstance(reply, Msg)
    assert reply.get_text_content() == "No function books flights.\nI give up."
    assert reply.metadata["gave_up"] is True
    assert asked_roles(agent) == ["planner"]
    assert "".join(e.delta for e in events if e.__class__.__name__ == "TextBlockDeltaEvent") == (
        reply.get_text_content()
    )
    say(agent, "Hello?")
    assert [m.text for m in agent.model.engine.requests[1].messages[2:]] == ["give up", "Hello?"]


def test_an_error_of_a_tool_goes_back_to_the_planner_as_a_result():
    agent = team(f"a\n{CALL}", call(a=13), f"b\n{CALL}", call(), f"c\n{CONCLUDE}", "It is 5.")
    assert say(agent).get_text_content() == "It is 5."
    result = agent.model.engine.requests[2].messages[-1]
    assert result.role == "tool"
    assert "13 is not a number I like" in result.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "words", ["I would rather talk about add.", "", '{"name": "add", "argum', call(name="subtract")]
)
def test_a_caller_that_writes_no_call_of_a_tool_is_an_error_for_the_planner(words, stream):
    agent = team(f"a\n{CALL}", words, f"b\n{CONCLUDE}", "I cannot say.", stream=stream)
    assert say(agent).get_text_content() == "I cannot say."
    assert asked_roles(agent) == ["planner", "caller", "planner", "summarizer"]
    (result,) = (b for m in agent.state.context for b in m.get_content_blocks("tool_result"))
    assert result.state == "error"


def test_a_plan_that_names_no_next_step_is_taken_to_conclude():
    agent = team("What a nice day.", "Hello.")
    assert say(agent).get_text_content() == "Hello."
    assert asked_roles(agent) == ["planner", "summarizer"]
    last = agent.model.engine.requests[1].messages[-1]
    assert last.text == f"planner: What a nice day.\n{CONCLUDE}"


def test_a_planner_that_calls_by_itself_has_called_nothing():
    agent = team(f"Like this.\n{CONCLUDE}\n{call()}", "Hello.")
    assert say(agent).get_text_content() == "Hello."
    assert "tool_call" not in {b.type for m in agent.state.context for b in m.content}


def test_a_reply_has_a_bounded_number_of_steps_and_then_the_summarizer_answers():
    sums = [words for a in range(3) for words in (f"again\n{CALL}", call(a))]
    agent = team(*sums, "It is what it is.", react_config=ReActConfig(max_iters=3))
    reply = say(agent)
    assert reply.get_text_content() == "It is what it is."
    assert reply.finished_reason == ReplyFinishedReason.EXCEED_MAX_ITERS
    assert asked_roles(agent) == ["planner", "caller"] * 3 + ["summarizer"]


def test_what_the_roles_stream_carries_their_names():
    events = run(events_of(team(*SUM)))
    starts = [e for e in events if isinstance(e, ModelCallStartEvent)]
    assert [e.metadata["speaker"] for e in starts] == [
        "planner", "caller", "planner", "summarizer",
    ]  # fmt: skip
    assert starts[0].model_name.endswith("(planner)")
    thoughts = "".join(e.delta for e in events if e.__class__.__name__ == "ThinkingBlockDeltaEvent")
    assert thoughts == f"I need the sum.\n{CALL}I have it.\n{CONCLUDE}"


def test_voices_are_replies_of_three_speakers():
    async def listen():
        return [event async for event in voices(team(*SUM).reply_stream(user("2 + 3?")))]

    heard = run(listen())
    names = [e.name for e in heard if isinstance(e, ReplyStartEvent)]
    assert names == ["planner", "caller", "planner", "summarizer"]
    built: dict[str, Msg] = {}
    for event in heard:
        if isinstance(event, ReplyStartEvent):
            built[event.reply_id] = AssistantMsg(name=event.name, content=[], id=event.reply_id)
        built[event.reply_id].append_event(event)
    texts = [m.get_text_content() for m in built.values()]
    assert texts == [f"I need the sum.\n{CALL}", None, f"I have it.\n{CONCLUDE}", "It is 5."]
    assert [b.type for b in list(built.values())[1].content] == ["tool_call", "tool_result"]
    assert sum(isinstance(e, ReplyEndEvent) for e in heard) == 4


def test_each_roles_exchange_is_recorded_under_its_name_with_its_exact_prompt(tmp_path):
    path = tmp_path / "sessions.sqlite"
    recorder = ConversationRecorder(path)
    agent = team(*SUM, middlewares=[recorder], **adapter_folders(tmp_path))
    reply = say(agent)
    run(recorder.flush())
    for role, count in (("planner", 2), ("caller", 1), ("summarizer", 1)):
        found = Recordings(path).list(Which(agent=f"Friday/{role}", reply=reply.id))
        assert len(found) == count
        adapter = str((tmp_path / role / "adapter").resolve())
        assert len(Recordings(path).list(Which(adapter=adapter))) == count
    asked = agent.model.engine.requests[1].messages
    (kept,) = Recordings(path).list(Which(agent="Friday/caller"))
    assert [m.text for m in kept.exchange.request.messages] == [m.text for m in asked]


def test_a_recorded_model_plays_the_roles_too(tmp_path):
    path = tmp_path / "sessions.sqlite"
    agent = team(*SUM)
    agent.model = RecordingChatModel(agent.model, path, agent="Friday")
    assert say(agent).get_text_content() == "It is 5."
    run(agent.model.flush())
    names = [found.agent for found in Recordings(path).list()]
    assert sorted(names) == [
        "Friday/caller",
        "Friday/planner",
        "Friday/planner",
        "Friday/summarizer",
    ]


def test_a_user_is_asked_for_permission_and_another_process_goes_on():
    agent = team(*SUM[:2], toolkit=adder(ASK))
    say(agent)
    stored = json.loads(json.dumps(agent.state.model_dump(mode="json")))
    other = team(*SUM[2:], toolkit=adder(ASK), state=AgentState.model_validate(stored))
    (asked,) = other.state.context[-1].get_content_blocks("tool_call")
    edited = asked.model_copy(update={"input": '{"a": 4, "b": 3}'})
    answer = UserConfirmResultEvent(
        reply_id=other.state.reply_id,
        confirm_results=[{"confirmed": True, "tool_call": edited}],
    )
    run(other.reply(answer))
    assert other.model.engine.requests[0].messages[-1].text == "7"
    assert asked_roles(other) == ["planner", "summarizer"]


def test_an_interrupted_role_ends_the_reply_and_its_plan_is_no_turn_later():
    agent = team("A long thought.\n" * 50 + CALL, f"Hm.\n{CONCLUDE}", "Hello.")

    async def interrupt():
        task = asyncio.ensure_future(agent.reply(user("2 + 3?")))
        while not agent.model.engine.requests:
            await asyncio.sleep(0)
        task.cancel()
        return await task

    reply = run(interrupt())
    assert reply.finished_reason == ReplyFinishedReason.INTERRUPTED
    assert asked_roles(agent) == ["planner"]
    say(agent, "Hello?")
    last = agent.model.engine.requests[1].messages
    assert [(m.role, m.text) for m in last[1:]] == [("user", "2 + 3?"), ("user", "Hello?")]


def test_other_agents_of_a_pipeline_are_heard_by_name():
    agent = team(f"He asks for a sum.\n{CALL}", *SUM[1:])
    run(agent.observe(AssistantMsg(name="Bob", content="We need 2 + 3.")))
    say(agent, "Please.")
    first = agent.model.engine.requests[0]
    assert [(m.role, m.text) for m in first.messages[1:]] == [
        ("user", "Bob: We need 2 + 3."),
        ("user", "Please."),
    ]


def test_the_hosts_own_middlewares_see_one_step_where_two_roles_speak():
    seen = []

    class Counts(MiddlewareBase):
        async def on_reasoning(self, agent, input_kwargs, next_handler):
            seen.append("step")
            async for item in next_handler(**input_kwargs):
                yield item

        async def on_model_call(self, agent, input_kwargs, next_handler):
            seen.append(input_kwargs["current_model"].part.value)
            return await next_handler(**input_kwargs)

    say(team(*SUM, middlewares=[Counts()]))
    assert seen == ["step", "planner", "caller", "step", "planner", "summarizer"]


def test_a_call_that_the_host_demands_is_the_callers():
    class Demands(MiddlewareBase):
        done = False

        async def on_reasoning(self, agent, input_kwargs, next_handler):
            choice = input_kwargs["tool_choice"] if self.done else ToolChoice(mode="add")
            self.done = True
            async for item in next_handler(tool_choice=choice):
                yield item

    agent = team(call(), *SUM[2:], middlewares=[Demands()])
    assert say(agent).get_text_content() == "It is 5."
    assert asked_roles(agent) == ["caller", "planner", "summarizer"]
    assert agent.model.engine.requests[0].tool_choice == "add"


def test_a_caller_can_be_held_to_a_call():
    agent = team(*SUM, force_call=True)
    say(agent)
    choices = [request.tool_choice for request in agent.model.engine.requests]
    assert choices == ["auto", "required", "auto", "auto"]


def test_without_tools_there_is_a_plan_and_an_answer():
    agent = team(f"Nothing to call.\n{CONCLUDE}", "Hello.", toolkit=Toolkit(), force_call=True)
    assert say(agent).get_text_content() == "Hello."


def test_a_fallback_of_another_provider_does_whole_steps():
    with teacher("Hello from afar.") as told:
        spare = told.model(stream=True)
        agent = team(
            ContextError("too long"), model_config=ModelConfig(fallback_model=spare, max_retries=0)
        )
        assert say(agent).get_text_content() == "Hello from afar."


def test_a_folder_of_trained_roles_is_a_model(tmp_path):
    adapter_folders(tmp_path)
    write_manifest(tmp_path, held={"quantization": "4bit"})
    agent = MultiRoleAgent.from_folder(tmp_path, "Friday", held={"dtype": "float32"})
    config = agent.model.model_config
    assert (config.model, config.quantization, config.dtype) == ("some/model", "4bit", "float32")
    other = MultiRoleAgent("Friday", "", tmp_path / "roles.json")
    assert other.adapters == agent.adapters
    assert set(agent.adapters) == {"planner", "caller", "summarizer"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layout": "single", "parts": {"backbone": "backbone/adapter"}}, "needs planner, caller"),
        ({"method": "full"}, "trained with method 'full'"),
        ({"parts": dict.fromkeys(("planner", "caller", "summarizer"), "gone")}, "no adapter in"),
    ],
)
def test_a_folder_without_three_adapters_on_one_model_is_refused(tmp_path, changes, told):
    adapter_folders(tmp_path)
    write_manifest(tmp_path, **changes)
    with pytest.raises(ConfigError, match=told):
        MultiRoleAgent("Friday", "", tmp_path)


def test_a_models_own_code_is_not_run_because_a_folder_says_so(tmp_path):
    adapter_folders(tmp_path)
    write_manifest(tmp_path, held={"trust_remote_code": True})
    assert not MultiRoleAgent.from_folder(tmp_path).model.model_config.trust_remote_code


def test_what_cannot_be_is_refused_when_the_agent_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"roles\.json"):
        MultiRoleAgent("Friday", "", tmp_path)
    with pytest.raises(ConfigError, match="is given too"):
        MultiRoleAgent("Friday", "", tmp_path, planner=tmp_path)
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        MultiRoleAgent("Friday", "", scripted_model("x"), planner=tmp_path)
    adapter_folders(tmp_path)
    write_manifest(tmp_path)
    with pytest.raises(ConfigError, match="legal are device"):
        MultiRoleAgent.from_folder(tmp_path, held={"colour": "red"})
    with teacher("x") as told, pytest.raises(ConfigError, match="OpenAIChatModel"):
        MultiRoleAgent("Friday", "", told.model(stream=True))
