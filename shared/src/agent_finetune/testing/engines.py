"""What every engine promises (`contracts.Engine`), as checks that an engine's own tests run.

With pytest:

    @pytest.mark.parametrize("check", ENGINE_CONTRACT, ids=lambda check: check.__name__)
    def test_my_engine_keeps_the_contract(check):
        check(EngineCase(open=open_mine, request=Request(messages=[...])))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import Any

from agent_finetune.contracts import Delta, Engine, Generation, Request, Result
from agent_finetune.errors import ConfigError, ContextError, EngineError, ModelError
from agent_finetune.records import Message
from agent_finetune.testing.checking import (
    PATIENCE,
    EngineCase,
    holds,
    raises,
    said,
    same,
    take_turns,
    whole,
)

Use = Callable[[Generation], Coroutine[Any, Any, None]]

_BLOCKED = 2.0
"""Seconds that an event loop may stand still on a machine that others use as well."""


def generate_answers_what_stream_answers(case: EngineCase) -> None:
    """One way to an answer is as good as the other, and asking again changes nothing."""
    with closing(case.open()) as engine:
        generation = engine.stream(case.some)
        result = generation.result(PATIENCE)
        same("id of the result", result.id, generation.id)
        same("the result when asked again", generation.result(), result)
        same("what generate says", said(engine.generate(case.some)), said(result))


def pieces_come_one_by_one_and_add_up_to_the_message(case: EngineCase) -> None:
    """Words come while the rest is made; the last piece has the whole result."""
    with closing(case.open()) as engine:
        generation = engine.stream(case.some)
        pieces = list(generation)
        same("the result in the last piece", whole(pieces), generation.result())
        holds(len(pieces) > 2, f"the answer came in {len(pieces)} pieces, expected many")


def usage_counts_the_ids(case: EngineCase) -> None:
    """The exact ids are there, and every count agrees with them."""
    with closing(case.open()) as engine:
        for thinking in (None, None, False):
            result = engine.generate(replace(case.some, thinking=thinking))
            asked = case.request
            counted = engine.count_tokens(asked.messages, asked.tools, thinking=thinking)
            exact, usage = result.message.generation, result.usage
            if exact is None:
                raise AssertionError("the message has no generation, expected its exact ids")
            same("completion_tokens", usage.completion_tokens, len(exact.ids))
            same("prompt_tokens", usage.prompt_tokens, len(exact.prompt_ids))
            same("count_tokens", counted, len(exact.prompt_ids))
            holds(0 <= usage.cached_tokens <= usage.prompt_tokens, f"cached_tokens: {usage!r}")


def max_new_tokens_ends_an_answer(case: EngineCase) -> None:
    """Exactly as many tokens come, and the reason is given."""
    with closing(case.open()) as engine:
        for limit in (1, 7):
            result = engine.generate(replace(case.request, max_new_tokens=limit))
            same("finish", result.finish, "length")
            same("completion_tokens", result.usage.completion_tokens, limit)


def a_stop_string_ends_an_answer_and_is_not_in_its_text(case: EngineCase) -> None:
    """Nor is any part of it in a piece."""
    with closing(case.open()) as engine:
        text = engine.generate(case.some).message.text
        words = [word for word in text.split() if word.isascii()]
        holds(bool(words), f"the request is answered with {text!r}, expected words")
        stop = max(words, key=len)
        result = whole(list(engine.stream(replace(case.some, stop=("never said", stop)))))
        same("finish", result.finish, "stop")
        same(f"text before {stop!r}", result.message.text, text[: text.index(stop)].strip())


def a_seed_gives_the_same_answer_whatever_is_beside_it(case: EngineCase) -> None:
    """Alone and together; and other seeds give other answers."""
    with closing(case.open()) as engine:
        drawn = [replace(case.some, temperature=1.0, seed=seed) for seed in (1, 2, 3, 1)]
        together = [generation.result(PATIENCE) for generation in map(engine.stream, drawn)]
        alone = [engine.generate(request) for request in drawn]
        same("answers together", list(map(said, together)), list(map(said, alone)))
        same("ids of seed 1 and of seed 1", said(alone[0]), said(alone[3]))
        different = len({repr(said(result)) for result in alone})
        same("answers of three seeds that differ", different, 3)


def sampling_options_are_heeded(case: EngineCase) -> None:
    """The likeliest of one is the likeliest of all; what was said is said again less readily."""
    with closing(case.open()) as engine:
        greedy = replace(case.some, temperature=0.0)
        plain = engine.generate(greedy)
        likeliest = engine.generate(replace(case.some, temperature=5.0, top_k=1))
        same("with top_k 1", said(likeliest), said(plain))
        loose = engine.generate(replace(case.some, temperature=5.0, seed=1))
        holds(said(loose) != said(plain), "a temperature of 5 changes nothing")
        penalized = engine.generate(replace(greedy, repetition_penalty=1e3))
        found, usual = _different_ids(penalized), _different_ids(plain)
        all_differ = usual == plain.usage.completion_tokens
        holds(
            found > usual or all_differ,
            f"with a repetition_penalty {found} ids differ, without one {usual}; expected more",
        )


def answers_to_many_threads_are_not_mixed_up(case: EngineCase) -> None:
    """Each thread gets the answer to what it asked."""
    *before, last = case.request.messages
    requests = [
        replace(case.some, messages=(*before, replace(last, text=f"{last.text} {number}")))
        for number in range(6)
    ]
    with closing(case.open()) as engine:
        alone = [engine.generate(request) for request in requests]
        with ThreadPoolExecutor(len(requests)) as threads:
            together = list(threads.map(engine.generate, requests))
    same("answers together", list(map(said, together)), list(map(said, alone)))
    prompts = {
        result.message.generation and result.message.generation.prompt_ids for result in alone
    }
    same("different prompts", len(prompts), len(requests))
    same("different ids", len({result.id for result in together}), len(requests))


def cancelling_stops_the_work_and_keeps_what_came(case: EngineCase) -> None:
    """While it comes, before it begins, and too late."""
    with closing(case.open()) as engine:
        generation = engine.stream(case.endless)
        pieces = []
        for piece in generation:
            pieces.append(piece)
            generation.cancel()
        same("finish", whole(pieces).finish, "cancelled")
        at_once = engine.stream(case.endless)
        at_once.cancel()
        same("finish when cancelled at once", at_once.result(PATIENCE).finish, "cancelled")
        done = engine.stream(case.some)
        finish = done.result(PATIENCE).finish
        done.cancel()
        same("finish when cancelled too late", done.result().finish, finish)


def waiting_may_end_before_the_answer_does(case: EngineCase) -> None:
    """A time-out says so, and the work goes on."""
    with closing(case.open()) as engine:
        generation = engine.stream(case.endless)
        next(iter(generation))  # the model is loaded
        raises(TimeoutError, lambda: generation.result(timeout=0.0))
        generation.cancel()
        same("finish", generation.result(PATIENCE).finish, "cancelled")


def what_is_wrong_is_told_to_every_reader(case: EngineCase) -> None:
    """An adapter nobody knows, and a context that does not hold what is asked."""
    with closing(case.open()) as engine:
        context = engine.info().context
        long = Message(role="user", text="word " * context)
        too_long = replace(case.request, messages=(*case.request.messages, long))
        _refused(engine, ConfigError, replace(case.request, adapter="no such adapter"))
        _refused(engine, ContextError, replace(case.request, max_new_tokens=context))
        _refused(engine, ContextError, too_long)
        raises(ConfigError, lambda: engine.count_tokens([long], adapter="no such adapter"))


def recent_has_each_request_with_its_result(case: EngineCase) -> None:
    """The oldest first, with the time of each."""
    with closing(case.open()) as engine:
        began = time.time()
        results = [engine.generate(replace(case.some, max_new_tokens=n)) for n in (2, 3)]
        last = engine.recent()[-2:]
        same("the last results", [exchange.result for exchange in last], results)
        same("their limits", [exchange.request.max_new_tokens for exchange in last], [2, 3])
        times = [began, *(exchange.time for exchange in last), time.time()]
        same("times", times, sorted(times))


def an_event_loop_turns_while_an_answer_comes(case: EngineCase) -> None:
    """Another task of the loop gets its turn between the pieces, and never late."""

    async def read(engine: Engine, turns: list[float]) -> tuple[list[Delta], int]:
        pieces: list[Delta] = []
        before = 0
        async for piece in engine.stream(replace(case.request, max_new_tokens=200)):
            before = before if pieces else len(turns)
            pieces.append(piece)
        return pieces, len(turns) - before

    async def talk(engine: Engine) -> tuple[list[Delta], int, float]:
        turns: list[float] = []
        other = asyncio.create_task(take_turns(turns))
        pieces, between = await read(engine, turns)
        other.cancel()
        pauses = [after - before for before, after in pairwise([*turns, time.perf_counter()])]
        return pieces, between, max(pauses, default=0.0)

    with closing(case.open()) as engine:
        pieces, between, pause = asyncio.run(talk(engine))
    whole(pieces)
    holds(between > 0, "the event loop did not turn between the first piece and the last")
    holds(pause < _BLOCKED, f"the event loop stood still for {pause:.1f} s")


def cancelling_a_task_cancels_its_answer(case: EngineCase) -> None:
    """Whether it reads the pieces or waits for the whole."""

    async def read(generation: Generation) -> None:
        async for _ in generation:
            pass

    async def wait(generation: Generation) -> None:
        await generation.aresult()

    async def cancel(engine: Engine, use: Use) -> Generation:
        generation = engine.stream(case.endless)
        task = asyncio.create_task(use(generation))
        await anext(aiter(generation))
        task.cancel()
        ends = await asyncio.gather(task, return_exceptions=True)
        same("how the task ended", type(ends[0]), asyncio.CancelledError)
        return generation

    with closing(case.open()) as engine:
        for use in (read, wait):
            generation = asyncio.run(cancel(engine, use))
            same("finish", generation.result(PATIENCE).finish, "cancelled")


def closing_ends_one_engine_and_no_other(case: EngineCase) -> None:
    """Its answers are cancelled, and everything asked of it later is refused."""
    with closing(case.open()) as other:
        engine = case.open()
        generation = engine.stream(case.endless)
        next(iter(generation))
        engine.close()
        engine.close()
        same("finish", generation.result(PATIENCE).finish, "cancelled")
        raises(EngineError, lambda: engine.generate(case.some))
        raises(EngineError, lambda: engine.count_tokens(case.request.messages))
        raises(EngineError, engine.info)
        raises(EngineError, engine.adapters)
        same("finish at another engine", other.generate(case.some).finish, "length")


def adapters_come_and_go_by_name(case: EngineCase) -> None:
    """While one speaks the base is as it was; what cannot be attached changes nothing."""
    if case.adapter is None:
        return
    nowhere = case.adapter / "nowhere"
    with closing(case.open()) as engine:
        plain = engine.generate(case.some)
        revision = engine.attach("checked", case.adapter)
        same("revision in adapters()", engine.adapters().get("checked"), revision)
        spoken = engine.generate(replace(case.some, adapter="checked"))
        same("revision of an answer", spoken.revision, revision)
        holds(spoken.revision != plain.revision, "base and adapter have one revision")
        holds(said(spoken) != said(plain), "base and adapter say the same")
        again = engine.generate(case.some)
        same("the base's answer", said(again), said(plain))
        same("the base's revision", again.revision, plain.revision)
        raises(ModelError, lambda: engine.attach("checked", nowhere))
        same("revision after a bad attach", engine.adapters().get("checked"), revision)
        engine.detach("checked")
        holds("checked" not in engine.adapters(), "a detached adapter is still listed")
        raises(ConfigError, lambda: engine.detach("checked"))
        _refused(engine, ConfigError, replace(case.some, adapter="checked"))


ENGINE_CONTRACT: tuple[Callable[[EngineCase], None], ...] = (
    generate_answers_what_stream_answers,
    pieces_come_one_by_one_and_add_up_to_the_message,
    usage_counts_the_ids,
    max_new_tokens_ends_an_answer,
    a_stop_string_ends_an_answer_and_is_not_in_its_text,
    a_seed_gives_the_same_answer_whatever_is_beside_it,
    sampling_options_are_heeded,
    answers_to_many_threads_are_not_mixed_up,
    cancelling_stops_the_work_and_keeps_what_came,
    waiting_may_end_before_the_answer_does,
    what_is_wrong_is_told_to_every_reader,
    recent_has_each_request_with_its_result,
    an_event_loop_turns_while_an_answer_comes,
    cancelling_a_task_cancels_its_answer,
    closing_ends_one_engine_and_no_other,
    adapters_come_and_go_by_name,
)
"""Every check; each opens engines of its own, closes them, and raises AssertionError."""


def _different_ids(result: Result) -> int:
    exact = result.message.generation
    return len(set(exact.ids)) if exact is not None else 0


def _refused(engine: Engine, error: type[Exception], request: Request) -> None:
    """Stream a request that must be refused, however its answer is read, without a piece."""
    generation = engine.stream(request)
    raises(error, lambda: next(iter(generation)))
    raises(error, lambda: generation.result(PATIENCE))
    raises(error, lambda: asyncio.run(_aresult(generation)))


async def _aresult(generation: Generation) -> object:
    return await generation.aresult()
