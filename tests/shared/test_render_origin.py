"""Recorded ids are trained by the tokenizer and template that they are of, and by no other."""

from dataclasses import replace

import pytest

from agent_finetune.records import Example, Generation, Message, Preference, Verdict
from agent_finetune.render import Renderer
from agent_finetune.testing import CHATML, tiny_tokenizer

ASKED = Message(role="user", text="What is the weather?")


@pytest.fixture(scope="module")
def renderer():
    return Renderer(tiny_tokenizer())


@pytest.fixture(scope="module")
def stranger():
    return Renderer(tiny_tokenizer(special=("<|other|>", "<|im_start|>", "<|im_end|>")))


def spelled(renderer, text="sunny"):
    """An answer, letter by letter, as no tokenizer would cut it."""
    letters = [renderer.prompt_ids([Message(role="user", text=letter)]) for letter in text]
    empty = renderer.prompt_ids([Message(role="user", text="")])
    place = next(i for i, (a, b) in enumerate(zip(letters[0], empty, strict=False)) if a != b)
    ids = (*(each[place] for each in letters), renderer.stop_ids[0])
    generation = Generation(
        prompt_ids=renderer.prompt_ids([ASKED]), ids=ids, renderer=renderer.digest
    )
    return Message(role="assistant", text=text, generation=generation)


def test_equal_tokenizers_and_templates_have_one_digest(renderer, stranger):
    assert renderer.digest == Renderer(tiny_tokenizer()).digest
    other = tiny_tokenizer()
    other.chat_template = CHATML.replace("\n{{", "\n\n{{")
    assert len({renderer.digest, stranger.digest, Renderer(other).digest}) == 3


def test_an_adapted_template_that_was_saved_keeps_the_digest(renderer, tmp_path):
    from transformers import AutoTokenizer

    renderer.save(tmp_path)
    assert Renderer(AutoTokenizer.from_pretrained(tmp_path)).digest == renderer.digest


def test_ids_of_another_tokenizer_are_not_trained(renderer, stranger):
    said = spelled(renderer)
    plain = replace(said, generation=None)
    example = Example(messages=(ASKED, said))
    (own,) = renderer.rows(example)
    assert own.ids == said.generation.prompt_ids + said.generation.ids
    assert stranger.rows(example) == stranger.rows(Example(messages=(ASKED, plain)))
    assert stranger.rows(example)[0].ids != own.ids
    fitted = stranger.fit(example, 100, "drop")
    assert fitted.rows == stranger.rows(example)


def test_feedback_on_what_another_model_said_is_rendered_too(renderer, stranger):
    said = spelled(renderer)
    plain = replace(said, generation=None)
    better = Message(role="assistant", text="It rains.")
    pair = Preference(prompt=(ASKED,), chosen=better, rejected=said)
    assert renderer.pair(pair).rejected == said.generation.ids
    assert stranger.pair(pair) == stranger.pair(replace(pair, rejected=plain))
    verdict = Verdict(prompt=(ASKED,), completion=said, good=True)
    assert renderer.verdict(verdict).completion == said.generation.ids
    assert stranger.verdict(verdict) == stranger.verdict(replace(verdict, completion=plain))


def test_a_trace_of_another_model_is_trimmed_like_any_text(renderer, stranger):
    long = Message(role="user", text="weather " * 40)
    said = spelled(renderer)
    messages = (long, Message(role="assistant", text="Hm.", trained=False), ASKED, said)
    fitted = stranger.fit(Example(messages=messages), 60, "trim")
    assert (len(fitted.rows), fitted.trimmed) == (1, 1)


def test_ids_whose_origin_was_not_kept_are_believed(renderer):
    said = spelled(renderer)
    unknown = replace(said, generation=replace(said.generation, renderer=None))
    (row,) = renderer.rows(Example(messages=(ASKED, unknown)))
    assert row.ids == said.generation.prompt_ids + said.generation.ids


def test_a_correction_stands_behind_the_prompt_that_asked_for_no_thinking():
    tokenizer = tiny_tokenizer(
        template=CHATML.replace(
            "assistant\n{% endif %}",
            "assistant\n{% if enable_thinking is defined and not enable_thinking %}"
            "<think>\n\n</think>\n\n{% endif %}{% endif %}",
        )
    )
    renderer = Renderer(tokenizer)
    quiet = renderer.thinking(False)
    said = spelled(renderer)
    prompt = quiet.prompt_ids([ASKED])
    rejected = replace(said, generation=replace(said.generation, prompt_ids=prompt))
    better = Message(role="assistant", text="It rains.")
    pair = renderer.pair(Preference(prompt=(ASKED,), chosen=better, rejected=rejected))
    assert (pair.prompt, pair.rejected) == (prompt, said.generation.ids)
    assert tokenizer.decode(pair.chosen).startswith("It rains.")
    assert prompt != renderer.prompt_ids([ASKED])
