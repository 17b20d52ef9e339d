"""What AutoGen asks of every `ChatCompletionClient`, as tests that any client can be put to.

The questions are those of the tests of AutoGen's own clients (MIT licence,
python/packages/autogen-ext/tests/models), told anew for a client that a subclass makes.
"""

from __future__ import annotations

import asyncio
import json
import warnings

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ToolCallExecutionEvent, ToolCallSummaryMessage
from autogen_core import CancellationToken, FunctionCall
from autogen_core.models import (
    AssistantMessage,
    ChatCompletionClient,
    CreateResult,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    RequestUsage,
    SystemMessage,
    UserMessage,
    validate_model_info,
)
from autogen_core.tools import FunctionTool


async def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


WEATHER = FunctionTool(get_weather, description="The weather in a city.")
HELLO = [UserMessage(content="Hello, who are you?", source="user")]
WHOLE = [
    SystemMessage(content="Be brief."),
    UserMessage(content="What is the weather in Paris?", source="user"),
    AssistantMessage(
        content=[FunctionCall(id="abcdefghi", name="get_weather", arguments='{"city": "Paris"}')],
        thought="I look it up.",
        source="helper",
    ),
    FunctionExecutionResultMessage(
        content=[
            FunctionExecutionResult(
                content="It rains.", name="get_weather", call_id="abcdefghi", is_error=False
            )
        ]
    ),
    AssistantMessage(content="It rains.", thought="That was easy.", source="helper"),
    UserMessage(content="And in Rome?", source="user"),
]
"""Every kind of message that a client gets."""


class ChatCompletionClientContract:
    """A subclass makes clients; what they say is up to it."""

    def talker(self) -> ChatCompletionClient:
        """A client that answers at least four times with words."""
        raise NotImplementedError

    def caller(self) -> ChatCompletionClient:
        """A client that answers by calling `get_weather` for Paris."""
        raise NotImplementedError

    def test_it_says_what_it_can_do(self):
        client = self.talker()
        validate_model_info(client.model_info)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assert client.capabilities["vision"] == client.model_info["vision"]

    def test_it_answers_words(self):
        result = asyncio.run(self.talker().create(HELLO))
        assert isinstance(result, CreateResult)
        assert isinstance(result.content, str)
        assert result.content
        assert result.finish_reason in ("stop", "length")
        assert result.usage.prompt_tokens > 0
        assert result.usage.completion_tokens > 0

    def test_it_takes_every_kind_of_message(self):
        result = asyncio.run(self.talker().create(WHOLE, tools=[WEATHER]))
        assert isinstance(result.content, str)

    def test_a_stream_is_the_answer_in_pieces_and_one_result_at_its_end(self):
        client = self.talker()

        async def read():
            return [piece async for piece in client.create_stream(HELLO)]

        *chunks, result = asyncio.run(read())
        assert isinstance(result, CreateResult)
        assert len(chunks) > 1
        assert all(isinstance(chunk, str) for chunk in chunks)
        assert "".join(chunks).strip() == result.content

    def test_calls_are_function_calls_with_json_arguments(self):
        result = asyncio.run(self.caller().create(HELLO, tools=[WEATHER]))
        assert result.finish_reason == "function_calls"
        (call,) = result.content
        assert isinstance(call, FunctionCall)
        assert call.id
        assert call.name == "get_weather"
        assert json.loads(call.arguments) == {"city": "Paris"}

    def test_a_stream_that_calls_ends_with_the_same_result(self):
        client = self.caller()

        async def read():
            return [piece async for piece in client.create_stream(HELLO, tools=[WEATHER])]

        pieces = asyncio.run(read())
        assert [isinstance(piece, CreateResult) for piece in pieces].count(True) == 1
        assert [call.name for call in pieces[-1].content] == ["get_weather"]

    def test_usage_is_that_of_the_last_answer_and_of_all(self):
        client = self.talker()
        assert client.total_usage() == RequestUsage(prompt_tokens=0, completion_tokens=0)
        first = asyncio.run(client.create(HELLO)).usage
        second = asyncio.run(client.create(WHOLE)).usage
        assert client.actual_usage() == second
        total = client.total_usage()
        assert total.prompt_tokens == first.prompt_tokens + second.prompt_tokens
        assert total.completion_tokens == first.completion_tokens + second.completion_tokens

    def test_tokens_are_counted_at_once_and_as_they_are_billed(self):
        client = self.talker()
        count = client.count_tokens(HELLO)
        assert count == asyncio.run(client.create(HELLO)).usage.prompt_tokens
        assert client.remaining_tokens(HELLO) > 0

    def test_it_is_a_component(self):
        client = self.talker()
        dumped = client.dump_component()
        json.dumps(dumped.model_dump())
        again = ChatCompletionClient.load_component(dumped)
        assert type(again) is type(client)
        assert again.dump_component() == dumped
        assert type(type(client).load_component(dumped.model_dump())) is type(client)

    def test_a_token_that_is_not_used_changes_nothing(self):
        result = asyncio.run(self.talker().create(HELLO, cancellation_token=CancellationToken()))
        assert result.content

    def test_an_agent_speaks_with_it(self):
        agent = AssistantAgent("helper", self.talker())
        run = asyncio.run(agent.run(task="Hello, who are you?"))
        assert run.messages[-1].source == "helper"
        assert run.messages[-1].models_usage.completion_tokens > 0

    def test_an_agent_streams_with_it(self):
        agent = AssistantAgent("helper", self.talker(), model_client_stream=True)

        async def read():
            return [event async for event in agent.run_stream(task="Hello, who are you?")]

        events = asyncio.run(read())
        chunks = [e.content for e in events if e.__class__.__name__.endswith("ChunkEvent")]
        assert "".join(chunks).strip() == events[-1].messages[-1].content

    def test_an_agent_makes_the_calls(self):
        agent = AssistantAgent("helper", self.caller(), tools=[WEATHER])
        run = asyncio.run(agent.run(task="What is the weather in Paris?"))
        (made,) = [m for m in run.messages if isinstance(m, ToolCallExecutionEvent)]
        assert made.content[0].content == "It rains in Paris."
        assert not made.content[0].is_error
        assert isinstance(run.messages[-1], ToolCallSummaryMessage)

    def test_it_closes(self):
        asyncio.run(self.talker().close())
