"""A streamed turn adds up to the parsed one on every chat template, however its ids come."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import pytest
from chat_templates import NAMES, renderer, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_finetune.records import Example, Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.render.stream import TurnStream
from agent_finetune.render.tokens import decode
from agent_finetune.testing import CHATML, tiny_tokenizer
from agent_finetune.toolcalls import ParsedTurn, Piece

CALL = ToolCall(name="nameQc", arguments={"keyQc": "argQc, (or) more", "days": 3}, id="callaaaaa")
CALL_2 = ToolCall(name="nameQd", arguments={"keyQd": ["argQd"]}, id="callbbbbb")
RESULTS = tuple(
    Message(role="tool", text="fine", tool_call_id=call.id, name=call.name)
    for call in (CALL, CALL_2)
)
TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "does",
            "parameters": {
                "type": "object",
                "properties": {
                    key: {"type": kind, "description": "what"},
                    "days": {"type": "integer", "description": "when"},
                },
            },
        },
    }
    for name, key, kind in (("nameQc", "keyQc", "string"), ("nameQd", "keyQd", "array"))
)
TURNS = {
    "words": Message(role="assistant", text="textQa: été,\n\n世界 (x) 😀."),
    "thinking": Message(role="assistant", text="textQa.", thinking="thoughtQa\n\nis long"),
    "call": Message(role="assistant", text="textQa?", thinking="thoughtQa", tool_calls=(CALL,)),
    "two calls": Message(role="assistant", tool_calls=(CALL, CALL_2)),
}
KINDS = [
    *("cohere2", "gemma4", "glm4moe", "gptoss", "lfm2_v2", "llama3_1", "nemotron_3_nano"),
    *("qwen3", "qwen3_5_think", "smolvlm", "diffusion_gemma", "muse_glimmer"),
]
"""One template for each way to write a turn."""


def run(
    stream: TurnStream, chunks: Iterable[Sequence[int]]
) -> tuple[list[Piece], ParsedTurn, list[Piece]]:
    """Feed chunks; answer all pieces, the turn, and the pieces that came before the end."""
    early = [piece for chunk in chunks for piece in stream.feed(chunk)]
    late, turn = stream.finish()
    return [*early, *late], turn, early


def assert_they_add_up(pieces: Sequence[Piece], turn: ParsedTurn) -> None:
    assert "".join(piece.text for piece in pieces) == turn.text
    assert "".join(piece.thinking for piece in pieces) == (turn.thinking or "")
    assert tuple(piece.call for piece in pieces if piece.call) == turn.calls
    for piece in pieces:
        assert sum(map(bool, (piece.text, piece.thinking, piece.call))) == 1


def two(ids: Sequence[int], place: int) -> list[Sequence[int]]:
    return [ids[:place], ids[place:]]


@cache
def said(name: str, kind: str) -> tuple[Message, tuple[int, ...]]:
    """A turn as the template says it, and its ids."""
    turn = TURNS[kind]
    after = RESULTS[: len(turn.tool_calls)]
    messages = (Message(role="user", text="Go."), turn, *after)
    steps = renderer(name).steps(Example(messages=messages, tools=TOOLS))
    message = renderer(name).said_messages(messages)[steps[0].place]
    return message, steps[0].ids


def word_list(message: Any) -> list[str]:
    return f"{message.thinking or ''} {message.text}".split()


@pytest.mark.parametrize("name", NAMES)
def test_pieces_add_up_to_the_turn_however_the_ids_come(name: str) -> None:
    rng = random.Random(name)
    for kind in TURNS:
        message, ids = said(name, kind)
        parsed = renderer(name).parse(ids, TOOLS)
        assert not parsed.broken
        assert [(call.name, call.arguments) for call in parsed.calls] == [
            (call.name, call.arguments) for call in message.tool_calls
        ]
        if "left-out" not in " ".join(renderer(name).adaptation.names):
            assert word_list(parsed) == word_list(message)
        places = sorted(rng.randrange(len(ids)) for _ in range(5))
        several = [ids[a:b] for a, b in zip([0, *places], [*places, len(ids)], strict=True)]
        for chunks in ([[i] for i in ids], several, *(two(ids, place) for place in places[:3])):
            pieces, turn, _ = run(renderer(name).open_turn(TOOLS), chunks)
            assert turn == parsed
            assert_they_add_up(pieces, turn)


@pytest.mark.parametrize("name", ["qwen3", "gptoss", "llama3_1", "lfm2_v2"])
@pytest.mark.parametrize("kind", ["words", "call"])
def test_no_split_in_two_changes_anything(name: str, kind: str) -> None:
    _, ids = said(name, kind)
    parsed = renderer(name).parse(ids, TOOLS)
    for place in range(len(ids)):
        pieces, turn, _ = run(renderer(name).open_turn(TOOLS), two(ids, place))
        assert turn == parsed
        assert_they_add_up(pieces, turn)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["call", "two calls"])
def test_a_turn_that_was_cut_off_loses_no_word_and_invents_no_call(name: str, kind: str) -> None:
    message, ids = said(name, kind)
    for length in range(len(ids)):
        turn = renderer(name).parse(ids[:length], TOOLS)
        kept = f"{turn.thinking} {turn.text} {turn.broken} {turn.calls}"
        decoded = tokenizer(name).decode(ids[:length])
        for word in re.findall(r"\w+Q\w", decoded):
            assert word in kept, (length, word)
        assert all(raw in decoded for raw in turn.broken)
        assert list(turn.calls) == [
            ToolCall(name=call.name, arguments=call.arguments)
            for call in message.tool_calls[: len(turn.calls)]
        ]


@pytest.mark.parametrize("name", KINDS)
def test_words_and_thinking_come_while_they_are_said(name: str) -> None:
    for kind, field in (("words", "text"), ("thinking", "thinking")):
        message, ids = said(name, kind)
        wanted = getattr(message, field)
        _, turn, early = run(renderer(name).open_turn(), [[i] for i in ids])
        came = "".join(getattr(piece, field) for piece in early)
        if wanted in (getattr(turn, field) or ""):
            assert came[: len(wanted) - 1] == wanted[:-1]
            assert sum(bool(getattr(piece, field)) for piece in early) > 3


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Renderer]:
    made = tiny_tokenizer()
    return made, Renderer(made)


def test_a_call_comes_when_it_has_closed(plain: tuple[Any, Renderer]) -> None:
    tok, rend = plain
    stream = rend.open_turn()
    call = '<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>'
    assert stream.feed(tok(f"So. {call}").input_ids) == [Piece(text="So.")]
    (piece,) = stream.feed(tok("\nAnd").input_ids)[:1]
    assert piece.call == ToolCall(name="f", arguments={"x": "</tool_call>"})


def test_the_cost_of_a_token_does_not_grow_with_the_turn(plain: tuple[Any, Renderer]) -> None:
    tok, rend = plain
    stream = rend.open_turn()
    ids = tok("the weather in Paris is fine, <b>really</b>.\n" * 300).input_ids
    pieces = [piece for i in ids for piece in stream.feed([i])]
    assert len(stream._decoder._ids) < 40
    assert len(stream._text._buffer) < 10_000
    late, turn = stream.finish()
    assert_they_add_up([*pieces, *late], turn)
    assert turn.text == ("the weather in Paris is fine, <b>really</b>.\n" * 300).strip()


def test_half_a_character_is_never_given_out(plain: tuple[Any, Renderer]) -> None:
    tok, rend = plain
    text = "é 世界 😀 👨‍👩‍👧 \ufffd ende"
    ids = tok(text).input_ids
    assert len(ids) > len(text)
    pieces, turn, _ = run(rend.open_turn(), [[i] for i in ids])
    assert turn.text == text
    for count in range(1, len(pieces)):
        assert text.startswith("".join(piece.text for piece in pieces[:count]))


def test_a_character_that_is_cut_off_shows_as_such(plain: tuple[Any, Renderer]) -> None:
    tok, rend = plain
    ids = tok("So 世").input_ids
    assert rend.parse(ids[:-1]).text == "So \ufffd"


PARTS = ("é", "世界", "😀", "\ufffd", " ", "\n", "a", "<", "</think>", "STOP", "ST", "the weather")
TEXTS = st.lists(st.sampled_from(PARTS), max_size=25).map("".join)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.booleans(), st.integers(0, 2**32))
def test_any_text_comes_out_as_it_was_up_to_the_stop(text: str, spaced: bool, seed: int) -> None:
    tok, rend = made(spaced)
    ids = tok(text).input_ids
    rng = random.Random(seed)
    places = sorted(rng.randint(0, len(ids)) for _ in range(4))
    chunks = [ids[a:b] for a, b in zip([0, *places], [*places, len(ids)], strict=True)]
    stream = rend.open_turn(stop=("STOP",))
    pieces, turn, _ = run(stream, chunks)
    assert_they_add_up(pieces, turn)
    assert turn.text == decode(tok, ids).partition("STOP")[0].strip()
    assert stream.stopped == ("STOP" in text)


@cache
def made(spaced: bool) -> tuple[Any, Renderer]:
    tok = tiny_tokenizer(metaspace=spaced)
    return tok, Renderer(tok)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=60), st.booleans())
def test_any_ids_add_up(ids: list[int], spaced: bool) -> None:
    _, rend = made(spaced)
    pieces, turn, _ = run(rend.open_turn(), [[i] for i in ids])
    assert_they_add_up(pieces, turn)
    assert turn == rend.parse(ids)


def test_a_stop_string_ends_the_turn_wherever_it_stands(plain: tuple[Any, Renderer]) -> None:
    tok, rend = plain
    for text, wanted in (
        ("One. END two", ("One.", None, ())),
        ("<think>hm END</think>Two", ("", "hm", ())),
        (
            '<tool_call>{"name": "f", "arguments": {"x": "END"}}</tool_call>',
            ("", None, ('<tool_call>{"name": "f", "arguments": {"x": "',)),
        ),
    ):
        stream = rend.open_turn(stop=["END", "unseen"])
        ids = tok(text).input_ids
        pieces: list[Piece] = []
        for count, i in enumerate(ids, 1):
            pieces += stream.feed([i])
            assert stream.stopped == ("END" in tok.decode(ids[:count]))
        late, turn = stream.finish()
        assert (turn.text, turn.thinking, turn.broken) == wanted
        assert_they_add_up([*pieces, *late], turn)


def test_the_beginning_of_a_stop_string_waits_and_comes_out_when_it_is_none(
    plain: tuple[Any, Renderer],
) -> None:
    tok, rend = plain
    stream = rend.open_turn(stop=["ENDED"])
    assert stream.feed(tok("One END").input_ids) == [Piece(text="One")]
    assert stream.feed(tok("S").input_ids) == [Piece(text=" ENDS")]
    assert not stream.stopped


def test_a_templates_own_stop_string_stops() -> None:
    tok = tiny_tokenizer(
        special=(),
        eos="</s>",
        template=CHATML.replace("<|im_start|>", "### ").replace("<|im_end|>", "\n### end"),
    )
    rend = Renderer(tok)
    assert rend.stop_strings
    stream = rend.open_turn()
    stream.feed(tok(f"Yes.\n{rend.stop_strings[0]}\nmore").input_ids)
    assert stream.stopped
    assert stream.finish()[1].text == "Yes."


def test_nothing_behind_a_stop_token_counts(plain: tuple[Any, Renderer]) -> None:
    tok, rend = plain
    stream = rend.open_turn()
    stream.feed(tok("Hello.<|im_end|>\n<|im_start|>user").input_ids)
    assert stream.stopped
    assert stream.feed(tok("more").input_ids) == []
    assert stream.finish()[1].text == "Hello."


def test_thinking_that_the_prompt_opened_is_streamed_as_thinking() -> None:
    tok = tiny_tokenizer(template=CHATML.replace("assistant\n{%", "assistant\n<think>\n{%"))
    rend = Renderer(tok)
    pieces, turn, early = run(
        rend.open_turn(), [[i] for i in tok("hm, so\n</think>\n\nYes.").input_ids]
    )
    assert (turn.thinking, turn.text) == ("hm, so", "Yes.")
    assert "".join(piece.thinking for piece in early) == "hm, so"
    assert_they_add_up(pieces, turn)
