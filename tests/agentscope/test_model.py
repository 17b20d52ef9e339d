import asyncio
import threading
import time
from typing import Literal

import agentscope.model
import pytest
from agentscope.agent import Agent
from agentscope.exception import StructuredOutputError
from agentscope.message import TextBlock, ToolCallBlock
from agentscope.tool import ToolChoice
from agentscope_models import (
    CLOCK,
    WEATHER,
    Cut,
    ScriptedEngine,
    ask,
    assistant,
    chat_model,
    scripted_model,
    system,
    user,
)
from chat_templates import tokenizer
from live_engines import config_of, make_adapter
from pydantic import BaseModel, Field, field_validator
from talkative import save_talkative_model

from agent_finetune import plugins
from agent_finetune.contracts import EngineConfig, Settings
from agent_finetune.errors import BusyError, ConfigError, ContextError, ModelError, RenderError
from agentscope_finetune.credential import TransformersCredential
from agentscope_finetune.formatter import TransformersMultiAgentFormatter
from agentscope_finetune.model import TransformersChatModel, connect


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("talkative"))


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    return make_adapter(folder, tmp_path_factory.mktemp("adapter") / "a", seed=1)


def run(work):
    return asyncio.run(work)


def whole(model, *messages, **options):
    return run(ask(model, *messages, **options))[-1]


def texts(response):
    return "".join(block.text for block in response.content if isinstance(block, TextBlock))


# Making one.


def test_it_takes_what_a_service_gives_it_and_defaults_the_rest():
    model = TransformersChatModel(
        credential=TransformersCredential(), model="owner/name", parameters=None
    )
    assert isinstance(model, agentscope.model.ChatModelBase)
    assert (model.model, model.stream, model.max_retries) == ("owner/name", True, 0)
    assert model.type == "transformers_chat"
    assert model.formatter.supported_input_media_types == []


def test_making_one_for_a_folder_that_is_not_there_costs_nothing_until_it_is_asked(tmp_path):
    model = chat_model(tmp_path / "nothing")
    assert model.context_size == 32768
    with pytest.raises(ModelError, match="nothing"):
        whole(model)


def test_a_model_needs_a_name_an_adapter_or_an_engine(adapter):
    with pytest.raises(ConfigError, match="model is empty"):
        TransformersChatModel()
    assert TransformersChatModel(adapter=str(adapter)).model_config.model == str(adapter)


def test_what_is_not_legal_is_refused_at_once():
    with pytest.raises(ConfigError, match="dtype"):
        TransformersChatModel(model="owner/name", dtype="int3")


def test_models_on_the_same_weights_share_them(folder):
    answers = [texts(whole(chat_model(folder))) for _ in range(2)]
    assert answers[0] == answers[1] != ""
    first, second = chat_model(folder), chat_model(folder)
    run(ask(first))
    run(ask(second))
    assert first.engine._hold.worker is second.engine._hold.worker


# Answers.


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_what_the_engine_said_under_the_engines_id(folder, stream):
    model = chat_model(folder, stream=stream)
    last = whole(model)
    result = model.engine.recent()[-1].result
    assert last.id == result.id
    assert texts(last) == result.message.text != ""
    assert last.is_last
    assert last.metadata == {"stop_reason": "length", "revision": result.revision}
    assert last.usage.input_tokens == result.usage.prompt_tokens
    assert last.usage.output_tokens == 12
    assert last.usage.time > 0


def test_a_repeated_prompt_is_read_from_the_cache_and_usage_says_so(folder):
    model = chat_model(folder)
    question = user("a question that nobody else asks")
    whole(model, question)
    again = whole(model, question)
    assert 0 < again.usage.cache_input_tokens < again.usage.input_tokens


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": None}),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": 5}, {"temperature": 0.7, "top_p": 0.9}),
        ({"repetition_penalty": 1.2, "seed": 3}, {"repetition_penalty": 1.2, "seed": 3}),
        ({"thinking_enable": False, "stop": ["\n"]}, {"thinking": False, "stop": ["\n"]}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}),
    ],
)
def test_parameters_reach_the_engine(options, expected):
    model = scripted_model("hi", parameters=TransformersChatModel.Parameters(**options))
    whole(model)
    asked = model.engine.requests[0]
    assert {name: getattr(asked, name) for name in expected} == expected


def test_a_call_may_change_parameters_for_itself_and_nothing_else():
    model = scripted_model("hi")
    whole(model, max_tokens=5, thinking_enable=True)
    whole(model)
    assert [asked.max_new_tokens for asked in model.engine.requests] == [5, None]
    with pytest.raises(ConfigError, match="'max_length'; legal are max_tokens"):
        whole(model, max_length=5)


# Tools.


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", ["required", "get_weather"])
def test_a_forced_call_is_made_by_a_model_that_never_learned_to(folder, mode, stream):
    model = chat_model(folder, stream=stream, max_tokens=200)
    last = whole(model, tools=[WEATHER], tool_choice=ToolChoice(mode=mode))
    (call,) = last.content
    assert isinstance(call, ToolCallBlock)
    assert (call.name, call.input) in {
        ("get_weather", f'{{"city": "{city}"}}') for city in ("Paris", "Rome")
    }
    assert last.metadata["stop_reason"] == "tool_calls"


def test_the_tools_of_a_choice_are_all_that_is_offered():
    model = scripted_model("hi")
    tools = [WEATHER, CLOCK]
    whole(model, tools=tools, tool_choice=ToolChoice(mode="auto", tools=["get_time"]))
    whole(model, tools=tools, tool_choice=ToolChoice(mode="none"))
    whole(model, tools=tools)
    first, second, third = model.engine.requests
    assert first.tools == [CLOCK]
    assert (second.tool_choice, third.tool_choice) == ("none", "auto")
    assert third.tools == tools


@pytest.mark.parametrize(
    "choice", [{"mode": "get_stocks"}, {"mode": "auto", "tools": ["get_stocks"]}]
)
def test_a_choice_of_a_tool_that_is_not_offered_is_refused(choice):
    with pytest.raises(ValueError, match="Invalid tool name 'get_stocks'"):
        whole(scripted_model("hi"), tools=[WEATHER], tool_choice=ToolChoice(**choice))


def test_calls_of_a_conversation_have_ids_that_never_repeat():
    said = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    model = scripted_model(f"{said}\n{said}")
    ids = [call.id for _ in range(3) for call in whole(model, tools=[CLOCK]).content]
    assert len(set(ids)) == 6
    assert all(len(each) == 9 and each.isalnum() for each in ids)


def test_a_call_that_does_not_parse_is_handed_on_raw():
    raw = '{"name": "get_weather", "arguments": {"city": Paris}}'
    last = whole(scripted_model(f"<tool_call>\n{raw}\n</tool_call>"), tools=[WEATHER])
    (call,) = last.content
    assert (call.name, call.input) == ("get_weather", '{"city": Paris}')


def test_a_call_that_was_cut_off_can_never_be_repaired_into_one_that_runs():
    raw = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par'
    last = whole(scripted_model(Cut(raw)), tools=[WEATHER])
    (call,) = last.content
    assert call.name == "get_weather"
    assert call.input.startswith('["cut off after')
    assert last.metadata["stop_reason"] == "length"


# Thinking.


@pytest.mark.parametrize("stream", [True, False])
def test_thinking_that_was_cut_off_ends_the_reply_with_a_word_about_it(stream):
    model = scripted_model(Cut("<think>\nLet me see"), stream=stream)
    chunks = run(ask(model))
    assert "no answer" in texts(chunks[-1])
    assert [block.type for block in chunks[-1].content] == ["thinking", "text"]
    if stream:
        assert "".join(texts(chunk) for chunk in chunks[:-1]) == texts(chunks[-1])


def test_an_agent_whose_model_thinks_too_long_asks_it_once_and_not_fifty_times():
    model = scripted_model(Cut("<think>\nLet me see"))
    agent = Agent(name="friend", system_prompt="Be kind.", model=model)
    reply = run(agent.reply(user("hello")))
    assert len(model.engine.requests) == 1
    assert "Cut off after" in reply.get_text_content()


# Structured output.


class Trip(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int = Field(ge=1, le=9)


class Picky(BaseModel):
    city: Literal["Paris", "Rome"]

    @field_validator("city")
    @classmethod
    def never(cls, value):
        raise ValueError(f"not {value}")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("structure", [Trip, Trip.model_json_schema()], ids=["class", "schema"])
def test_an_object_is_made_in_one_generation_by_a_model_that_never_learned_to(
    folder, structure, stream
):
    model = chat_model(folder, stream=stream, max_tokens=100)
    whole(model)
    before = model.engine.recent()[-1].result.id
    made = run(model.generate_structured_output([user("Where to?")], structure))
    assert Trip.model_validate(made.content)
    assert made.metadata["stop_reason"] == "stop"
    assert made.usage.output_tokens > 0
    assert [each.result.id for each in model.engine.recent()[-2:]] == [before, made.id]


def test_the_model_is_told_the_schema_and_does_not_think_about_it():
    model = scripted_model('{"city": "Rome", "days": 2}')
    question = user("Where to?")
    run(model.generate_structured_output([question], Trip, tool_choice=ToolChoice(mode="auto")))
    (asked,) = model.engine.requests
    assert asked.thinking is False
    assert asked.schema == Trip.model_json_schema()
    assert '"enum": ["Paris", "Rome"]' in asked.messages[-1].text
    assert len(question.content) == 1  # the host's message is as it was
    run(model.generate_structured_output([assistant(TextBlock(text="hm"))], Trip))
    assert [message.role for message in model.engine.requests[-1].messages] == ["assistant", "user"]


@pytest.mark.parametrize(
    ("answer", "structure", "match"),
    [
        (Cut('{"city": "Ro'), Trip, "before the object was whole"),
        ('{"city": "Rome"}', Picky, "not Rome"),
        ('{"city": 1}', Trip.model_json_schema(), "not what was asked"),
        ("[1]", {"type": "array"}, "must be an object"),
    ],
)
def test_an_object_that_is_not_what_was_asked_is_an_error_after_one_generation(
    answer, structure, match
):
    model = scripted_model(answer)
    with pytest.raises(StructuredOutputError, match=match):
        run(model.generate_structured_output([user("Where to?")], structure))
    assert len(model.engine.requests) == 1


def test_an_object_without_a_conversation_is_refused():
    with pytest.raises(ValueError, match="messages is empty"):
        run(scripted_model("{}").generate_structured_output([], Trip))


# Counting.


CONVERSATION = (system("Be kind."), user("hello"), assistant(TextBlock(text="hi")), user("bye"))


@pytest.mark.parametrize("tools", [None, [WEATHER]])
def test_counted_tokens_are_the_tokens_of_the_same_call(folder, tools):
    model = chat_model(folder)
    counted = run(model.count_tokens(list(CONVERSATION), tools))
    assert counted == whole(model, *CONVERSATION, tools=tools).usage.input_tokens


def test_counting_again_asks_nobody(folder):
    model = chat_model(folder)
    run(model.count_tokens([user("hello")], None))
    counted = []
    model.engine.count_tokens = lambda *args, **options: counted.append(args)
    assert run(model.count_tokens([user("hello")], None)) > 0
    assert not counted


@pytest.mark.parametrize("template", ["qwen3_6", "gemma3", "llama3_1", "gptoss"])
@pytest.mark.parametrize(
    "messages",
    [
        [],
        [system("Be kind.")],
        [assistant(TextBlock(text="hi"))],
        [assistant(ToolCallBlock(id="a", name="get_time", input="{}"))],
    ],
)
def test_counting_part_of_a_conversation_never_raises(template, messages):
    engine = ScriptedEngine("hi", tokenizer=tokenizer(template))
    model = TransformersChatModel(engine=engine, settings=Settings())
    assert (run(model.count_tokens(messages, None)) > 0) == bool(messages)


def test_where_no_model_can_be_loaded_the_hosts_estimate_stands(tmp_path):
    model = chat_model(tmp_path / "nothing")
    assert run(model.count_tokens([user("x" * 400)], None)) == 100


# Errors.


def test_what_is_too_long_or_cannot_be_printed_fails_before_a_stream_is_answered(folder):
    async def begin(model, *messages, **options):
        await model(list(messages), **options)

    with pytest.raises(ContextError, match="the model's context holds") as refused:
        run(begin(chat_model(folder), user("word " * 5000)))
    assert isinstance(refused.value, ValueError)
    model = scripted_model(RenderError("no"))
    with pytest.raises(RenderError):
        run(begin(model, user("hello")))


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_for_which_there_is_less_room_than_allowed_takes_what_there_is(folder, stream):
    model = chat_model(folder, max_tokens=500, stream=stream)
    words = 100
    while run(model.count_tokens([user("word " * words)], None)) < 1990:
        words += 5
    last = whole(model, user("word " * words))
    assert last.metadata["stop_reason"] == "length"
    assert last.usage.input_tokens + last.usage.output_tokens == 2048


def test_what_may_help_to_be_repeated_is_repeated_as_often_as_asked():
    model = scripted_model(BusyError("away"), "hi", max_retries=1, retry_delay=0.0)
    assert texts(whole(model)) == "hi"
    model = scripted_model(BusyError("away"), "{}", max_retries=1, retry_delay=0.0)
    assert run(model.generate_structured_output([user("?")], {"type": "object"})).content == {}
    model = scripted_model(BusyError("away"), "{}")
    for work in (ask(model), model.generate_structured_output([user("?")], {"type": "object"})):
        model.engine._answers[:] = [BusyError("away")]
        with pytest.raises(BusyError):
            run(work)


# What is served.


def test_context_size_is_the_models_own_before_and_after_it_is_loaded(folder):
    model = chat_model(folder)
    assert model.context_size == 2048
    run(ask(model))
    assert model.context_size == model.engine.info().context == 2048


def test_a_context_size_that_was_set_stands_as_far_as_the_model_holds_it(folder):
    model = chat_model(folder, context_size=1000)
    run(ask(model))
    assert model.context_size == 1000
    model.context_size = 10**6  # as a service does
    assert model.context_size == 2048


def test_serving_another_adapter_changes_the_answers_of_this_model_only(folder, adapter):
    model, other = chat_model(folder), chat_model(folder)
    before = texts(whole(model))
    run(model.serve(config_of(folder, adapter=adapter)))
    assert model.model_config.adapter == str(adapter)
    assert texts(whole(model)) != before == texts(whole(other))
    assert texts(whole(chat_model(folder, adapter=str(adapter)))) == texts(whole(model))
    assert run(model.count_tokens([user("hello")], None)) == whole(model).usage.input_tokens


def test_what_cannot_be_served_changes_nothing(folder, tmp_path):
    model = chat_model(folder)
    engine, before = model.engine, texts(whole(model))
    for config in (config_of(tmp_path / "nothing"), config_of(folder, adapter=tmp_path)):
        with pytest.raises(ModelError):
            run(model.serve(config))
    assert (model.model, model.engine) == (str(folder), engine)
    assert texts(whole(model)) == before


def test_a_credential_is_asked_again_when_another_model_is_served(tmp_path):
    model = TransformersChatModel(TransformersCredential(), "owner/name", settings=Settings())
    with pytest.raises(ConfigError, match="allow_models"):
        run(model.serve(config_of(tmp_path)))
    assert model.model_config.model == "owner/name"


def test_an_answer_under_way_ends_on_the_model_that_it_began_with(folder, adapter):
    async def swap(model):
        said = [chunk async for chunk in await model([user("hello")])]
        chunks = await model([user("hello")])
        await model.serve(config_of(folder, adapter=adapter))
        return said[-1], [chunk async for chunk in chunks][-1]

    before, during = run(swap(chat_model(folder, max_tokens=100)))
    assert texts(before) == texts(during)
    assert before.metadata == during.metadata


def test_a_live_agent_is_connected_to_an_engine(folder):
    old = chat_model(folder, stream=False, formatter=TransformersMultiAgentFormatter())
    agent = Agent(name="friend", system_prompt="Be kind.", model=old)
    engine = plugins.open_engine(EngineConfig(model=config_of(folder)), Settings())
    model = connect(agent, engine)
    assert agent.model is model
    assert (model.engine, model.formatter, model.stream) == (engine, old.formatter, False)
    whole(model, max_tokens=3)
    assert model.model == model.model_config.model == str(folder)
    with pytest.raises(ConfigError, match=r"agentscope\.agent\.Agent"):
        connect("agent", engine)


def test_the_event_loop_turns_while_a_model_is_loaded_and_answers(folder, tmp_path):
    save_talkative_model(tmp_path)  # weights that nobody has loaded yet

    async def longest_pause(model):
        done, pauses = threading.Event(), []

        async def tick():
            while not done.is_set():
                before = time.monotonic()
                await asyncio.sleep(0.005)
                pauses.append(time.monotonic() - before)

        ticking = asyncio.create_task(tick())
        await model.count_tokens([user("hello")], None)
        await ask(model)
        done.set()
        await ticking
        return pauses

    pauses = run(longest_pause(chat_model(tmp_path)))
    assert len(pauses) > 3
    assert max(pauses) < 2
