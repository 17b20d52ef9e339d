"""Over-long rows: what is kept, what is let go, and that it is counted."""

from __future__ import annotations

import pytest

from agent_finetune.errors import DataError
from agent_finetune.records import Example, Generation, Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_tokenizer

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SYSTEM = Message(role="system", text="SYSTEM")


def user(text):
    return Message(role="user", text=text)


def says(text="", **more):
    return Message(role="assistant", text=text, **more)


def call(text):
    return says(tool_calls=(ToolCall(name="look", arguments={"at": text}),))


def result(text):
    return Message(role="tool", text=text)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return Renderer(tokenizer)


def example(*messages, tools=()):
    return Example(messages=messages, tools=tools, source="data.jsonl:7")


def length(renderer, *messages, tools=()):
    """Tokens of the row that ends with the last message."""
    return len(renderer.rows(example(*messages, tools=tools))[-1].ids)


CHAT = (
    SYSTEM,
    user("question one"),
    says("answer one"),
    user("question two"),
    says("answer two"),
    user("question three"),
    says("answer three"),
)


@pytest.mark.parametrize("policy", ["trim", "drop", "error"])
def test_rows_that_fit_are_left_alone(renderer, policy):
    whole = renderer.rows(example(*CHAT))
    fitted = renderer.fit(example(*CHAT), len(whole[0].ids), policy)
    assert fitted.rows == whole
    assert (fitted.dropped, fitted.trimmed) == (0, 0)


def test_error_names_the_line_and_both_lengths(renderer):
    long = length(renderer, *CHAT)
    with pytest.raises(DataError, match=rf"data\.jsonl:7: a row has {long} tokens; .* is 20 "):
        renderer.fit(example(*CHAT), 20, "error")


def test_drop_leaves_the_row_out_and_counts_it(renderer):
    fitted = renderer.fit(example(*CHAT), 20, "drop")
    assert (fitted.rows, fitted.dropped, fitted.trimmed) == ((), 1, 0)


def test_trim_trains_every_turn_and_forgets_the_oldest_rounds(tokenizer, renderer):
    limit = length(renderer, SYSTEM, *CHAT[3:])
    fitted = renderer.fit(example(*CHAT), limit, "trim")
    assert (len(fitted.rows), fitted.dropped, fitted.trimmed) == (2, 0, 1)
    early, late = (tokenizer.decode(row.ids) for row in fitted.rows)
    assert "answer two" in early
    assert "answer three" not in early
    assert late.startswith("<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\nquestion two")
    said = [
        tokenizer.decode([i for i, on in zip(row.ids, row.trained, strict=True) if on])
        for row in fitted.rows
    ]
    assert said == ["answer one<|im_end|>answer two<|im_end|>", "answer three<|im_end|>"]
    assert all(len(row.ids) <= limit for row in fitted.rows)
    assert {row.source for row in fitted.rows} == {"data.jsonl:7"}


def test_trim_keeps_the_last_user_turn_or_drops(renderer):
    messages = (*CHAT[:-2], user("a much longer question three"), CHAT[-1])
    last = length(renderer, SYSTEM, *messages[5:])
    fitted = renderer.fit(example(*messages), last, "trim")
    assert (len(fitted.rows[-1].ids), fitted.dropped) == (last, 0)
    fitted = renderer.fit(example(*messages), last - 1, "trim")
    assert (sum(sum(row.trained) for row in fitted.rows), fitted.dropped) == (
        sum(renderer.rows(example(*CHAT[:5]))[0].trained),
        1,
    )


def test_trim_takes_calls_and_their_results_together(tokenizer, renderer):
    loop = (
        user("find it"),
        call("one"),
        result("RESULT-ONE"),
        call("two"),
        result("RESULT-TWO"),
        says("found"),
    )
    limit = length(renderer, SYSTEM, loop[0], *loop[3:], tools=(TOOL,))
    fitted = renderer.fit(example(SYSTEM, *loop, tools=(TOOL,)), limit, "trim")
    assert fitted.trimmed == 1
    assert fitted.dropped == 0
    text = tokenizer.decode(fitted.rows[-1].ids)
    assert "SYSTEM" in text
    assert '"name":"look"' in text
    assert "find it" in text
    assert "RESULT-TWO" in text
    assert "RESULT-ONE" not in text
    assert '"at": "one"' not in text
    for row in fitted.rows:
        assert len(row.ids) <= limit


def test_trim_goes_on_behind_a_turn_that_can_never_fit(tokenizer, renderer):
    messages = (user("short"), says("long " * 60), user("again"), says("fine"))
    fitted = renderer.fit(example(*messages), 40, "trim")
    assert (len(fitted.rows), fitted.dropped, fitted.trimmed) == (1, 1, 1)
    assert tokenizer.decode(fitted.rows[0].ids).startswith("<|im_start|>user\nagain")


def test_a_conversation_that_begins_with_the_model_is_trimmed_too(tokenizer, renderer):
    messages = (says("welcome " * 20, trained=False), user("hello"), says("yes"))
    limit = length(renderer, *messages[1:])
    fitted = renderer.fit(example(*messages), limit, "trim")
    assert (len(fitted.rows), fitted.dropped, fitted.trimmed) == (1, 0, 1)
    alone = (SYSTEM, says("welcome " * 20, trained=False), says("yes"))
    fitted = renderer.fit(example(*alone), length(renderer, SYSTEM, says("yes")), "trim")
    assert (len(fitted.rows), fitted.trimmed) == (1, 1)


def test_a_recorded_turn_is_never_trimmed(renderer):
    recorded = Generation(prompt_ids=tuple(range(60)), ids=(5, 6))
    messages = (user("one"), says("hi"), user("two"), says("yo", generation=recorded))
    fitted = renderer.fit(example(*messages), 50, "trim")
    assert (len(fitted.rows), fitted.dropped, fitted.trimmed) == (1, 1, 0)


def test_what_cannot_fit_at_all_leaves_no_row(renderer):
    fitted = renderer.fit(example(user("word " * 50), says("x")), 20, "trim")
    assert (fitted.rows, fitted.dropped, fitted.trimmed) == ((), 1, 0)
