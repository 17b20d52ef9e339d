"""Which rows take part in the next pass, and what becomes of what it gives."""

import threading

import pytest
import torch

from agent_finetune.contracts import Request
from agent_finetune.engine import runner
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.engine.prefix import PrefixStore
from agent_finetune.engine.row import Row, Voice
from agent_finetune.engine.runner import NoBank
from agent_finetune.engine.scheduler import Scheduler
from agent_finetune.records import Message
from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
RENDERER = Renderer(TOKENIZER)
VOICE = Voice(
    renderer=RENDERER,
    thinking=RENDERER.thinking,
    grammars=None,
    stops=frozenset(),
    revision="base",
    key=None,
)


class Watched:
    """A real runner that notes what each pass held, and can be told to fail."""

    in_pieces = True

    def __init__(self):
        self._runner = runner.pick(tiny_model(TOKENIZER))
        self.passes = []
        self.errors = []

    def memory(self):
        return self._runner.memory()

    def forward(self, spans, bank):
        self.passes.append([len(span.ids) for span in spans])
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        with torch.inference_mode():
            return self._runner.forward(spans, bank)


@pytest.fixture
def watched():
    return Watched()


def make(watched, **options):
    done = []

    def keep(request, result):
        done.append(result)

    limits = {"max_batch": 8, "prefill_chunk": 16} | options
    scheduler = Scheduler(watched, NoBank(), PrefixStore(2**24), on_done=keep, **limits)
    return scheduler, done


def add(scheduler, text="Hello", count=4):
    generation = LiveGeneration()
    request = Request(messages=[Message(role="user", text=text)], max_new_tokens=count)
    scheduler.add(Row(generation, request, VOICE, 2048))
    return generation


def run(scheduler):
    while scheduler.rows:
        scheduler.step()


def prompt_length(text):
    return len(VOICE.renderer.prompt_ids([Message(role="user", text=text)]))


def test_a_long_prompt_is_read_in_pieces(watched):
    scheduler, _ = make(watched)
    add(scheduler, "word " * 20)
    run(scheduler)
    reading = [sizes[0] for sizes in watched.passes if sizes[0] > 1]
    assert max(reading) == 16
    assert sum(sizes[0] for sizes in watched.passes) == prompt_length("word " * 20) + 3


def test_a_row_goes_on_answering_while_another_reads(watched):
    scheduler, _ = make(watched)
    add(scheduler, count=30)
    while scheduler.rows[0].reading:
        scheduler.step()
    add(scheduler, "word " * 20)
    del watched.passes[:]
    run(scheduler)
    assert [1, 16] in watched.passes


def test_no_more_rows_run_than_allowed_and_all_get_their_turn(watched):
    scheduler, done = make(watched, max_batch=2)
    generations = [add(scheduler, f"number {n}") for n in range(5)]
    run(scheduler)
    assert max(map(len, watched.passes)) == 2
    assert [result.id for result in done] == [generation.id for generation in generations]


def test_a_cancelled_row_costs_no_further_pass(watched):
    scheduler, done = make(watched)
    generation = add(scheduler, "word " * 40)
    scheduler.step()
    generation.cancel()
    before = len(watched.passes)
    scheduler.step()
    assert len(watched.passes) == before
    assert not scheduler.rows
    assert done[0].finish == generation.result().finish == "cancelled"
    assert done[0].message.generation.ids == ()


def test_a_row_cancelled_while_it_waits_is_told_at_once(watched):
    scheduler, _ = make(watched, max_batch=1)
    add(scheduler, count=20)
    scheduler.step()
    waiting = add(scheduler)
    waiting.cancel()
    scheduler.step()
    assert waiting.result(timeout=0).finish == "cancelled"


def test_what_a_cancelled_row_has_said_is_in_its_result(watched):
    scheduler, _ = make(watched)
    generation = add(scheduler, count=50)
    for _ in range(6):
        scheduler.step()
    generation.cancel()
    scheduler.step()
    full = add(scheduler, count=50)
    run(scheduler)
    said = generation.result().message.generation.ids
    assert 0 < len(said) < 50
    assert full.result().message.generation.ids[: len(said)] == said


def test_rows_that_begin_alike_read_the_beginning_once(watched):
    scheduler, done = make(watched, prefill_chunk=512)
    same = "word " * 60
    for n in range(4):
        add(scheduler, f"{same}{n}")
    run(scheduler)
    shared = prompt_length(same) - 10
    assert [result.usage.cached_tokens > shared for result in done].count(True) == 3
    assert watched.passes[0] == [prompt_length(f"{same}0")]


def test_a_pass_that_fails_is_told_to_its_rows_and_the_next_ones_go_on(watched, caplog):
    scheduler, _ = make(watched)
    watched.errors = [ValueError("broken layer")]
    first = add(scheduler)
    scheduler.step()
    with pytest.raises(ValueError, match="broken layer"):
        first.result(timeout=0)
    second = add(scheduler)
    run(scheduler)
    assert second.result(timeout=0).finish == "length"
    assert "a forward pass failed" in caplog.text


def test_where_memory_runs_out_fewer_rows_go_on_and_none_is_lost(watched, caplog):
    scheduler, done = make(watched)
    questions = [f"number {n}" for n in range(4)]
    for text in questions:
        add(scheduler, text)
    run(scheduler)
    expected = [result.message.generation.ids for result in done]
    del done[:]
    for text in questions:
        add(scheduler, text)
    watched.errors = [None] * 2 + [torch.OutOfMemoryError("full")]
    del watched.passes[:]
    run(scheduler)
    ids = {result.message.generation.prompt_ids: result.message.generation.ids for result in done}
    assert sorted(ids.values()) == sorted(expected)
    assert max(map(len, watched.passes[3:])) == 2
    assert "going on with 2" in caplog.text


def test_one_conversation_that_does_not_fit_is_told_so(watched):
    scheduler, _ = make(watched)
    watched.errors = [torch.OutOfMemoryError("full")]
    generation = add(scheduler)
    run(scheduler)
    with pytest.raises(RuntimeError, match="out of GPU memory with one conversation of"):
        generation.result(timeout=0)


def test_readers_of_one_answer_each_get_all_of_it(watched):
    scheduler, _ = make(watched)
    generation = add(scheduler, count=20)
    texts = []
    readers = [
        threading.Thread(target=lambda: texts.append("".join(p.text for p in generation)))
        for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    run(scheduler)
    for reader in readers:
        reader.join()
    assert texts == [generation.result().message.text] * 3


def test_waiting_for_an_answer_has_an_end():
    with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"):
        LiveGeneration().result(timeout=0.01)
