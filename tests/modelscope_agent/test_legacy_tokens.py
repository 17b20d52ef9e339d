"""The 2023 text as ids: what is trained is what is served, and 2023's tokenizing is mended."""

import re

import pytest
import script2023
import torch
from hypothesis import HealthCheck, given, settings
from legacy_rows import (
    TOKENIZERS,
    TWO_TURNS,
    conversation,
    executed,
    read,
    row,
    think,
    well_formed_rows,
    with_bos,
)

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.errors import DataError, RenderError
from agent_finetune.records import Section
from agent_finetune.settings import read_settings
from agent_finetune.testing.tiny import tiny_tokenizer
from modelscope_agent_train import legacy

TALK = conversation(*TWO_TURNS)
HEADER = re.compile(r"\n{0,2}<\|assistant\|>:")


CACHED = {kind: make() for kind, make in TOKENIZERS.items()}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return CACHED[request.param]


def all_rows(tokenizer, talk):
    return legacy.rows(tokenizer, talk, 100_000, "error").rows


def runs_of_trained(tokenizer, rows):
    """Text of each stretch of trained ids."""
    found, ids = [], []
    for token_row in rows:
        for token, trained in [*zip(token_row.ids, token_row.trained, strict=True), (0, False)]:
            if trained:
                ids.append(token)
            elif ids:
                found.append(tokenizer.decode(ids))
                ids = []
    return found


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=well_formed_rows)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_trained_text_is_that_of_2023_and_the_end_of_sequence(kind, data):
    expected = script2023.segments(data)
    if expected is None:
        return
    tokenizer = CACHED[kind]
    end = legacy.stop(tokenizer).ending
    found = "".join(runs_of_trained(tokenizer, all_rows(tokenizer, read(data))))
    told = "".join(
        text.removesuffix("\n\n</s>") + end if flag and last else text if flag else ""
        for (text, flag), last in zip(expected, ends_of_turns(expected), strict=True)
    )
    # A header's line breaks may be one token with the user's last sign.
    found, told = HEADER.sub("", found), HEADER.sub("", told)
    if kind == "llama-2":  # its decoder drops blanks where a text begins
        found, told = found.replace(" ", ""), told.replace(" ", "")
    assert found == told


def ends_of_turns(found):
    following = [text.startswith("\n\n<|user|>:") and not flag for text, flag in found[1:]]
    return [*following, True]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=well_formed_rows)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_prompt_is_the_beginning_of_a_row_and_the_row_says_what_comes_next(kind, data):
    if script2023.segments(data) is None:
        return
    tokenizer, talk = CACHED[kind], read(data)
    rows = all_rows(tokenizer, talk)
    for number in range(len(legacy.steps(talk))):
        prompt = legacy.prompt_ids(tokenizer, talk, number)
        begun = [each for each in rows if each.ids[: len(prompt)] == prompt]
        assert any(each.trained[len(prompt) : len(prompt) + 1] == (True,) for each in begun)


def test_the_prompt_ids_are_those_of_its_text_as_the_tokenizer_makes_them(tokenizer):
    begins = tokenizer.bos_token or ""
    step = legacy.steps(TALK)[0]
    served = tokenizer(begins + step.prompt, add_special_tokens=False)["input_ids"]
    assert list(legacy.prompt_ids(tokenizer, TALK, 0)) == served


def test_no_token_of_an_exec_block_or_a_user_is_trained(tokenizer):
    secret = conversation(("Private?", f"{think()}{executed('secret')}{executed('hidden')}Done."))
    trained = "".join(runs_of_trained(tokenizer, all_rows(tokenizer, secret)))
    for word in ("secret", "hidden", "exec|>", "Private", "?", "ModelScopeGPT"):
        assert word not in trained


def test_borders_that_no_token_crosses_give_one_row():
    (one,) = all_rows(CACHED["tiny"], TALK)
    text = "".join(text for text, _ in legacy.text_pieces(TALK))
    ended = text.replace("\n\n</s>", "\n\n</s><|im_end|>")
    assert list(one.ids) == CACHED["tiny"](ended)["input_ids"]


def test_a_token_across_a_border_starts_a_row_and_the_whole_call_is_trained():
    tokenizer = CACHED["llama-3"]
    joined = conversation(("Rome?", f"<|startofthink|><|endofthink|>{executed('1')}"))
    text = "".join(text for text, _ in legacy.text_pieces(joined))
    crossing = [t for t in map(tokenizer.decode, tokenizer(text)["input_ids"]) if "><" in t]
    assert crossing
    call, end = all_rows(tokenizer, joined)
    trained = tokenizer.decode([i for i, on in zip(call.ids, call.trained, strict=True) if on])
    assert trained.endswith("<|startofthink|><|endofthink|>")
    assert runs_of_trained(tokenizer, [end]) == ["\n\n</s><|eot_id|>"]


def test_of_a_header_what_is_one_token_with_the_users_sign_is_not_trained():
    tokenizer = CACHED["llama-3"]
    question = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("?\n\n"))
    assert len(question) == 1
    one = all_rows(tokenizer, conversation(("Rome?", "Yes.")))[0]
    assert not one.trained[one.ids.index(question[0])]
    assert runs_of_trained(tokenizer, [one])[0].startswith("<|assistant|>:")


def test_sections_tell_calls_words_answer_and_end_apart():
    (one,) = all_rows(CACHED["tiny"], TALK)
    said = {
        section: CACHED["tiny"].decode(
            [i for i, s in zip(one.ids, one.sections, strict=True) if s is section]
        )
        for section in Section
    }
    assert said[Section.TOOL_CALL].count("<|endofthink|>") == 2
    assert said[Section.STOP] == "\n\n</s><|im_end|>" * 2
    assert "9 degrees." in said[Section.FINAL_ANSWER]
    assert "Once more." in said[Section.TEXT]


# What 2023 did wrong.


@pytest.mark.parametrize("kind", ["llama-2", "llama-3"])
def test_one_bos_at_the_very_start_where_2023_put_one_into_every_segment(kind):
    tokenizer, data = CACHED[kind], row(*TWO_TURNS)
    found = script2023.segments(data)
    ids, _ = script2023.tokenized(tokenizer, found)
    assert ids.tolist().count(tokenizer.bos_token_id) == len(found) > 1
    for each in all_rows(tokenizer, read(data)):
        assert each.ids[0] == tokenizer.bos_token_id
        assert each.ids.count(tokenizer.bos_token_id) == 1


def test_no_bos_where_the_tokenizer_adds_none():
    assert CACHED["tiny"](legacy.steps(TALK)[0].prompt)["input_ids"] == list(
        legacy.prompt_ids(CACHED["tiny"], TALK, 0)
    )


@pytest.mark.parametrize("kind", ["llama-2", "llama-3"])
def test_served_ids_begin_the_row_where_those_of_2023_did_not(kind):
    tokenizer, data = CACHED[kind], row(*TWO_TURNS)
    ids_2023, _ = script2023.tokenized(tokenizer, script2023.segments(data))
    for number, (prompt, _) in enumerate(script2023.shown(data)):
        served = tokenizer(prompt)["input_ids"]
        assert ids_2023.tolist()[: len(served)] != served
        ours = legacy.prompt_ids(tokenizer, read(data), number)
        assert any(each.ids[: len(ours)] == ours for each in all_rows(tokenizer, read(data)))


@pytest.mark.parametrize("kind", ["tiny", "llama-3"])
def test_the_end_of_sequence_is_trained_after_every_turn_where_2023_never_did(kind):
    tokenizer, data = CACHED[kind], row(*TWO_TURNS)
    _, labels = script2023.tokenized(tokenizer, script2023.segments(data))
    assert tokenizer.eos_token_id not in labels
    trained = [
        i
        for each in all_rows(tokenizer, read(data))
        for i, on in zip(each.ids, each.trained, strict=True)
        if on
    ]
    assert trained.count(tokenizer.eos_token_id) == 2
    assert legacy.stop(tokenizer).ending == f"\n\n</s>{tokenizer.eos_token}"


def test_where_the_end_of_sequence_is_written_so_it_is_that_one_token_and_no_other():
    tokenizer = CACHED["llama-2"]
    rows = all_rows(tokenizer, conversation(("a", "b")))
    assert rows[-1].ids[-1] == tokenizer.eos_token_id
    assert rows[-1].ids.count(tokenizer.eos_token_id) == 1
    stop = legacy.stop(tokenizer)
    assert (stop.id, stop.ending) == (tokenizer.eos_token_id, "\n\n</s>")


def test_trimming_keeps_system_and_plugins_where_2023_cut_them_off():
    tokenizer, data = CACHED["tiny"], row(*TWO_TURNS)
    system = tokenizer("<|system|>:" + data["conversations"][0]["value"])["input_ids"]
    full = len(all_rows(tokenizer, read(data))[0].ids)
    limit = full - 40
    ids, _ = script2023.tokenized(tokenizer, script2023.segments(data), limit)
    assert "You are ModelScopeGPT" not in tokenizer.decode(ids)
    fitted = legacy.rows(tokenizer, read(data), limit, "trim")
    assert fitted.trimmed == 1
    for each in fitted.rows:
        assert len(each.ids) <= limit
        assert list(each.ids[: len(system)]) == system
    trained = "".join(runs_of_trained(tokenizer, fitted.rows))
    assert "9 degrees." in trained
    assert "7 度。" in trained


def test_over_long_rows_are_dropped_or_refused_by_policy():
    tokenizer = CACHED["tiny"]
    dropped = legacy.rows(tokenizer, TALK, 50, "drop")
    assert (dropped.rows, dropped.dropped) == ((), 1)
    with pytest.raises(DataError, match="a row has"):
        legacy.rows(tokenizer, TALK, 50, "error")


def test_nothing_is_left_rather_than_a_row_without_labels_whose_loss_is_not_a_number():
    tokenizer, data = CACHED["tiny"], row(("a", f"{think()}{executed('long ' * 60)}"))
    _, labels = script2023.tokenized(tokenizer, script2023.segments(data), 200)
    labels = labels[:100]  # as where the exec block is what the cut leaves
    assert set(labels.tolist()) == {script2023.IGNORE_INDEX}
    logits = torch.zeros(len(labels), len(tokenizer))
    assert torch.nn.functional.cross_entropy(logits, labels).isnan()
    for limit in (8, 60, 120, 200):
        fitted = legacy.rows(tokenizer, read(data), limit, "trim")
        assert all(any(each.trained) for each in fitted.rows)
        assert fitted.rows or fitted.dropped


def test_exec_blocks_in_a_row_keep_ids_whole_numbers_where_2023_made_them_floats():
    data = row(("a", f"{think()}{executed('1')}{executed('2')}ok"))
    found = script2023.segments(data)
    assert ("", 1) in found
    ids, _ = script2023.tokenized(CACHED["tiny"], found)
    assert ids.dtype == torch.float32
    (one,) = all_rows(CACHED["tiny"], read(data))
    assert all(type(token) is int for token in one.ids)


# What cannot be done.


def test_a_tokenizer_without_an_end_of_sequence_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(RenderError, match="no end-of-sequence token"):
        legacy.stop(tokenizer)


def test_an_end_of_sequence_whose_text_is_another_token_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens("ending")
    tokenizer.eos_token = "end"
    with pytest.raises(RenderError, match="it must end with one end of sequence"):
        legacy.stop(tokenizer)


def test_a_beginning_that_no_text_stands_for_is_refused():
    tokenizer = with_bos(tiny_tokenizer(special=("<s>",)), "<s>")
    tokenizer.decode = lambda ids, **options: "somewhat else"
    with pytest.raises(RenderError, match="which no text stands for"):
        legacy.prompt_ids(tokenizer, TALK, 0)


@pytest.mark.real
def test_rows_of_a_real_tokenizer_begin_with_the_served_ids_and_hold_the_trained_text():
    model = ModelConfig(model="smollm2-135m-instruct", device="cpu")
    tokenizer = plugins.load_model(model, read_settings()).tokenizer
    rows = all_rows(tokenizer, TALK)
    assert len(rows) == 1
    for number in range(4):
        prompt = legacy.prompt_ids(tokenizer, TALK, number)
        assert rows[0].ids[: len(prompt)] == prompt
    trained = [text for text, on in legacy.text_pieces(TALK) if on]
    assert "".join(runs_of_trained(tokenizer, rows)) == "".join(
        text.replace("\n\n</s>", "\n\n</s><|im_end|>") for text in trained
    )
