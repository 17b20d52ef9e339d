"""Agents and teams of AutoGen 0.4+ live on `HFChatCompletionClient`."""

import asyncio
import json
import threading
import time
from typing import Literal

import pytest
from agentchat_clients import CALL, asked, calling, freed, open_client, scripted
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.messages import (
    HandoffMessage,
    ModelClientStreamingChunkEvent,
    StructuredMessage,
    TextMessage,
    ThoughtEvent,
    ToolCallExecutionEvent,
    ToolCallSummaryMessage,
)
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat, Swarm
from autogen_core import CancellationToken
from autogen_core.model_context import TokenLimitedChatCompletionContext
from chat_completion_contract import HELLO, WEATHER
from live_engines import close_all, make_adapter
from pydantic import BaseModel, ValidationError
from talkative import save_talkative_model

from agent_finetune.errors import ModelError


class Report(BaseModel):
    city: Literal["Paris", "Rome"]
    wet: bool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


def run(agent, task="What is the weather in Paris?", **options):
    return asyncio.run(agent.run(task=task, **options))


def test_reflection_sees_the_tools_result_and_is_offered_no_tools():
    client = scripted(CALL, "It rains in Paris.")
    agent = AssistantAgent("helper", client, tools=[WEATHER], reflect_on_tool_use=True)
    assert run(agent).messages[-1].content == "It rains in Paris."
    first, second = asked(client)
    assert len(first.tools) == 1
    assert second.tools == ()
    assert [m.role for m in second.messages] == ["system", "user", "assistant", "tool"]
    assert second.messages[-1].text == "It rains in Paris."


def test_an_agent_calls_until_it_has_what_it_needs():
    rome = calling("get_weather", '{"city": "Rome"}')
    client = scripted(CALL, rome, "It rains in both.")
    agent = AssistantAgent("helper", client, tools=[WEATHER], max_tool_iterations=5)
    assert run(agent).messages[-1].content == "It rains in both."
    assert [len(request.messages) for request in asked(client)] == [2, 4, 6]


def test_a_broken_call_is_told_to_the_model_which_then_does_better():
    client = scripted(calling("get_weather", '{"city": Paris}'), CALL, "It rains.")
    agent = AssistantAgent("helper", client, tools=[WEATHER], max_tool_iterations=3)
    result = run(agent)
    tried = [m for m in result.messages if isinstance(m, ToolCallExecutionEvent)]
    assert [each.content[0].is_error for each in tried] == [True, False]
    assert asked(client)[1].messages[-1].text.startswith("Error: ")
    assert result.messages[-1].content == "It rains."


def test_a_thought_is_an_event_and_stays_in_the_context():
    client = scripted("<think>\nHm.\n</think>\n\nHello.", "Again.")
    agent = AssistantAgent("helper", client)
    (thought,) = [m for m in run(agent).messages if isinstance(m, ThoughtEvent)]
    assert thought.content == "Hm."
    run(agent, task="Once more")
    assert asked(client)[1].messages[2].thinking == "Hm."


def test_an_output_type_comes_as_an_object_of_it(folder):
    client = open_client(folder, max_tokens=60)
    agent = AssistantAgent("helper", client, output_content_type=Report)
    said = run(agent).messages[-1]
    assert isinstance(said, StructuredMessage)
    assert isinstance(said.content, Report)


def test_an_object_that_was_cut_off_is_told_by_the_finish_reason(folder):
    client = open_client(folder, max_tokens=3)
    result = asyncio.run(client.create(HELLO, json_output=Report))
    assert result.finish_reason == "length"
    with pytest.raises(ValidationError):
        run(AssistantAgent("helper", client, output_content_type=Report))


def test_with_an_output_type_tools_are_still_called():
    client = scripted(CALL, '{"city": "Paris", "wet": true}')
    agent = AssistantAgent("helper", client, tools=[WEATHER], output_content_type=Report)
    assert run(agent).messages[-1].content == Report(city="Paris", wet=True)


def test_a_stream_of_an_agent_has_the_models_pieces(folder):
    agent = AssistantAgent("helper", open_client(folder), model_client_stream=True)

    async def read():
        return [event async for event in agent.run_stream(task="Hello")]

    events = asyncio.run(read())
    chunks = [e.content for e in events if isinstance(e, ModelClientStreamingChunkEvent)]
    assert len(chunks) > 3
    assert "".join(chunks).strip() == events[-1].messages[-1].content


def test_a_handoff_passes_the_conversation_on_in_a_swarm():
    first = scripted(calling("transfer_to_expert", "{}"))
    second = scripted("It rains. TERMINATE")
    team = Swarm(
        [
            AssistantAgent("helper", first, handoffs=["expert"]),
            AssistantAgent("expert", second, handoffs=["helper"]),
        ],
        termination_condition=TextMentionTermination("TERMINATE"),
    )
    result = run(team)
    assert any(isinstance(m, HandoffMessage) for m in result.messages)
    assert result.messages[-1].source == "expert"
    assert asked(second)[0].messages[-1].text.startswith("helper: Transferred to expert")


def test_a_call_that_came_with_a_handoff_is_the_next_agents_context():
    first = scripted(f"{CALL}\n{calling('transfer_to_expert', '{}')}")
    second = scripted("It rains. TERMINATE")
    team = Swarm(
        [
            AssistantAgent("helper", first, tools=[WEATHER], handoffs=["expert"]),
            AssistantAgent("expert", second),
        ],
        termination_condition=TextMentionTermination("TERMINATE"),
    )
    run(team)
    roles = [message.role for message in asked(second)[0].messages]
    assert roles == ["system", "user", "assistant", "tool", "user"]


def test_a_model_selects_the_next_speaker_and_speakers_are_named_to_the_others():
    selector, writer, critic = scripted("critic", "writer"), scripted("A poem."), scripted("Good.")
    team = SelectorGroupChat(
        [
            AssistantAgent("writer", writer, description="Writes."),
            AssistantAgent("critic", critic, description="Judges."),
        ],
        model_client=selector,
        termination_condition=MaxMessageTermination(3),
    )
    sources = [m.source for m in run(team, task="Write a poem").messages]
    assert sources == ["user", "critic", "writer"]
    texts = [message.text for message in asked(writer)[0].messages[1:]]
    assert texts == ["Write a poem", "critic: Good."]


def test_two_agents_share_the_weights_and_have_adapters_of_their_own(folder, tmp_path):
    adapter = make_adapter(folder, tmp_path / "adapter", seed=3)
    plain, tuned = open_client(folder), open_client(folder, adapter=adapter)
    team = RoundRobinGroupChat(
        [AssistantAgent("plain", plain), AssistantAgent("tuned", tuned)],
        termination_condition=MaxMessageTermination(3),
    )
    assert [m.source for m in run(team).messages] == ["user", "plain", "tuned"]
    assert plain.live.engine._hold.worker is tuned.live.engine._hold.worker
    one, other = (asyncio.run(client.create(HELLO)).content for client in (plain, tuned))
    assert one != other
    assert plain.revision != tuned.revision


def test_a_context_limited_by_tokens_counts_them_as_they_are_served():
    client = scripted("Hi")
    context = TokenLimitedChatCompletionContext(client, token_limit=60)
    agent = AssistantAgent("helper", client, model_context=context, system_message=None)
    for place in range(4):
        run(agent, task=f"This is the question number {place}")
    kept = asked(client)[-1].messages
    assert len(kept) < 7
    assert client.live.engine.count_tokens(kept) <= 60


@pytest.mark.parametrize("streamed", [True, False])
def test_a_token_frees_the_worker_and_ends_the_run(folder, streamed):
    client = open_client(folder, max_tokens=1500)
    agent = AssistantAgent("helper", client, model_client_stream=streamed, system_message=None)
    token = CancellationToken()

    async def cancelled():
        await client.ready()
        answer = asyncio.ensure_future(run_agent(agent, token))
        while not client.live.engine._hold.worker.call(lambda served: served.busy):
            await asyncio.sleep(0.005)
        # Used on another thread, as a program with a window would.
        threading.Thread(target=token.cancel).start()
        with pytest.raises(asyncio.CancelledError):
            await answer

    begun = time.monotonic()
    asyncio.run(cancelled())
    assert freed(client) == "cancelled"
    assert time.monotonic() - begun < 20


async def run_agent(agent, token):
    return await agent.run(task="Tell me a story", cancellation_token=token)


def test_a_token_that_was_used_before_lets_nothing_begin():
    client = scripted("Hi")
    token = CancellationToken()
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(client.create(HELLO, cancellation_token=token))
    assert asked(client) == []


def test_a_cancelled_task_frees_the_worker_too(folder):
    client = open_client(folder, max_tokens=1500)

    async def leave():
        await client.ready()
        async with asyncio.timeout(0.05):
            await client.create(HELLO)

    with pytest.raises(TimeoutError):
        asyncio.run(leave())
    assert freed(client) == "cancelled"


def test_a_reader_that_leaves_a_stream_frees_the_worker(folder):
    client = open_client(folder, max_tokens=1500)

    async def leave():
        pieces = client.create_stream(HELLO)
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(leave())
    assert freed(client) == "cancelled"


def test_a_model_that_cannot_be_had_is_an_error_of_the_first_call(tmp_path):
    client = open_client(tmp_path / "nothing")
    with pytest.raises(ModelError, match="nothing"):
        asyncio.run(client.create(HELLO))


def test_an_agent_goes_to_json_and_comes_back_with_its_adapter(folder, tmp_path):
    adapter = make_adapter(folder, tmp_path / "adapter", seed=4)
    agent = AssistantAgent("helper", open_client(folder, adapter=adapter), system_message="Be kind")
    text = agent.dump_component().model_dump_json()
    again = AssistantAgent.load_component(json.loads(text))
    assert run(again).messages[-1].content == run(agent).messages[-1].content
    assert again.dump_component() == agent.dump_component()


def test_a_summary_of_calls_and_a_plain_answer_are_told_apart():
    agent = AssistantAgent("helper", scripted(CALL, "Bye."), tools=[WEATHER])
    assert isinstance(run(agent).messages[-1], ToolCallSummaryMessage)
    assert isinstance(run(agent, task="Bye").messages[-1], TextMessage)
