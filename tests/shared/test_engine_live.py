"""One loaded model, many agents."""

import asyncio
import gc
import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from live_engines import ask, close_all, config_of, load, make_adapter, open_engine, plain_ids

from agent_finetune import plugins
from agent_finetune.contracts import EngineConfig, Settings
from agent_finetune.engine import registry
from agent_finetune.errors import BusyError, ConfigError, ContextError, EngineError, ModelError
from agent_finetune.hookspecs import hookimpl
from agent_finetune.recordings import Recordings
from agent_finetune.records import Message
from agent_finetune.render import Renderer
from agent_finetune.testing import save_tiny_model

QUESTIONS = [f"What is the weather in town number {number}?" for number in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_tiny_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.fixture(scope="module")
def adapter_folders(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(model, folder / str(seed), seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def engine(model):
    engine = open_engine(model, prefill_chunk=16)
    yield engine
    engine.close()


def worker_of(folder):
    (key,) = [key for key in registry._workers if key.location == str(folder)]
    return registry._workers[key]


def wait_until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_making_an_engine_loads_nothing(tmp_path):
    engine = open_engine(tmp_path / "nowhere")
    engine.close()


def test_greedy_answers_beside_each_other_are_those_of_generate(engine, model):
    loaded = load(model)
    generations = [engine.stream(ask(text)) for text in QUESTIONS]
    for text, generation in zip(QUESTIONS, generations, strict=True):
        said = generation.result().message.generation
        prompt = Renderer(loaded.tokenizer).prompt_ids([Message(role="user", text=text)])
        assert said.prompt_ids == prompt
        assert said.ids == plain_ids(loaded, prompt, 12)[: len(said.ids)]


def test_answers_with_interleaved_adapters_equal_those_of_each_alone(
    engine, model, adapter_folders
):
    names = [None]
    for number, folder in enumerate(adapter_folders):
        engine.attach(f"agent{number}", folder)
        names.append(f"agent{number}")
    asked = [(text, name) for text in QUESTIONS for name in names]
    together = [engine.stream(ask(text, adapter=name)) for text, name in asked]
    together = [generation.result().message.generation.ids for generation in together]
    alone = [
        engine.generate(ask(text, adapter=name)).message.generation.ids for text, name in asked
    ]
    assert together == alone
    for number, folder in enumerate(adapter_folders):
        loaded = load(model, adapter=folder)
        prompt = Renderer(loaded.tokenizer).prompt_ids([Message(role="user", text=QUESTIONS[0])])
        mine = alone[asked.index((QUESTIONS[0], f"agent{number}"))]
        assert mine == plain_ids(loaded, prompt, 12)[: len(mine)]
    assert len({alone[asked.index((QUESTIONS[0], name))] for name in names}) == len(names)


def test_many_engines_on_one_model_load_it_once(model):
    close_all()
    loads = []

    class Counting:
        @hookimpl(tryfirst=True)
        def finetune_load_model(self, config, resolved, settings):
            loads.append(config.model)

    with plugins.registered(Counting(), "counting"):
        engines = [open_engine(model) for _ in range(10)]
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda engine: engine.generate(ask("Hello")), engines))
    assert len(loads) == 1
    for engine in engines:
        engine.close()


def test_the_weights_go_when_nobody_holds_them_and_come_back_when_asked(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    adapter = make_adapter(folder, tmp_path / "adapter", seed=1)
    engine = open_engine(folder, keep_alive=0.05)
    revision = engine.attach("mine", adapter)
    first = engine.generate(ask("Hello", adapter="mine"))
    time.sleep(0.2)
    assert worker_of(folder).loaded
    engine.close()
    wait_until(lambda: not worker_of(folder).loaded)
    again = open_engine(folder, keep_alive=0.05)
    second = again.generate(ask("Hello", adapter="mine"))
    assert second.message.generation.ids == first.message.generation.ids
    assert second.revision == first.revision == revision
    again.close()


def test_a_program_that_exits_waits_for_a_model_that_is_just_given_back(tmp_path, monkeypatch):
    given_back = []

    def slowly():
        time.sleep(0.3)
        given_back.append(True)

    monkeypatch.setattr("agent_finetune.engine.worker.unload", slowly)
    engine = open_engine(save_tiny_model(tmp_path / "model"), keep_alive=0.0)
    engine.generate(ask("Hello", max_new_tokens=1))
    engine.close()
    registry.close_all()  # what runs at exit
    assert given_back


def test_an_engine_that_is_forgotten_lets_go_of_the_weights(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    engine = open_engine(folder, keep_alive=0.05)
    engine.generate(ask("Hello"))
    del engine
    gc.collect()
    wait_until(lambda: not worker_of(folder).loaded)


def test_an_answer_under_way_outlives_the_engine_that_was_asked(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    engine = open_engine(folder, keep_alive=0.0)
    generation = engine.stream(ask("Hello", max_new_tokens=60))
    del engine
    gc.collect()
    assert generation.result(timeout=30).usage.completion_tokens > 0


def test_a_closed_engine_refuses_and_the_others_go_on(model):
    engine, other = open_engine(model), open_engine(model)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate(ask("Hello"))
    assert other.generate(ask("Hello")).usage.completion_tokens > 0
    other.close()


def test_a_model_that_cannot_be_loaded_is_told_to_whoever_asks(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    engine = open_engine(folder)
    generations = [engine.stream(ask("Hello")) for _ in range(3)]
    for generation in generations:
        with pytest.raises(ModelError):
            generation.result(timeout=30)
    weights.write_bytes(whole)
    assert engine.generate(ask("Hello")).finish in ("stop", "length")
    engine.close()


def test_a_name_that_is_no_model_is_told_when_it_is_asked(tmp_path):
    engine = open_engine(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        engine.generate(ask("Hello"))
    with pytest.raises(ModelError, match="nowhere"):
        engine.count_tokens([Message(role="user", text="Hello")])


def test_a_prompt_longer_than_the_context_is_refused_before_any_work(engine):
    with pytest.raises(ContextError, match="context holds 2048"):
        engine.generate(ask("Hello", max_new_tokens=2048))
    long = "word " * 3000
    with pytest.raises(ContextError, match="shorten the conversation"):
        engine.generate(ask(long, max_new_tokens=None))


def test_an_unknown_adapter_is_refused_with_the_known_ones(engine, adapter_folders):
    engine.attach("planner", adapter_folders[0])
    with pytest.raises(ConfigError, match=r"'writer'; attached are .*planner"):
        engine.generate(ask("Hello", adapter="writer"))
    with pytest.raises(ConfigError, match="writer"):
        engine.detach("writer")


def test_a_name_that_passes_to_another_adapter_leaves_running_answers_alone(
    engine, adapter_folders
):
    first, second = adapter_folders[:2]
    long = ask("Tell me about the weather", adapter="mine", max_new_tokens=150)
    engine.attach("mine", first)
    old = engine.generate(long)
    running = engine.stream(long)
    next(iter(running))
    revision = engine.attach("mine", second)
    new = engine.generate(long)
    assert running.result().message.generation.ids == old.message.generation.ids
    assert running.result().revision == old.revision != new.revision == revision
    assert new.message.generation.ids != old.message.generation.ids


def test_an_adapter_that_does_not_fit_leaves_the_name_as_it_was(engine, adapter_folders, tmp_path):
    engine.attach("mine", adapter_folders[0])
    before = engine.adapters()
    other = save_tiny_model(tmp_path / "other", special=("<|im_start|>", "<|im_end|>", "<more>"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError):
        engine.attach("mine", tmp_path / "empty")
    damaged = make_adapter(other, tmp_path / "damaged", seed=1)
    (damaged / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError):
        engine.attach("mine", damaged)
    assert engine.adapters() == before


def test_an_engines_own_adapter_speaks_when_a_request_names_none(model, adapter_folders):
    engine = open_engine(model, adapter=adapter_folders[0])
    named = open_engine(model)
    revision = named.attach("mine", adapter_folders[0])
    assert engine.generate(ask("Hello")).revision == revision
    assert named.generate(ask("Hello")).revision != revision
    for each in (engine, named):
        each.close()


def test_an_adapters_folder_stands_in_for_the_model(model, adapter_folders):
    engine = plugins.open_engine(EngineConfig(model=config_of(adapter_folders[1])), Settings())
    other = open_engine(model)
    assert engine.generate(ask("Hello")).revision == other.attach("mine", adapter_folders[1])
    assert engine.info().revision == other.info().revision
    engine.close()
    other.close()


def test_a_next_turn_computes_only_what_is_new(engine):
    first = engine.generate(ask("Tell me about the weather in every town of the country"))
    messages = [
        Message(role="user", text="Tell me about the weather in every town of the country"),
        first.message,
        Message(role="user", text="And tomorrow?"),
    ]
    request = ask("x")
    request = type(request)(messages=messages, max_new_tokens=8)
    second = engine.generate(request)
    assert first.usage.cached_tokens < first.usage.prompt_tokens
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 1


def test_a_seed_gives_the_same_answer_whatever_is_beside_it(engine):
    warm = ask("Tell me a story", temperature=1.0, seed=7, max_new_tokens=30)
    alone = engine.generate(warm).message.generation.ids
    others = [engine.stream(ask(text, temperature=1.0)) for text in QUESTIONS]
    again = engine.generate(warm).message.generation.ids
    for other in others:
        other.result()
    assert again == alone
    other_seed = type(warm)(messages=warm.messages, temperature=1.0, seed=8, max_new_tokens=30)
    assert engine.generate(other_seed).message.generation.ids != alone


def test_the_last_256_exchanges_are_kept(engine):
    first = engine.generate(ask("Hello", max_new_tokens=1))
    assert engine.recent()[-1].result == first
    later = [engine.stream(ask(text, max_new_tokens=1)) for text in (QUESTIONS * 43)[:256]]
    results = {generation.id: generation.result() for generation in later}
    kept = engine.recent()
    assert {exchange.result.id: exchange.result for exchange in kept} == results
    assert kept[-1].request.messages[0].text in QUESTIONS


NAMED = {
    "type": "object",
    "properties": {
        "name": {"enum": ["a", "b"]},
        "arguments": {"type": "object", "maxProperties": 0},
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


def test_an_answer_held_to_a_schema_is_words_even_where_it_looks_like_a_call(engine):
    generation = engine.stream(ask("Hello", schema=NAMED, max_new_tokens=60))
    pieces = list(generation)
    result = generation.result()
    assert json.loads(result.message.text)["name"] in ("a", "b")
    assert result.finish == "stop"
    assert not result.message.tool_calls
    assert "".join(piece.text for piece in pieces) == result.message.text


@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_a_forced_call_is_made_in_one_generation(engine, choice):
    result = engine.generate(ask("Hello", tools=TOOLS, tool_choice=choice, max_new_tokens=90))
    (call,) = result.message.tool_calls
    assert call.name == "get_weather"
    assert call.arguments["city"] in ("Paris", "Rome")
    assert result.finish == "tool_calls"


def test_tools_are_not_offered_where_none_may_be_called(engine):
    with_tools = ask("Hello", tools=TOOLS, tool_choice="none")
    plain = engine.generate(ask("Hello"))
    assert engine.generate(with_tools).usage.prompt_tokens == plain.usage.prompt_tokens


def test_a_schema_that_cannot_be_held_to_is_refused(engine):
    with pytest.raises(ConfigError):
        engine.generate(ask("Hello", schema={"type": "string", "not": {"const": "a"}}))


def test_counting_tokens_gives_the_prompts_length(engine):
    asked = ask("What is the weather?")
    assert engine.count_tokens(asked.messages) == engine.generate(asked).usage.prompt_tokens


def test_the_event_loop_is_never_blocked(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    engine = open_engine(folder)
    longest = 0.0

    async def ticks():
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    async def answer():
        ticking = asyncio.create_task(ticks())
        # The first request finds and loads the model.
        result = await engine.stream(ask("Hello", max_new_tokens=40)).aresult()
        pieces = [piece async for piece in engine.stream(ask("Hello", max_new_tokens=40))]
        ticking.cancel()
        return result, pieces

    result, pieces = asyncio.run(answer())
    assert pieces[-1].result.message == result.message
    assert longest < 1.0  # one tick waits 0.005 seconds; loading takes seconds
    engine.close()


def test_200_requests_with_random_cancels_are_neither_lost_nor_mixed_up(
    engine, model, adapter_folders
):
    names = [None, "a", "b"]
    for name, folder in zip(names[1:], adapter_folders, strict=False):
        engine.attach(name, folder)
    requests = [
        ask(QUESTIONS[number % 6], adapter=names[number % 3], max_new_tokens=30)
        for number in range(18)
    ]
    expected = [engine.generate(request).message.generation.ids for request in requests]
    outcomes = {}

    def check(number, result):
        right = expected[number % 18]
        said = result.message.generation.ids
        assert said == right[: len(said)]
        assert result.finish == "cancelled" or said == right
        outcomes[number] = result

    def in_thread(numbers):
        draw = random.Random(numbers[0])
        for number in numbers:
            generation = engine.stream(requests[number % 18])
            if draw.random() < 0.4:
                time.sleep(draw.random() * 0.02)
                generation.cancel()
            check(number, generation.result(timeout=60))

    async def in_task(numbers):
        draw = random.Random(numbers[0])
        for number in numbers:
            generation = engine.stream(requests[number % 18])
            if draw.random() < 0.4:
                waiting = asyncio.create_task(generation.aresult())
                await asyncio.sleep(draw.random() * 0.02)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                check(number, await asyncio.to_thread(generation.result, 60))
            else:
                check(number, await generation.aresult())

    async def in_tasks():
        await asyncio.gather(*(in_task(range(start, 200, 16)) for start in range(8, 16)))

    with ThreadPoolExecutor(9) as pool:
        work = [pool.submit(in_thread, range(start, 200, 16)) for start in range(8)]
        work.append(pool.submit(asyncio.run, in_tasks()))
        for future in work:
            future.result()
    assert sorted(outcomes) == list(range(200))
    assert {result.finish for result in outcomes.values()} >= {"cancelled"}
    assert worker_of(model).call(lambda served: served.busy) is False


def test_memory_stays_flat_over_many_conversations(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    engine = open_engine(model, prefix_cache_mib=1)
    engine.generate(ask("warm up"))

    def held():
        gc.collect()
        kept = worker_of(model).call(lambda served: served._prefixes.nbytes)
        tensors = [value for value in gc.get_objects() if type(value) is torch.Tensor]
        return kept, sum(tensor.nbytes for tensor in tensors)

    def round_of(number):
        for generation in [
            engine.stream(ask(f"{number} {text}", max_new_tokens=20)) for text in QUESTIONS * 3
        ]:
            generation.result()
        return held()

    for number in range(3):
        settled = round_of(number)
    for number in range(3, 6):
        kept, total = round_of(number)
        assert kept <= 2**20
        assert total <= settled[1] + 2**16
    engine.close()


def test_many_engines_need_no_thread_of_their_own(model):
    open_engine(model).generate(ask("Hello"))
    before = threading.active_count()
    engines = [open_engine(model) for _ in range(20)]
    for engine in engines:
        engine.generate(ask("Hello", max_new_tokens=1))
    assert threading.active_count() <= before
    for engine in engines:
        engine.close()


def test_the_module_of_handles_costs_no_torch():
    code = (
        "import sys; from agent_finetune.engine.local import LocalEngine; "
        "from agent_finetune.contracts import EngineConfig, Settings; "
        "from agent_finetune.config import ModelConfig; "
        "LocalEngine(EngineConfig(model=ModelConfig(model='m')), Settings()); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_while_the_model_is_away_requests_wait_and_then_get_their_answer(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    engine = open_engine(folder)
    before = engine.generate(ask("Hello"))
    worker = worker_of(folder)
    running = engine.stream(ask("Hello", max_new_tokens=60))
    next(iter(running))
    with worker.away():
        assert running.done
        assert not worker.loaded
        waiting = engine.stream(ask("Hello"))
        time.sleep(0.1)
        assert not waiting.done
        with pytest.raises(BusyError), worker.away():
            pass
    assert waiting.result(timeout=30).message == before.message
    engine.close()


def test_while_the_model_is_away_an_engine_may_refuse_instead(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    engine = open_engine(folder, when_busy="error")
    engine.generate(ask("Hello"))
    with worker_of(folder).away(), pytest.raises(BusyError, match="being updated"):
        engine.generate(ask("Hello"))
    engine.generate(ask("Hello"))
    engine.close()


def test_nothing_is_recorded_without_consent_and_everything_with_it(model, tmp_path):
    store = tmp_path / "recordings.sqlite"
    silent = open_engine(model)
    silent.generate(ask("Hello"))
    assert not store.exists()
    with pytest.raises(ConfigError, match="records nothing"):
        silent.feedback("0", value=True)
    engine = open_engine(model, record_to=str(store))
    generations = [engine.stream(ask(text, max_new_tokens=3)) for text in QUESTIONS]
    results = [generation.result() for generation in generations]
    engine.feedback(results[0].id, value=True)
    recordings = Recordings(store)
    assert {each.id for each in recordings.list()} == {result.id for result in results}
    kept = recordings.by_id(results[0].id)
    assert kept.result == results[0]
    assert kept.request.messages[0].text == QUESTIONS[0]
    assert recordings.show(results[0].id).judgement.value is True
    for each in (silent, engine):
        each.close()
