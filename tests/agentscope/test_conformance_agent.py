"""What AgentScope's own tests ask of a provider, asked of ours: its agents live on this model.

The host's tests are not in its wheel; these are derived from what its code does.
"""

import asyncio
import builtins
import json
from typing import Literal

import pytest
from agentscope.agent import Agent, ContextConfig, InjectionConfig, ModelConfig, ReActConfig
from agentscope.console import launch_console
from agentscope.event import UserConfirmResultEvent
from agentscope.message import ToolCallBlock, ToolResultBlock
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.state import AgentState
from agentscope.tool import FunctionTool, Toolkit
from agentscope_models import Cut, chat_model, scripted_model, user
from pydantic import BaseModel
from talkative import save_talkative_model

from agent_finetune.errors import ContextError
from agentscope_finetune.formatter import TransformersMultiAgentFormatter

ALLOWED = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("talkative"))


@pytest.fixture
def asked():
    """What the tools were called with."""
    return []


@pytest.fixture
def toolkit(asked):
    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        """The weather in a city.

        Args:
            city: Which city.
        """
        asked.append(city)
        return {"Paris": "sunny", "Rome": "rain"}[city]

    return Toolkit(tools=[FunctionTool(get_weather, permission=ALLOWED)])


def run(work):
    return asyncio.run(work)


def made(model, toolkit=None, **options):
    options.setdefault("injection_config", InjectionConfig(inject_runtime_state=False))
    return Agent(name="friend", system_prompt="Be kind.", model=model, toolkit=toolkit, **options)


def called(city, raw=None):
    arguments = raw if raw is not None else json.dumps({"city": city})
    return f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'


def results(agent):
    return [
        block
        for msg in agent.state.context
        for block in msg.get_content_blocks()
        if isinstance(block, ToolResultBlock)
    ]


def shown(request):
    return [(message.role, message.text) for message in request.messages]


@pytest.mark.parametrize("stream", [True, False])
def test_an_agent_calls_a_python_function_and_answers_with_its_result(toolkit, asked, stream):
    model = scripted_model(called("Paris"), "It is sunny.", stream=stream)
    agent = made(model, toolkit)
    reply = run(agent.reply(user("Weather in Paris?")))
    assert reply.get_text_content() == "It is sunny."
    assert asked == ["Paris"]
    first, second = model.engine.requests
    assert [tool["function"]["name"] for tool in first.tools] == ["get_weather"]
    assert shown(first) == [("system", "Be kind."), ("user", "Weather in Paris?")]
    assert shown(second)[2:] == [("assistant", ""), ("tool", "sunny")]
    assert second.messages[2].tool_calls[0].arguments == {"city": "Paris"}
    assert second.messages[2].tool_calls[0].id == second.messages[3].tool_call_id


def test_several_calls_of_one_turn_are_all_made_and_each_has_its_own_result(toolkit, asked):
    model = scripted_model(f"{called('Paris')}\n{called('Rome')}", "Done.")
    agent = made(model, toolkit)
    run(agent.reply(user("Weather?")))
    assert sorted(asked) == ["Paris", "Rome"]
    turn, *tools = model.engine.requests[-1].messages[2:]
    outputs = {message.tool_call_id: message.text for message in tools}
    cities = {call.id: call.arguments["city"] for call in turn.tool_calls}
    assert {cities[id]: text for id, text in outputs.items()} == {"Paris": "sunny", "Rome": "rain"}


def test_the_same_call_in_a_later_turn_is_made_again(toolkit, asked):
    model = scripted_model(called("Paris"), called("Paris"), "Done.")
    run(made(model, toolkit).reply(user("Weather, twice?")))
    assert asked == ["Paris", "Paris"]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (called("", raw='{"city": "Oslo"}'), "is not one of"),
        (called("", raw='["Paris"]'), "dict"),
        ('<tool_call>\n{"name": "get_stocks", "arguments": {}}\n</tool_call>', "get_stocks"),
        (Cut(called("Paris")[:-18]), "cut off after"),
    ],
    ids=["wrong value", "no object", "no such tool", "cut off"],
)
def test_a_call_that_is_wrong_is_not_made_and_the_model_hears_why(toolkit, asked, said, hint):
    model = scripted_model(said, called("Rome"), "Rain.")
    agent = made(model, toolkit)
    assert run(agent.reply(user("Weather?"))).get_text_content() == "Rain."
    assert asked == ["Rome"]
    assert [result.state for result in results(agent)] == ["error", "success"]
    assert hint in model.engine.requests[1].messages[-1].text


def test_a_call_that_nearly_parses_is_repaired_and_made(toolkit, asked):
    model = scripted_model(called("", raw='{"city": Paris}'), "Sunny.")
    run(made(model, toolkit).reply(user("Weather?")))
    assert asked == ["Paris"]


def test_a_call_that_needs_consent_waits_for_the_user_who_may_change_it(asked):
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    model = scripted_model(called("Paris"), "Done.")
    agent = made(model, Toolkit(tools=[FunctionTool(get_weather)]))

    async def talk():
        events = [event async for event in agent.reply_stream(user("Weather?"))]
        (pending,) = [event for event in events if event.type == "REQUIRE_USER_CONFIRM"]
        (call,) = pending.tool_calls
        call.input = '{"city": "Rome"}'
        answer = {"confirmed": True, "tool_call": call}
        confirmed = UserConfirmResultEvent(reply_id=pending.reply_id, confirm_results=[answer])
        return await agent.reply(confirmed)

    assert run(talk()).get_text_content() == "Done."
    assert asked == ["Rome"]


def test_events_of_a_reply_come_in_order_and_deltas_add_up():
    said = f"<think>\nHm.\n</think>\n\nOne moment.\n{called('Paris')}"
    agent = made(scripted_model(said, "It is sunny."))

    async def events():
        return [event async for event in agent.reply_stream(user("Weather?"))]

    came = run(events())
    kinds = [event.type for event in came]
    assert kinds[0] == "REPLY_START"
    assert kinds[-1] == "REPLY_END"
    places = [
        kinds.index(f"{name}_START")
        for name in ("MODEL_CALL", "THINKING_BLOCK", "TEXT_BLOCK", "TOOL_CALL", "TOOL_RESULT")
    ]
    assert places == sorted(places)
    words = "".join(event.delta for event in came if event.type == "TEXT_BLOCK_DELTA")
    assert words == "One moment.It is sunny."
    ends = [event for event in came if event.type == "MODEL_CALL_END"]
    assert all(event.input_tokens > 0 and event.output_tokens > 0 for event in ends)


class Trip(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int


def test_a_structured_reply_is_made_by_the_agents_own_tool():
    said = (
        '<tool_call>\n{"name": "GenerateStructuredOutput", "arguments": '
        '{"city": "Rome", "days": 2}}\n</tool_call>'
    )
    reply = run(made(scripted_model(said)).reply(user("Where?"), structured_schema=Trip))
    assert reply.structured_output == {"city": "Rome", "days": 2}


def test_a_structured_reply_is_forced_where_the_model_never_calls_for_it(folder):
    agent = made(chat_model(folder, max_tokens=100), react_config=ReActConfig(max_iters=1))
    reply = run(agent.reply(user("Where?"), structured_schema=Trip))
    assert Trip.model_validate(reply.structured_output)


def test_a_conversation_goes_on_with_a_new_agent_and_model_on_the_stored_state():
    first = made(scripted_model("Hello Ada."))
    run(first.reply(user("I am Ada.")))
    stored = json.loads(json.dumps(first.state.model_dump(mode="json")))
    model = scripted_model("Ada.")
    second = made(model, state=AgentState.model_validate(stored))
    run(second.reply(user("Who am I?")))
    assert shown(model.engine.requests[0])[1:] == [
        ("user", "I am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
    ]


def test_agents_hear_each_other_by_name():
    model = scripted_model("Hello all.", formatter=TransformersMultiAgentFormatter())
    agent = made(model)

    async def talk():
        await agent.observe([user("hi", name="Ada"), user("hey", name="Bob")])
        return await agent.reply(user("and you?", name="Ada"))

    run(talk())
    (heard,) = model.engine.requests[0].messages[1:]
    assert "Ada: hi\nBob: hey\nAda: and you?" in heard.text


def test_a_fallback_model_answers_what_the_first_one_cannot():
    spare = scripted_model("I can.")
    agent = made(
        scripted_model(ContextError("too long")),
        model_config=ModelConfig(fallback_model=spare, max_retries=1),
    )
    reply = run(agent.reply(user("hello")))
    assert reply.get_text_content() == "I can."
    assert len(agent.model.engine.requests) == 2


def test_a_message_longer_than_the_context_is_cut_by_the_host_and_answered(folder):
    """The host cuts by our count: had it been an estimate, the call would have failed."""
    agent = made(chat_model(folder))
    assert run(agent.reply(user("word " * 5000))).get_text_content()


def test_a_long_conversation_is_compressed_before_it_is_too_long(folder):
    """By exact counts, on a summary whose schema a model that knows nothing is held to."""
    model = chat_model(folder, max_tokens=200, context_size=1500)
    agent = made(
        model,
        context_config=ContextConfig(
            summary_schema={
                "type": "object",
                "properties": {"summary": {"type": "string", "maxLength": 8}},
                "required": ["summary"],
            },
            summary_template="Before: {summary}",
        ),
    )

    async def talk():
        for _ in range(6):
            await agent.reply(user("word " * 60))
        return await model.count_tokens(agent.state.context, None)

    left = run(talk())
    assert agent.state.summary
    assert left < 1500 * 0.8


def test_an_agent_whose_model_is_swapped_between_replies_speaks_with_the_new_one():
    agent = made(scripted_model("One."))
    assert run(agent.reply(user("a"))).get_text_content() == "One."
    agent.model = scripted_model("Two.")
    assert run(agent.reply(user("b"))).get_text_content() == "Two."


def test_the_console_shows_what_the_agent_streams(toolkit, monkeypatch, capsys):
    lines = iter(["Weather in Paris?", "exit"])
    monkeypatch.setattr(builtins, "input", lambda prompt="": next(lines))
    agent = made(scripted_model(called("Paris"), "It is sunny."), toolkit)
    run(launch_console(agent))
    out = capsys.readouterr().out
    assert "get_weather" in out
    assert "It is sunny." in out


def test_a_call_is_a_block_of_the_hosts_own(toolkit):
    agent = made(scripted_model(called("Paris"), "Done."), toolkit)
    run(agent.reply(user("Weather?")))
    blocks = agent.state.context[-1].get_content_blocks("tool_call")
    assert [type(block) for block in blocks] == [ToolCallBlock]
