"""Preferences become the ids that were served, and everything that the model said."""

import pytest

from agent_finetune.errors import DataError, RenderError
from agent_finetune.records import (
    Example,
    Generation,
    Message,
    PairTokens,
    Preference,
    Section,
    ToolCall,
    Verdict,
    VerdictTokens,
)
from agent_finetune.render import Renderer
from agent_finetune.testing import CHATML, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
RENDERER = Renderer(TOKENIZER)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = ToolCall(name="get_weather", arguments={"city": "Paris"}, id="call00001")
PROMPT = (Message(role="user", text="What is the weather in Paris?"),)


def says(text="", **more):
    return Message(role="assistant", text=text, **more)


def preference(chosen, rejected, **more):
    return Preference(prompt=PROMPT, chosen=chosen, rejected=rejected, **more)


def recorded(text, prompt_ids=None, ids=None):
    """An answer that the model itself gave."""
    if ids is None:
        ids = tuple(TOKENIZER(text + "<|im_end|>", add_special_tokens=False)["input_ids"])
    given = RENDERER.prompt_ids(PROMPT) if prompt_ids is None else prompt_ids
    return says(text, generation=Generation(prompt_ids=given, ids=ids))


def by_letters(text):
    """A tokenization that the tokenizer itself would never choose."""
    return tuple(
        id_ for letter in text for id_ in TOKENIZER(letter, add_special_tokens=False)["input_ids"]
    )


def decode(ids):
    return TOKENIZER.decode(ids)


def test_a_pair_is_the_served_prompt_and_two_whole_answers():
    pair = RENDERER.pair(preference(says("Sunny."), says("No idea."), source="pairs.jsonl:3"))
    assert pair.prompt == RENDERER.prompt_ids(PROMPT)
    assert decode(pair.chosen) == "Sunny.<|im_end|>"
    assert decode(pair.rejected) == "No idea.<|im_end|>"
    assert pair.source == "pairs.jsonl:3"


def test_a_pair_has_the_ids_that_supervised_training_has():
    pair = RENDERER.pair(preference(says("Sunny."), says("No idea.")))
    (row,) = RENDERER.rows(Example(messages=(*PROMPT, says("Sunny."))))
    assert pair.prompt + pair.chosen == row.ids


def test_a_whole_answer_counts_whatever_sections_are_trained():
    renderer = Renderer(TOKENIZER, sections=[Section.TOOL_CALL])
    pair = renderer.pair(preference(says("Sunny."), says("No idea.")))
    assert decode(pair.chosen) == "Sunny.<|im_end|>"


def test_earlier_turns_and_tool_results_are_context():
    prompt = (*PROMPT, says(tool_calls=(CALL,)), Message(role="tool", text="rain"))
    judged = Verdict(prompt=prompt, completion=says("It rains."), good=True, tools=(TOOL,))
    row = RENDERER.verdict(judged)
    assert row.prompt == RENDERER.prompt_ids(prompt, (TOOL,))
    assert decode(row.completion) == "It rains.<|im_end|>"
    assert "rain" in decode(row.prompt)


def test_a_tool_call_can_be_preferred():
    pair = RENDERER.pair(preference(says(tool_calls=(CALL,)), says("No idea."), tools=(TOOL,)))
    assert '"get_weather"' in decode(pair.chosen)
    assert decode(pair.chosen).endswith("<|im_end|>")
    assert RENDERER.parse(pair.chosen, (TOOL,)).calls[0].arguments == {"city": "Paris"}


def test_what_the_model_said_keeps_its_own_ids():
    ids = (*by_letters("weather"), TOKENIZER.eos_token_id)
    answer = recorded("weather", ids=ids)
    assert RENDERER.pair(preference(says("Sunny."), answer)).rejected == ids
    assert RENDERER.pair(preference(answer, says("Sunny."))).chosen == ids
    assert RENDERER.verdict(Verdict(prompt=PROMPT, completion=answer, good=False)) == VerdictTokens(
        prompt=RENDERER.prompt_ids(PROMPT), completion=ids, good=False, source="verdict"
    )


def test_a_pair_has_the_prompt_that_the_answer_was_recorded_with():
    text = decode(RENDERER.prompt_ids(PROMPT))
    start, word, end = text.partition("weather")
    plain = [TOKENIZER(part, add_special_tokens=False)["input_ids"] for part in (start, end)]
    other = (*plain[0], *by_letters(word), *plain[1])
    assert decode(other) == text
    assert other != RENDERER.prompt_ids(PROMPT)
    answer = recorded("No idea.", prompt_ids=other)
    for asked in (preference(says("Sunny."), answer), preference(answer, says("Sunny."))):
        assert RENDERER.pair(asked).prompt == other


def test_an_answer_that_was_cut_off_gets_no_stop():
    ids = by_letters("No id")
    assert RENDERER.pair(preference(says("Sunny."), recorded("No id", ids=ids))).rejected == ids


def test_answers_behind_different_prompts_are_refused():
    elsewhere = RENDERER.prompt_ids([Message(role="user", text="Who?")])
    with pytest.raises(DataError, match=r"log:4: chosen stands behind a prompt of \d+ characters"):
        RENDERER.pair(
            preference(says("Sunny."), recorded("No.", prompt_ids=elsewhere), source="log:4")
        )


def test_one_answer_twice_is_refused_in_whatever_tokens():
    with pytest.raises(DataError, match=r"p1: chosen and rejected are both 'Sunny\.<|im_end|>'"):
        RENDERER.pair(preference(says("Sunny."), says("Sunny."), id="p1"))
    same = recorded("Sunny.", ids=(*by_letters("Sunny."), TOKENIZER.eos_token_id))
    with pytest.raises(DataError, match="are both"):
        RENDERER.pair(preference(says("Sunny."), same))


def test_only_what_a_model_says_can_be_judged():
    user = Message(role="user", text="Thanks")
    with pytest.raises(DataError, match="preference: rejected has the role 'user'"):
        RENDERER.pair(preference(says("Sunny."), user))


def test_what_the_template_cannot_say_names_the_side():
    once = CHATML.replace(
        "{{ message['content'] }}",
        "{% if 'forbidden' in message['content'] %}{{ raise_exception('forbidden word') }}"
        "{% endif %}{{ message['content'] }}",
    )
    renderer = Renderer(tiny_tokenizer(template=once))
    asked = preference(says("forbidden"), says("No idea."), source="pairs.jsonl:9")
    with pytest.raises(RenderError, match=r"pairs\.jsonl:9: chosen: .*forbidden word"):
        renderer.pair(asked)


@pytest.mark.parametrize("empty", ["prompt", "chosen", "rejected"])
def test_rows_without_tokens_are_refused(empty):
    values = {"prompt": (1,), "chosen": (2,), "rejected": (3,)} | {empty: ()}
    with pytest.raises(DataError, match=f"pair: {empty} has no tokens"):
        PairTokens(**values)
    if empty == "prompt":
        with pytest.raises(DataError, match="a:1: prompt has no tokens"):
            VerdictTokens(prompt=(), completion=(1,), good=True, source="a:1")


def test_rows_know_their_length():
    with pytest.raises(DataError, match="are the same tokens"):
        PairTokens(prompt=(1,), chosen=(2,), rejected=(2,))
    assert PairTokens(prompt=(1, 2), chosen=(3,), rejected=(4, 5)).length == 4
    assert VerdictTokens(prompt=(1, 2), completion=(3,), good=True).length == 3
