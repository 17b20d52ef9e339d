"""What a model generated is taken apart, and nothing of it is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_finetune.toolcalls import TextStream, parse

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def names_and_arguments(text):
    return [(call.name, dict(call.arguments)) for call in parse(text).calls]


def test_words_without_a_call_stay_words():
    turn = parse("  It is sunny, { really }.\n")
    assert turn.text == "It is sunny, { really }."
    assert turn.thinking is None
    assert turn.calls == turn.broken == ()


def test_a_hermes_block_becomes_a_call():
    assert names_and_arguments(CALL) == [("get_weather", {"city": "Paris"})]
    assert parse(CALL).text == ""


def test_several_blocks_become_several_calls_and_words_around_them_stay():
    second = '<tool_call>{"name": "f", "arguments": {"x": [1, null, {"y": "z"}]}}</tool_call>'
    turn = parse(f"Let me look.\n{CALL}\n{second}\nSo.")
    assert [call.name for call in turn.calls] == ["get_weather", "f"]
    assert turn.calls[1].arguments == {"x": [1, None, {"y": "z"}]}
    assert turn.text.split() == ["Let", "me", "look.", "So."]


def test_a_block_may_hold_an_array_of_calls():
    block = '<tool_call>[{"name": "a", "arguments": {}}, {"name": "b"}]</tool_call>'
    assert names_and_arguments(block) == [("a", {}), ("b", {})]


def test_thinking_is_taken_off_the_front():
    turn = parse(f"<think>\nthey want weather\n</think>\n\n{CALL}")
    assert turn.thinking == "they want weather"
    assert len(turn.calls) == 1
    assert parse("<think>\n\n</think>\n\nHello").thinking is None
    assert parse("<think>\n\n</think>\n\nHello").text == "Hello"


def test_thinking_that_was_cut_off_is_thinking():
    turn = parse("<think>\nstill at it <tool_call>")
    assert turn.thinking == "still at it <tool_call>"
    assert turn.text == ""
    assert turn.broken == ()


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": {"x": 1}}',
        '{"name": "f", "parameters": {"x": 1}}',
        '[{"name": "f", "arguments": {"x": 1}}]',
        '```json\n{"name": "f", "arguments": {"x": 1}}\n```',
        '{"name": "f", "arguments": "{\\"x\\": 1}"}',
        '{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}',
    ],
)
def test_an_answer_that_is_only_json_of_a_call_is_a_call(text):
    assert names_and_arguments(text) == [("f", {"x": 1})]


@pytest.mark.parametrize(
    "text", ['{"answer": 4}', '{"name": "Ada"}', "[1, 2]", '"name"', 'see {"name": "f"}', "{}"]
)
def test_other_json_stays_words(text):
    turn = parse(text)
    assert turn.text == text
    assert turn.calls == turn.broken == ()


@pytest.mark.parametrize(
    "block",
    [
        '<tool_call>\n{"name": "f", "arguments": {"x": \n</tool_call>',
        '<tool_call>\n{"name": "f", "argu',
        '<tool_call>\n{"name": 3, "arguments": {}}\n</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "not json"}</tool_call>',
        '<tool_call>[{"name": "f"}, 3]</tool_call>',
        "<tool_call></tool_call>",
        "<tool_call>",
        '{"name": "f", "arguments": {"x": 1}',
        '[{"name": "f", "arguments":',
    ],
)
def test_a_call_that_does_not_parse_is_kept_raw(block):
    turn = parse(block)
    assert turn.calls == ()
    assert turn.broken == (block,)
    assert turn.text == ""


def test_a_broken_call_does_not_take_a_good_one_with_it():
    turn = parse(f"<tool_call>{{oops</tool_call>{CALL}")
    assert [call.name for call in turn.calls] == ["get_weather"]
    assert turn.broken == ("<tool_call>{oops</tool_call>",)


def test_a_whole_call_whose_closing_tag_was_cut_off_is_a_call():
    assert names_and_arguments(CALL.removesuffix("</tool_call>")) == [
        ("get_weather", {"city": "Paris"})
    ]


def test_tags_in_an_argument_are_part_of_the_argument():
    said = '{"name": "write", "arguments": {"text": "<tool_call>x</tool_call></tool_call>"}}'
    turn = parse(f"<tool_call>{said}</tool_call><tool_call>{said}</tool_call>")
    assert [call.arguments["text"] for call in turn.calls] == [
        "<tool_call>x</tool_call></tool_call>"
    ] * 2
    assert turn.text == ""


def test_a_call_may_carry_its_id():
    (call,) = parse('<tool_call>{"id": "c1", "name": "f", "arguments": {}}</tool_call>').calls
    assert call.id == "c1"


def test_json_nested_beyond_reason_is_broken_and_not_an_error():
    block = "<tool_call>" + "[" * 100_000 + "</tool_call>"
    assert parse(block).broken == (block,)


@given(st.text(alphabet=st.sampled_from(list('<>/{}[]":, \nabtool_callthink')), max_size=80))
def test_any_text_parses_without_an_error(text):
    turn = parse(text)
    assert text.count("<tool_call>") <= len(turn.broken) + len(turn.calls) or turn.thinking


@given(
    st.text(min_size=1),
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists)),
)
def test_every_call_survives_the_way_through_text(name, arguments):
    said = json.dumps({"name": name, "arguments": arguments})
    assert names_and_arguments(f"<tool_call>\n{said}\n</tool_call>") == [(name, arguments)]


def test_llama_3_json_is_read_alone_or_divided_by_semicolons_or_behind_its_tag():
    one, two = '{"name": "a", "parameters": {"x": 1}}', '{"name": "b", "parameters": {}}'
    for text in (f"{one}; {two}", f"<|python_tag|>{one};{two}", f"{one};\n{two};"):
        assert names_and_arguments(text) == [("a", {"x": 1}), ("b", {})]
    turn = parse(f"So:<|python_tag|>{one}; {two[:-4]}")
    assert turn.text == "So:"
    assert turn.calls == ()
    assert turn.broken == (f"<|python_tag|>{one}; {two[:-4]}",)


def test_what_only_begins_like_json_of_a_call_is_kept_raw_or_read_in_another_form():
    assert parse('{"name": "f", "arguments": {}} it is').broken == (
        '{"name": "f", "arguments": {}} it is',
    )
    turn = parse('{"name": "Ada"} it is ' + CALL)
    assert turn.text == '{"name": "Ada"} it is'
    assert [call.name for call in turn.calls] == ["get_weather"]


def test_react_is_read_and_the_words_before_it_stay():
    turn = parse('Thought: look it up\nAction: find\nAction Input: {"q": "Paris\\nAction:"}')
    assert turn.text == "Thought: look it up"
    assert [(call.name, call.arguments) for call in turn.calls] == [
        ("find", {"q": "Paris\nAction:"})
    ]
    fenced = 'Action: `find`\nAction Input:\n```json\n{"q": 1}\n```\nObservation: 3'
    assert names_and_arguments(fenced) == [("find", {"q": 1})]
    assert parse(fenced).text == "Observation: 3"


def test_an_action_without_its_input_is_words():
    for text in ("Action: rest", "Action: rest\nAnd then?", "An Action: f\nAction Input: {}"):
        assert parse(text).text == text
        assert parse(text).calls == parse(text).broken == ()


def test_react_whose_input_is_no_json_object_is_kept_raw():
    for said in ('Action: f\nAction Input: {"a":', "Action: f\nAction Input: Paris"):
        turn = parse(f"Hm.\n{said}")
        assert (turn.text, turn.calls, turn.broken) == ("Hm.", (), (said,))


def test_msagent_blocks_are_read_with_their_fence_and_raw_line_breaks():
    said = '```JSON\n{"api_name": "f", "url": "http://x", "parameters": {"t": "a\nb"}}\n```'
    turn = parse(f"I ask.\n<|startofthink|>{said}<|endofthink|>\n\nDone.")
    assert [(call.name, call.arguments) for call in turn.calls] == [("f", {"t": "a\nb"})]
    assert turn.text.split() == ["I", "ask.", "Done."]
    assert parse('<|startofthink|>{"api_name"').broken == ('<|startofthink|>{"api_name"',)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know_break_a_call(value):
    block = f'<tool_call>{{"name": "f", "arguments": {{"x": [{value}]}}}}</tool_call>'
    assert parse(block).calls == ()
    assert parse(block).broken == (block,)


def test_a_call_that_was_cut_off_in_its_closing_tag_is_a_call():
    for length in range(1, len("</tool_call>")):
        assert names_and_arguments(CALL[:-length]) == [("get_weather", {"city": "Paris"})]


def test_a_quote_that_never_closes_does_not_swallow_the_next_call():
    turn = parse(f'<tool_call>{{"name": "f</tool_call> and {CALL}')
    assert turn.broken == ('<tool_call>{"name": "f</tool_call>',)
    assert [call.name for call in turn.calls] == ["get_weather"]
    assert turn.text == "and"


PARTS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>", ";", "\n", " "),
        *("Action: f\n", 'Action Input: {"a": 1}', "\nObservation:", "```json\n", "\n```"),
        *("<|startofthink|>", "<|endofthink|>", '"', "\\", "{", "}", "[", "]", "word", "STOP"),
        *('{"name": "f", "arguments": {"x": "<tool_call>"}}', '{"name":', "ST", "</"),
    ]
)


@given(st.lists(PARTS, max_size=10).map("".join), st.integers(0, 40), st.integers(1, 7))
def test_text_in_pieces_adds_up_to_the_same_turn_however_it_is_cut(text, first, size):
    whole = TextStream(stop=("STOP",))
    whole.feed(text)
    turn = whole.finish()[1]
    stream = TextStream(stop=("STOP",))
    chunks = [text[:first], *(text[at : at + size] for at in range(first, len(text), size))]
    pieces = [piece for chunk in chunks for piece in stream.feed(chunk)]
    late, found = stream.finish()
    pieces += late
    assert found == turn
    assert stream.stopped == whole.stopped == ("STOP" in text)
    assert "".join(piece.text for piece in pieces) == turn.text
    assert "".join(piece.thinking for piece in pieces) == (turn.thinking or "")
    assert tuple(piece.call for piece in pieces if piece.call) == turn.calls


def test_of_two_stops_the_one_that_is_whole_first_counts():
    for chunks in (["xabcd"], list("xabcd")):
        stream = TextStream(stop=("abcd", "bc"))
        pieces = [piece for chunk in chunks for piece in stream.feed(chunk)]
        assert "".join(piece.text for piece in pieces) == "xa"
        assert stream.finish()[1].text == "xa"
