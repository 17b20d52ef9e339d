import asyncio
import gc
import inspect
import time

import pytest
from agentscope.agent import Agent, InjectionConfig
from agentscope.model import FinishedReason
from agentscope_models import CLOCK, Cut, ask, chat_model, freed, scripted_model, user
from live_engines import close_all
from talkative import save_talkative_model

from agent_finetune.contracts import Settings
from agentscope_finetune.model import TransformersChatModel

LONG = 2000
"""Tokens of an answer that is surely still under way when it is cancelled."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("talkative"))


def run(work):
    return asyncio.run(work)


def test_a_stream_is_an_async_generator_of_deltas_with_stable_ids_and_the_whole_answer_last():
    said = (
        "<think>\nLet me see.\n</think>\n\nIt is\n"
        '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    )

    async def stream():
        chunks = await scripted_model(said)([user("time?")], tools=[CLOCK])
        assert inspect.isasyncgen(chunks)
        return [chunk async for chunk in chunks]

    *deltas, last = run(stream())
    assert [chunk.is_last for chunk in deltas] == [False] * len(deltas)
    assert {chunk.id for chunk in deltas} == {last.id}
    assert [block.type for block in last.content] == ["thinking", "text", "tool_call"]
    parts = {}
    for block in (block for chunk in deltas for block in chunk.content):
        part = {"thinking": "thinking", "text": "text", "tool_call": "input"}[block.type]
        parts[block.id] = parts.get(block.id, "") + getattr(block, part)
    assert parts == {
        last.content[0].id: "Let me see.",
        last.content[1].id: "It is",
        last.content[2].id: "{}",
    }
    assert len(deltas) > 4  # as they come, and not all at once
    assert (last.usage is not None, deltas[0].usage) == (True, None)
    assert last.finished_reason == FinishedReason.COMPLETED


def test_streamed_or_not_an_answer_is_the_same():
    said = (
        'One\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n<tool_call>\n{"na'
    )
    for answer in (said, Cut(said)):
        shown = []
        for stream in (True, False):
            last = run(ask(scripted_model(answer, stream=stream), tools=[CLOCK]))[-1]
            shown.append(
                (
                    last.metadata,
                    last.usage.output_tokens,
                    [block.model_dump(exclude={"id", "created_at"}) for block in last.content],
                )
            )
        assert shown[0] == shown[1]


def test_what_is_changed_in_a_delta_does_not_change_the_answer():
    async def spoil():
        said = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
        async for chunk in await scripted_model(said)([user("?")], tools=[CLOCK]):
            if chunk.is_last:
                return chunk
            chunk.content[0].input = "spoiled"

    assert run(spoil()).content[0].input == "{}"


def test_an_empty_answer_is_one_last_chunk_without_content():
    (last,) = run(ask(scripted_model("")))
    assert (last.is_last, last.content) == (True, [])


@pytest.mark.parametrize("stream", [True, False])
def test_cancelling_a_call_frees_the_worker(folder, stream):
    model = chat_model(folder, stream=stream, max_tokens=LONG)

    async def cancelled():
        await model.count_tokens([user("hello")], None)  # loaded, so that it is answering
        task = asyncio.create_task(ask(model, user("on and on")))
        await asyncio.sleep(0.1)
        task.cancel()
        return await task

    last = run(cancelled())[-1]
    assert last.finished_reason == FinishedReason.INTERRUPTED
    assert freed(model.engine) == "cancelled"
    if stream:
        assert last.content  # what had come by then


@pytest.mark.parametrize("stream", [True, False])
def test_cancelling_while_the_model_is_still_loaded_lets_it_say_nothing(tmp_path, stream):
    save_talkative_model(tmp_path)  # weights that nobody has loaded yet
    model = chat_model(tmp_path, stream=stream, max_tokens=LONG)

    async def cancelled():
        task = asyncio.create_task(ask(model))
        await asyncio.sleep(0)
        task.cancel()
        return await task

    before = time.monotonic()
    (last,) = run(cancelled())
    assert (last.content, last.finished_reason) == ([], FinishedReason.INTERRUPTED)
    assert time.monotonic() - before < 20
    model.engine.info()
    assert freed(model.engine) in (None, "cancelled")


@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_nobody_reads_on_is_cancelled(folder, read):
    model = chat_model(folder, max_tokens=LONG)

    async def leave():
        chunks = await model([user("leave me")])
        for _ in range(read):
            await anext(chunks)
        del chunks
        gc.collect()
        await asyncio.sleep(0.05)
        return freed(model.engine)

    assert run(leave()) == "cancelled"


def test_closing_a_stream_cancels_it(folder):
    model = chat_model(folder, max_tokens=LONG)

    async def close():
        chunks = await model([user("close me")])
        await anext(chunks)
        await chunks.aclose()

    run(close())
    gc.collect()
    assert freed(model.engine) == "cancelled"


def test_an_interrupted_agent_keeps_what_was_said_and_its_worker_is_free(folder):
    model = chat_model(folder, max_tokens=LONG)
    agent = Agent(name="friend", system_prompt="Be kind.", model=model)

    async def interrupted():
        events = agent.reply_stream(user("tell me all"))
        task = asyncio.current_task()
        said = []
        async for event in events:
            if event.type == "TEXT_BLOCK_DELTA":
                said.append(event.delta)
                if len(said) == 3:
                    task.cancel()
        return said

    said = run(interrupted())
    assert len(said) >= 3
    assert freed(model.engine) == "cancelled"
    kept = [block.text for msg in agent.state.context for block in msg.get_content_blocks("text")]
    assert any(text.startswith("".join(said[:3])) for text in kept)


def test_twenty_agents_on_one_model_finish_and_are_not_mixed_up(folder):
    def agent(number):
        return Agent(
            name=f"a{number}",
            system_prompt=f"You are {number}.",
            model=chat_model(folder),
            injection_config=InjectionConfig(inject_runtime_state=False),  # it holds the time
        )

    async def together():
        asked = [agent(number).reply(user(f"hello {number}")) for number in range(20)]
        return await asyncio.gather(*asked)

    replies = run(together())
    alone = run(agent(7).reply(user("hello 7")))
    assert [reply.name for reply in replies] == [f"a{number}" for number in range(20)]
    assert replies[7].get_text_content() == alone.get_text_content()
    assert len({reply.get_text_content() for reply in replies}) > 1


def test_an_engine_that_is_closed_under_an_answer_ends_it_as_interrupted(folder):
    model = chat_model(folder, max_tokens=LONG)

    async def closed():
        chunks = await model([user("close under me")])
        await anext(chunks)
        model.engine.close()
        return [chunk async for chunk in chunks][-1]

    last = run(closed())
    assert last.finished_reason == FinishedReason.INTERRUPTED
    assert last.metadata["stop_reason"] == "cancelled"


def test_what_breaks_in_the_middle_of_a_stream_reaches_its_reader(folder):
    model = TransformersChatModel(
        model=str(folder), device="cpu", dtype="float32", settings=Settings()
    )

    async def broken():
        chunks = await model([user("break")])
        await anext(chunks)
        close_all()
        return [chunk async for chunk in chunks]

    with pytest.raises(Exception, match="closed"):
        run(broken())
