"""How a request is answered: drawing, what was said already, and thinking that is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from chat_templates import NAMES, renderer, tokenizer
from live_engines import ask, close_all, load, open_engine
from talkative import save_talkative_model

from agent_finetune.contracts import Exchange, Request, Result, Usage
from agent_finetune.engine.sampling import Sampling, choose
from agent_finetune.errors import ConfigError
from agent_finetune.recordings.exchanges import to_exchange, to_record
from agent_finetune.records import Message, ToolCall
from agent_finetune.render.messages import as_dicts
from agent_finetune.testing import save_tiny_model, tiny_model
from agent_finetune.toolcalls import ParsedTurn

QUESTION = (Message(role="user", text="What is the weather?"),)
CALLED = (
    *QUESTION,
    Message(role="assistant", tool_calls=(ToolCall(name="now", arguments={}, id="callaaaaa"),)),
    Message(role="tool", text="noon", tool_call_id="callaaaaa", name="now"),
)
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.mark.parametrize("penalty", [1.3, 0.7, 2])
def test_a_repetition_penalty_says_what_generate_says(model, penalty: float) -> None:
    engine, loaded = open_engine(model, prefill_chunk=7), load(model)
    asked = [ask(f"Count to {n}.", repetition_penalty=penalty) for n in (3, 10)]
    generations = [engine.stream(request) for request in (*asked, ask("Count to 3."))]
    for generation in generations[:2]:
        said = generation.result().message.generation
        expected = loaded.model.generate(
            torch.tensor([said.prompt_ids]),
            max_new_tokens=12,
            do_sample=False,
            repetition_penalty=float(penalty),
            pad_token_id=0,
        )
        assert said.ids == tuple(expected[0, len(said.prompt_ids) :].tolist())
    plain = generations[2].result().message.generation.ids
    assert plain != generations[0].result().message.generation.ids
    assert plain == engine.generate(ask("Count to 3.")).message.generation.ids
    engine.close()


def test_top_k_draws_from_the_likeliest_alone_as_torch_does() -> None:
    given = torch.randn(1, 70, generator=torch.manual_seed(0)) * 2
    row = Sampling(temperature=2.0, top_k=5, seed=3)
    drawn = [choose(given, [row])[0] for _ in range(400)]
    best = given[0].topk(5).indices.tolist()
    assert set(drawn) == set(best)
    chances = (given[0, best] / 2.0).softmax(dim=-1)
    share = torch.tensor([drawn.count(token) / 400 for token in best])
    assert torch.allclose(share, chances, atol=0.1)


def test_rows_without_options_cost_and_change_nothing() -> None:
    given = torch.randn(3, 70, generator=torch.manual_seed(0))
    before = given.clone()
    penalized = Sampling(repetition_penalty=1e9)
    plain = Sampling()
    best = given.argmax(dim=-1).tolist()
    for row in (penalized, plain):
        row.hear([best[1], best[1]])
    first, other, last = choose(given, [plain, penalized, Sampling(top_k=3)])
    assert (first, last) == (best[0], best[2])
    assert other != best[1]
    assert torch.equal(given, before)
    assert plain._news == []
    assert plain._heard is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": -1},
        {"top_k": 2.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"repetition_penalty": float("inf")},
        {"thinking": "yes"},
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        ask("Hello", **wrong)


def test_options_are_recorded_and_older_records_are_read() -> None:
    request = ask("Hello", top_k=4, repetition_penalty=1.5, thinking=False, stop=())
    result = Result(
        id="a",
        message=Message(role="assistant", text="Hi"),
        finish="stop",
        revision="r",
        usage=Usage(prompt_tokens=1, completion_tokens=1),
    )
    exchange = Exchange(request=replace(request, messages=QUESTION), result=result, time=1.0)
    record = json.loads(json.dumps(to_record(exchange, model="m", adapter=None)))
    assert to_exchange(record) == exchange
    for name in ("top_k", "repetition_penalty", "thinking"):
        del record["request"]["settings"][name]
    older = to_exchange(record).request
    assert (older.top_k, older.repetition_penalty, older.thinking) == (0, 1.0, None)


@pytest.mark.parametrize("name", NAMES)
def test_asking_for_thinking_is_what_the_template_makes_of_it(name: str) -> None:
    plain = renderer(name)
    for wanted in (True, False):
        asked = plain.thinking(wanted)
        for messages in (QUESTION, plain.said_messages(CALLED)):
            served = tokenizer(name).apply_chat_template(
                as_dicts(messages),
                chat_template=plain.adaptation.template,
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=wanted,
            )
            assert asked.prompt_text(messages) == served
            assert served.endswith(asked.prompt(messages).asking)
        assert (asked.stop_ids, asked.stop_strings) == (plain.stop_ids, plain.stop_strings)
    assert plain.thinking(None) is plain


def read(name: str, wanted: bool | None, messages: Any, said: str) -> ParsedTurn:
    """What is made of a text that is said behind a prompt."""
    asked = renderer(name).thinking(wanted)
    stream = asked.open_turn(asking=asked.prompt(messages).asking)
    stream.feed(tokenizer(name)(said, add_special_tokens=False)["input_ids"])
    return stream.finish()[1]


@pytest.mark.parametrize(
    ("name", "wanted", "opened"),
    [
        ("qwen3", True, False),
        ("qwen3", False, False),
        ("qwen3_5_think", None, True),
        ("qwen3_5_think", False, False),
        ("qwen3_5_nothink", True, True),
        ("qwen3_5_nothink", None, False),
        ("qwen3_8", False, False),
        ("nemotron_3_nano", True, True),
        ("nemotron_3_nano", False, False),
        ("glm4moe", False, False),
    ],
)
def test_a_thinking_block_that_the_prompt_opens_or_closes_is_heeded(
    name: str, wanted: bool | None, opened: bool
) -> None:
    said = "thoughts</think>words" if opened else "words"
    turn = read(name, wanted, QUESTION, said)
    assert (turn.thinking, turn.text) == ("thoughts" if opened else None, "words")


def test_a_prompt_that_opens_thinking_behind_a_tools_result_is_heeded() -> None:
    turn = read("gemma4_v5", True, CALLED, "thoughts<channel|>words")
    assert (turn.thinking, turn.text) == ("thoughts", "words")
    turn = read("gemma4_v5", None, CALLED, "words")
    assert (turn.thinking, turn.text) == (None, "words")


def test_an_engine_asks_for_thinking_and_counts_what_it_asks(tmp_path) -> None:
    made = tokenizer("qwen3")
    made.save_pretrained(tmp_path)
    tiny_model(made).save_pretrained(tmp_path)
    engine = open_engine(tmp_path)
    lengths = {}
    for wanted in (None, True, False):
        result = engine.generate(ask("Hello", thinking=wanted, max_new_tokens=3))
        lengths[wanted] = result.usage.prompt_tokens
        assert lengths[wanted] == engine.count_tokens(ask("Hello").messages, thinking=wanted)
    assert lengths[None] == lengths[True] < lengths[False]
    held = engine.generate(ask("Hello", thinking=False, schema=CITY, max_new_tokens=40))
    assert json.loads(held.message.text) == {"city": "Rome"}
    engine.close()


def test_a_template_that_knows_no_thinking_serves_the_same_prompt(tmp_path) -> None:
    engine = open_engine(save_tiny_model(tmp_path))
    asked: list[Request] = [ask("Hello", thinking=wanted) for wanted in (None, True, False)]
    assert len({engine.generate(each).message.generation for each in asked}) == 1
    engine.close()
