"""Agents of AG2 1.x on a local model: what the model is asked, and what comes of its answers."""

import asyncio
import gc
import json
import time

import pytest
from ag2_agents import CALL, agent_of, ask, asked, events, get_weather, scripted, tool
from autogen_hosts import QUIET, host
from live_engines import close_all
from pydantic import BaseModel, ValidationError
from talkative import save_talkative_model

from agent_finetune.errors import ConfigError, EngineError
from autogen_finetune.ag2 import HFConfig
from autogen_finetune.ag2.messages import to_dicts

pytestmark = QUIET


class City(BaseModel):
    name: str


def test_an_agent_answers_with_what_the_model_says():
    config = scripted("I am a helper.")
    reply = ask(agent_of(config), "Who are you?")
    assert reply.body == "I am a helper."
    assert asked(config) == [("system", "Be kind."), ("user", "Who are you?")]
    response = reply.response
    assert (response.model, response.provider) == ("script", "autogen-finetune")
    assert response.finish_reason == "stop"
    assert response.metadata["generation_id"] == response.response_id
    assert response.usage.total_tokens == (
        response.usage.prompt_tokens + response.usage.completion_tokens
    )


def test_the_conversation_goes_on_from_a_reply():
    config = scripted("One.", "Two.")

    async def both():
        reply = await agent_of(config).ask("First")
        return await reply.ask("Second")

    asyncio.run(both())
    assert asked(config) == [
        ("system", "Be kind."),
        ("user", "First"),
        ("assistant", "One."),
        ("user", "Second"),
    ]


def test_a_tool_call_is_executed_and_its_result_is_heard():
    config = scripted(CALL, "It is sunny.")
    reply = ask(agent_of(config, tools=[get_weather]), "Weather?")
    assert reply.body == "It is sunny."
    first, second = config.live.engine.requests
    assert first.tools[0]["function"]["name"] == "get_weather"
    assert first.tools[0]["function"]["parameters"]["required"] == ["city"]
    assert [m.role for m in second.messages] == ["system", "user", "assistant", "tool"]
    assert second.messages[2].tool_calls[0].arguments == {"city": "Paris"}
    assert second.messages[3].text == "Sunny in Paris."
    assert second.messages[3].tool_call_id == second.messages[2].tool_calls[0].id


def test_two_calls_in_one_answer_have_a_result_each():
    config = scripted(f"{CALL}\n{CALL.replace('Paris', 'Rome')}", "Both are sunny.")
    ask(agent_of(config, tools=[get_weather]), "Weather?")
    assert asked(config)[-2:] == [("tool", "Sunny in Paris."), ("tool", "Sunny in Rome.")]


def test_a_call_that_does_not_parse_is_answered_with_the_error():
    config = scripted(CALL.replace('"Paris"', "Paris"), "Sorry.")
    reply = ask(agent_of(config, tools=[get_weather]), "Weather?")
    assert reply.body == "Sorry."
    request = config.live.engine.requests[-1]
    assert request.messages[2].tool_calls[0].name == "get_weather"
    assert not request.messages[2].trained
    assert "Error" in request.messages[3].text


def test_a_tool_that_ends_the_turn_leaves_a_conversation_that_templates_can_write():
    @tool
    def order(dish: str) -> events.ToolResult:
        """Order a dish."""
        return events.ToolResult(f"{dish} is ordered", final=True)

    config = scripted(CALL.replace("get_weather", "order").replace("city", "dish"), "Enjoy.")

    async def both():
        reply = await agent_of(config, tools=[order]).ask("Order")
        assert reply.body == "Paris is ordered"
        await reply.ask("Thanks")

    asyncio.run(both())
    assert [role for role, _ in asked(config)] == (
        ["system", "user", "assistant", "tool", "assistant", "user"]
    )


def test_pieces_are_sent_as_they_come_and_the_whole_at_the_end():
    config, heard = scripted("<think>\nHm.\n</think>\n\nI am a helper."), []
    stream = host("ag2.stream").MemoryStream()
    stream.subscribe(lambda event: heard.append(event), sync_to_thread=False)
    reply = ask(agent_of(config), "Who?", stream=stream)
    chunks = [event.content for event in heard if isinstance(event, events.ModelMessageChunk)]
    whole = [event for event in heard if isinstance(event, events.ModelMessage)]
    thought = "".join(event.content for event in heard if isinstance(event, events.ModelReasoning))
    assert len(chunks) > 1
    assert "".join(chunks) == whole[0].content == reply.body == "I am a helper."
    assert thought == "Hm."
    assert heard.index(whole[0]) > max(
        i for i, event in enumerate(heard) if isinstance(event, events.ModelMessageChunk)
    )


def test_what_the_model_thought_before_a_call_is_shown_to_it_again():
    config = scripted(f"<think>\nHm.\n</think>\n\n{CALL}", "Sunny.")
    ask(agent_of(config, tools=[get_weather]), "Weather?")
    assert config.live.engine.requests[-1].messages[2].thinking == "Hm."


def test_words_are_held_to_a_response_schema():
    config = scripted('{"name": "Paris"}')
    agent = agent_of(config, response_schema=City)
    reply = ask(agent, "Where?")
    assert asyncio.run(reply.content()) == City(name="Paris")
    assert config.live.engine.requests[0].schema["properties"]["name"] == {
        "title": "Name",
        "type": "string",
    }
    assert len(config.live.engine.requests) == 1


def test_a_schema_that_is_asked_for_in_words_is_in_the_system_prompt():
    config = scripted('{"name": "Paris"}')
    reply = ask(
        agent_of(config, response_schema=host("ag2.response").PromptedSchema(City)), "Where?"
    )
    assert asyncio.run(reply.content()) == City(name="Paris")
    request = config.live.engine.requests[0]
    assert request.schema is None
    assert request.messages[0].text.startswith("Be kind.\n")
    assert "name" in request.messages[0].text


def test_with_tools_and_a_schema_the_model_may_call_first():
    config = scripted(CALL, "Paris, I guess", '{"name": "Paris"}')
    reply = ask(agent_of(config, tools=[get_weather], response_schema=City), "Where?")
    assert asyncio.run(reply.content()) == City(name="Paris")
    held = [request.schema is not None for request in config.live.engine.requests]
    assert held == [False, False, True]
    requests = config.live.engine.requests
    assert requests[1].messages == requests[2].messages
    spent = asyncio.run(reply.usage()).total.prompt_tokens
    assert spent > 2 * reply.response.usage.completion_tokens


def test_an_answer_that_matches_the_schema_by_itself_is_taken():
    config = scripted('{"name": "Paris"}')
    reply = ask(agent_of(config, tools=[get_weather], response_schema=City), "Where?")
    assert reply.body == '{"name": "Paris"}'
    assert len(config.live.engine.requests) == 1


def test_what_does_not_match_is_the_hosts_to_refuse():
    config = scripted("Paris")
    reply = ask(agent_of(config, response_schema=City), "Where?")
    with pytest.raises(ValidationError):
        asyncio.run(reply.content())


def test_options_of_the_config_reach_the_request():
    config = scripted("Yes.", temperature=0.5, max_tokens=7, stop="END", seed=3)
    ask(agent_of(config), "Well?")
    request = config.live.engine.requests[0]
    assert (request.temperature, request.max_new_tokens, request.stop, request.seed) == (
        0.5,
        7,
        ("END",),
        3,
    )


def test_a_tool_of_a_provider_is_refused():
    with pytest.raises(
        host("ag2.exceptions").UnsupportedToolError, match=r"web_search.*autogen-finetune"
    ):
        ask(agent_of(scripted("x"), tools=[host("ag2.tools").WebSearchTool()]), "Search")


def test_what_is_no_text_is_refused():
    with pytest.raises(
        host("ag2.exceptions").UnsupportedInputError, match=r"BinaryInput.*autogen-finetune"
    ):
        ask(agent_of(scripted("x")), events.BinaryInput(b"\x00", media_type="image/png"))


def test_an_error_of_the_engine_reaches_the_caller():
    with pytest.raises(EngineError, match="no memory"):
        ask(agent_of(scripted(EngineError("no memory"))), "Hello")


def test_data_is_written_as_json():
    config = scripted("Yes.")
    ask(agent_of(config), "Look:", {"a": [1, 2]})
    assert asked(config)[-1] == ("user", 'Look:\n{"a":[1,2]}')


def test_events_that_are_no_part_of_the_conversation_are_left_out():
    call = events.ToolCallEvent("get_weather", id="c1", arguments='{"city": "Paris"}')
    result = events.ToolResultEvent.from_call(call, "Sunny.")
    history = [
        events.ModelRequest([events.TextInput("Weather?")]),
        events.UsageEvent(),
        events.ModelResponse(tool_calls=events.ToolCallsEvent([call])),
        events.ToolCallsEvent([call]),
        call,
        result,
        events.ToolResultsEvent([result]),
        host("ag2.compact").CompactionSummary(summary="They spoke.", event_count=3),
    ]
    dicts = to_dicts(history, ["One.", "", "Two."], agent_of(scripted("x")).serializer)
    assert [item["role"] for item in dicts] == ["system", "user", "assistant", "tool", "user"]
    assert dicts[0]["content"] == "One.\nTwo."
    assert dicts[2]["tool_calls"][0]["id"] == dicts[3]["tool_call_id"] == "c1"
    assert dicts[4]["content"] == "[Summary of earlier conversation]\nThey spoke."


def test_calls_that_a_client_makes_are_not_shown_twice():
    call = events.ToolCallEvent("get_weather", id="c1", arguments="{}")
    history = [
        events.ModelRequest([events.TextInput("Weather?")]),
        events.ModelResponse(tool_calls=events.ToolCallsEvent([call])),
        events.ModelResponse(tool_calls=events.ToolCallsEvent([call]), response_force=True),
        events.ToolResultsEvent([events.ToolErrorEvent.from_call(call, ValueError("no"))]),
    ]
    dicts = to_dicts(history, [], agent_of(scripted("x")).serializer)
    assert [item["role"] for item in dicts] == ["user", "assistant", "tool"]


def test_making_a_client_loads_nothing(tmp_path):
    config = HFConfig(tmp_path / "nowhere", adapter="helper", store=tmp_path)
    config.create()
    assert config.model == str(tmp_path / "nowhere")
    with pytest.raises(NotImplementedError):
        _ = config.provider
    with pytest.raises(NotImplementedError, match="Files"):
        config.create_files_client()


def test_unknown_keys_are_refused_with_the_legal_ones():
    with pytest.raises(ConfigError, match=r"HFConfig: no key 'temprature'.*temperature"):
        HFConfig("script", temprature=1)


def test_agents_of_one_config_share_weights_and_not_what_they_learn(tmp_path):
    config = HFConfig(tmp_path, store=tmp_path)
    one, two = agent_of(config), agent_of(config)
    assert config.live_of(one) is config.live_of(one)
    assert config.live_of(one) is not config.live_of(two)
    with pytest.raises(ConfigError, match="2 agents speak through this HFConfig"):
        _ = config.live
    assert config.copy().live_of(one) is not config.live_of(one)


def test_agents_of_one_config_with_a_named_adapter_share_it(tmp_path):
    config = HFConfig(tmp_path, adapter="helper", store=tmp_path)
    assert config.live_of(agent_of(config)) is config.live_of(agent_of(config)) is config.live


def test_a_copy_has_other_options(tmp_path):
    config = HFConfig(tmp_path, temperature=0.5, max_tokens=3)
    copy = config.copy(temperature=0.1)
    assert copy.generation == {"temperature": 0.1, "max_new_tokens": 3}
    assert config.generation["temperature"] == 0.5


def test_an_agent_that_is_gone_leaves_nothing_behind(tmp_path):
    config = HFConfig(tmp_path)
    config.live_of(agent_of(config))
    gc.collect()
    assert not config._lives


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


def test_a_real_model_answers_and_is_held_to_a_schema(model):
    config = HFConfig(model, device="cpu", dtype="float32", max_tokens=40)
    agent = agent_of(config, response_schema=bool)
    reply = ask(agent, "Is it sunny?")
    assert isinstance(json.loads(reply.body)["data"], bool)
    (exchange,) = config.live_of(agent).log()
    assert exchange.result.id == reply.response.response_id


def test_cancelling_an_ask_stops_the_engine(model):
    config = HFConfig(model, device="cpu", dtype="float32")
    agent, stream = agent_of(config), host("ag2.stream").MemoryStream()

    async def main():
        begun = asyncio.Event()

        async def hear(event: events.ModelMessageChunk) -> None:
            begun.set()

        stream.where(events.ModelMessageChunk).subscribe(hear)
        task = asyncio.create_task(agent.ask("Hello", stream=stream))
        await asyncio.wait_for(begun.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    log, until = [], time.monotonic() + 20
    while not log and time.monotonic() < until:
        time.sleep(0.01)
        log = config.live_of(agent).log()
    assert log[0].result.finish == "cancelled"
