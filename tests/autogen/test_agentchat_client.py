"""`HFChatCompletionClient` on a script: what the model is asked, and what AutoGen gets of it."""

import asyncio
import json
import logging

import pytest
from agentchat_clients import CALL, Cut, asked, calling, scripted
from autogen_core import EVENT_LOGGER_NAME, FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    ChatCompletionClient,
    CreateResult,
    ModelInfo,
    SystemMessage,
    UserMessage,
)
from chat_completion_contract import HELLO, WEATHER, WHOLE
from PIL import Image as Picture
from pydantic import BaseModel

from agent_finetune.errors import ConfigError, ContextError, DataError
from autogen_finetune.agentchat import HFChatCompletionClient, HFClientConfig
from autogen_finetune.oai import to_messages

CLOCK = {"name": "get_time", "description": "The time.", "strict": False}


class Person(BaseModel):
    name: str
    age: int


def create(client, messages=HELLO, **options):
    return asyncio.run(client.create(messages, **options))


def stream(client, messages=HELLO, **options):
    async def read():
        return [piece async for piece in client.create_stream(messages, **options)]

    return asyncio.run(read())


def test_making_a_client_loads_nothing_and_needs_no_model(tmp_path):
    client = HFChatCompletionClient("no/such-model", store=tmp_path, temperature=0.5)
    assert client.model_info["function_calling"]
    assert client.model_info["structured_output"]
    assert not client.model_info["vision"]
    assert client.generation == {"temperature": 0.5}


def test_model_info_can_be_told_otherwise():
    info = ModelInfo(
        vision=False, function_calling=False, json_output=True, family="r1", structured_output=True
    )
    client = scripted("Hi", model_info=info)
    assert client.model_info == client.capabilities == info
    with pytest.raises(ValueError, match="family"):
        scripted("Hi", model_info={"vision": False, "function_calling": True, "json_output": True})


def test_unknown_options_are_refused_with_the_legal_ones():
    with pytest.raises(ConfigError, match=r"no key 'temprature' is known; legal are .*temperature"):
        HFChatCompletionClient("model", temprature=1)


def test_the_model_is_asked_what_openais_dicts_of_the_messages_say():
    client = scripted("It rains there too.")
    create(client, WHOLE, tools=[WEATHER])
    call = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    dicts = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather in Paris?", "name": "user"},
        {
            "role": "assistant",
            "content": "I look it up.",
            "name": "helper",
            "tool_calls": [{"id": "abcdefghi", "type": "function", "function": call}],
        },
        {
            "role": "tool",
            "content": "It rains.",
            "name": "get_weather",
            "tool_call_id": "abcdefghi",
        },
        {
            "role": "assistant",
            "content": "It rains.",
            "name": "helper",
            "reasoning_content": "That was easy.",
        },
        {"role": "user", "content": "And in Rome?", "name": "user"},
    ]
    (request,) = asked(client)
    assert list(request.messages) == to_messages(dicts)


def test_later_speakers_are_named_to_the_model():
    client = scripted("Hi")
    create(
        client,
        [UserMessage(content="Hi", source="user"), UserMessage(content="No", source="critic")],
    )
    assert [message.text for message in asked(client)[0].messages] == ["Hi", "critic: No"]


def test_tools_are_taken_as_objects_as_flat_schemas_and_as_openai_has_them():
    client = scripted("Hi")
    openai = {"type": "function", "function": {"name": "third", "parameters": {}}}
    create(client, tools=[WEATHER, CLOCK, openai])
    tools = asked(client)[0].tools
    assert [tool["type"] for tool in tools] == ["function"] * 3
    assert [tool["function"]["name"] for tool in tools] == ["get_weather", "get_time", "third"]
    assert tools[0]["function"]["parameters"]["required"] == ["city"]


@pytest.mark.parametrize(
    ("choice", "said"),
    [("auto", "auto"), ("none", "none"), ("required", "required"), (WEATHER, "get_weather")],
)
def test_the_choice_of_a_tool_is_the_kernels(choice, said):
    client = scripted("Hi")
    create(client, tools=[WEATHER], tool_choice=choice)
    assert asked(client)[0].tool_choice == said


@pytest.mark.parametrize("choice", ["required", WEATHER, "always"])
def test_a_choice_without_such_a_tool_is_refused(choice):
    with pytest.raises(ValueError, match="tool_choice is"):
        create(scripted("Hi"), tools=[], tool_choice=choice)


def test_words_beside_a_call_are_a_thought():
    result = create(scripted(f"I look it up.\n{CALL}"), tools=[WEATHER])
    assert result.thought == "I look it up."
    assert [call.name for call in result.content] == ["get_weather"]


def test_thinking_is_a_thought_and_no_part_of_the_stream():
    pieces = stream(scripted("<think>\nHm.\n</think>\n\nIt is me."))
    assert "".join(pieces[:-1]).strip() == pieces[-1].content == "It is me."
    assert pieces[-1].thought == "Hm."


@pytest.mark.parametrize("words", ["", "One moment.\n"])
def test_thinking_and_words_beside_a_call_come_back_as_they_were_said(words):
    client = scripted(f"<think>\nHm.\n</think>\n\n{words}{CALL}", "Done.")
    result = create(client, tools=[WEATHER])
    said = AssistantMessage(content=result.content, thought=result.thought, source="helper")
    create(client, [*HELLO, said])
    turn = asked(client)[1].messages[-1]
    assert (turn.thinking, turn.text) == ("Hm.", words.strip())
    assert [call.arguments for call in turn.tool_calls] == [{"city": "Paris"}]


def test_several_calls_have_different_ids_that_mistral_takes_too():
    result = create(scripted(f"{CALL}\n{CALL}"), tools=[WEATHER])
    ids = {call.id for call in result.content}
    assert len(ids) == 2
    assert all(len(each) == 9 and each.isalnum() for each in ids)


@pytest.mark.parametrize("arguments", ['{"city": "Par', "7"])
def test_a_call_that_does_not_parse_is_one_that_no_host_can_make(arguments):
    result = create(scripted(calling("get_weather", arguments)), tools=[WEATHER])
    assert result.finish_reason == "function_calls"
    assert result.content[0].name == "get_weather"
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.content[0].arguments)


def test_an_answer_that_was_cut_off_says_so():
    assert create(scripted(Cut("I am an"))).finish_reason == "length"
    cut = create(scripted(Cut(CALL[:-14])), tools=[WEATHER])
    assert cut.finish_reason == "length"
    assert isinstance(cut.content[0], FunctionCall)


def test_options_of_a_call_go_before_the_clients():
    client = scripted("Hi", temperature=0.5, max_tokens=20)
    create(client, extra_create_args={"max_tokens": 7, "seed": 3, "stop": "\n", "top_p": None})
    (request,) = asked(client)
    assert (request.max_new_tokens, request.temperature, request.seed) == (7, 0.5, 3)
    assert request.stop == ("\n",)


def test_options_that_nobody_knows_are_refused():
    with pytest.raises(ConfigError, match=r"extra_create_args: no key 'presence_penalty' is known"):
        create(scripted("Hi"), extra_create_args={"presence_penalty": 1})


@pytest.mark.parametrize(("wanted", "schema"), [(True, {"type": "object"}), (False, None)])
def test_json_output_holds_to_an_object_or_not(wanted, schema):
    client = scripted("{}")
    create(client, json_output=wanted)
    assert asked(client)[0].schema == schema


def test_json_output_of_a_class_holds_to_its_schema():
    client = scripted('{"name": "Ann", "age": 3}')
    assert create(client, json_output=Person).content == '{"name": "Ann", "age": 3}'
    assert asked(client)[0].schema == Person.model_json_schema()
    with pytest.raises(ConfigError, match="json_output is 'json'"):
        create(client, json_output="json")


def test_with_tools_and_an_output_type_the_model_may_call_or_write_the_object():
    client = scripted(CALL, '{"name": "Ann", "age": 3}')
    called = create(client, tools=[WEATHER], json_output=Person)
    assert called.content[0].name == "get_weather"
    written = stream(client, tools=[WEATHER], json_output=Person)
    assert written[0] == written[-1].content == '{"name": "Ann", "age": 3}'
    assert [request.schema for request in asked(client)] == [None, None]


def test_an_answer_that_is_neither_is_made_again_held_to_the_schema():
    client = scripted("I think it is Ann.", '{"name": "Ann", "age": 3}')
    *chunks, result = stream(client, tools=[WEATHER], json_output=Person)
    assert "".join(chunks) == result.content == '{"name": "Ann", "age": 3}'
    assert [request.schema is None for request in asked(client)] == [True, False]
    assert client.actual_usage() == client.total_usage() == result.usage
    both = [len(client.live.engine._tokenizer(each)["input_ids"]) for each in chunks]
    assert result.usage.completion_tokens > sum(both)


def test_any_object_will_do_where_any_is_wanted():
    client = scripted('{"a": 1}', "[1]", "{}")
    assert create(client, tools=[WEATHER], json_output=True).content == '{"a": 1}'
    assert create(client, tools=[WEATHER], json_output=True).content == "{}"


def test_images_are_refused_and_texts_in_parts_are_not():
    picture = Image.from_pil(Picture.new("RGB", (1, 1)))
    with pytest.raises(DataError, match=r"messages\[1\] holds an image; the model reads text only"):
        create(scripted("Hi"), [*HELLO, UserMessage(content=["See", picture], source="user")])
    client = scripted("Hi")
    create(client, [UserMessage(content=["one", "two"], source="user")])
    assert asked(client)[0].messages[0].text == "one\ntwo"


def test_what_is_no_message_is_refused():
    with pytest.raises(DataError, match=r"messages\[0\] is of str; legal are SystemMessage"):
        create(scripted("Hi"), ["Hello"])


@pytest.mark.parametrize("ask", [create, stream])
def test_what_goes_wrong_in_the_engine_is_raised(ask):
    with pytest.raises(ContextError, match="too long"):
        ask(scripted(ContextError("too long")))


def test_autogens_event_log_hears_of_calls(caplog):
    caplog.set_level(logging.INFO, EVENT_LOGGER_NAME)
    create(scripted("Hi"), tools=[WEATHER])
    stream(scripted("Hi"))
    kinds = [json.loads(str(record.msg))["type"] for record in caplog.records]
    assert kinds == ["LLMCall", "LLMStreamStart", "LLMStreamEnd"]
    assert json.loads(str(caplog.records[0].msg))["messages"][0]["name"] == "user"


def test_counting_counts_tools_and_the_context_is_what_remains():
    client = scripted("Hi", "Hi")
    plain, tools = client.count_tokens(HELLO), client.count_tokens(HELLO, tools=[WEATHER])
    assert tools == create(client, tools=[WEATHER]).usage.prompt_tokens > plain
    assert client.remaining_tokens(HELLO, tools=[WEATHER]) == 4096 - tools


def test_a_stream_that_nobody_reads_to_its_end_leaves_nothing_running():
    client = scripted("I am an assistant.")

    async def read():
        pieces = client.create_stream(HELLO)
        first = await anext(pieces)
        await pieces.aclose()
        return first, [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    first, left = asyncio.run(read())
    assert isinstance(first, str)
    assert not any(task for task in left if not task.cancelling())


def test_a_client_is_a_component_with_all_that_it_was_told(tmp_path):
    client = HFChatCompletionClient(
        "no/such-model",
        adapter="helper",
        store=tmp_path,
        revision="main",
        dtype="float32",
        device="cpu",
        quantization="4bit",
        four_bit_type="fp4",
        double_quantization=False,
        record_to=str(tmp_path / "log.db"),
        max_tokens=9,
        stop=["\n"],
    )
    dumped = client.dump_component()
    assert dumped.provider == "autogen_finetune.agentchat.HFChatCompletionClient"
    assert dumped.component_type == "model"
    again = ChatCompletionClient.load_component(json.loads(dumped.model_dump_json()))
    assert isinstance(again, HFChatCompletionClient)
    assert again.dump_component() == dumped
    assert again.live.model == client.live.model
    assert again.generation == {"max_new_tokens": 9, "stop": ["\n"]}
    assert (again.live.name, again.live.store) == ("helper", tmp_path)


def test_a_component_of_keys_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="temprature"):
        HFClientConfig.model_validate({"model": "a", "temprature": 1})
    with pytest.raises(ConfigError, match="temprature"):
        HFChatCompletionClient._from_config(HFClientConfig(model="a", generation={"temprature": 1}))


def test_a_closed_client_gives_its_engine_up():
    client = scripted("Hi")
    asyncio.run(client.close())
    assert client.live.engine.closed


def test_a_system_message_alone_can_be_answered():
    assert isinstance(create(scripted("Hi"), [SystemMessage(content="Say hi.")]), CreateResult)
