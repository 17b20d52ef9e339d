"""Rows: the served prompt, what the model says behind it, and what of that is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_finetune.errors import DataError, RenderError
from agent_finetune.records import Example, Generation, Message, Section, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.render.sections import MARK, Openings, Span, per_token, spans
from agent_finetune.render.template import Template
from agent_finetune.render.tokens import completion, decoded_offsets
from agent_finetune.testing import CHATML, tiny_tokenizer

CALL = ToolCall(name="get_weather", arguments={"city": "Paris"})
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'system' %}{{ '<<SYS>>' + message['content'] + '<</SYS>>' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""Llama-2's shape: no generation prompt, a blank before and behind what is said."""

MISTRAL = (
    "{% set ns = namespace(system='') %}{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ '[INST] ' + (ns.system if loop.last else '') + m.content + '[/INST]' }}"
    "{% endif %}{% endfor %}"
)
"""Mistral's habit: the system message stands in the prompt, and not in the finished turn."""

FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\\n' + (m.thinking or '') + "
    "'\\n</think>\\n\\n' }}{% endif %}{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Qwen3's habit: past turns lose their thinking, so that no later prompt begins with a row."""


def user(text="What?"):
    return Message(role="user", text=text)


def says(text="", **more):
    return Message(role="assistant", text=text, **more)


def example(*messages, tools=()):
    return Example(messages=messages, tools=tools, source="data.jsonl:7")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return Renderer(tokenizer)


def trained_text(tokenizer, row):
    return tokenizer.decode([i for i, on in zip(row.ids, row.trained, strict=True) if on])


def sections_of(tokenizer, row):
    """Text of each section of a row, in order."""
    found = {}
    for i, section in zip(row.ids, row.sections, strict=True):
        if section:
            found[section] = [*found.get(section, []), i]
    return {section: tokenizer.decode(ids) for section, ids in found.items()}


def test_a_row_is_prompt_and_answer_up_to_the_stop(tokenizer, renderer):
    (row,) = renderer.rows(example(user("Hello"), says("Hi.")))
    assert tokenizer.decode(row.ids) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>"
    )
    assert trained_text(tokenizer, row) == "Hi.<|im_end|>"
    assert row.source == "data.jsonl:7"


def test_sections_name_what_each_token_is_for(tokenizer, renderer):
    turn = says("Let me look.", thinking="weather?", tool_calls=(CALL, CALL))
    (row,) = renderer.rows(example(user(), turn, tools=(TOOL,)))
    found = sections_of(tokenizer, row)
    assert found[Section.THINKING] == "<think>\nweather?\n</think>\n\n"
    assert found[Section.TEXT] == "Let me look."
    call = '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert found[Section.TOOL_CALL] == call * 2
    assert found[Section.STOP] == "<|im_end|>"
    assert Section.FINAL_ANSWER not in found


@pytest.mark.parametrize("section", Section)
def test_only_the_sections_asked_for_are_trained(tokenizer, section):
    conversation = example(
        user(),
        says("Let me look.", thinking="hm", tool_calls=(CALL,)),
        Message(role="tool", text="sunny"),
        says("It is sunny."),
        tools=(TOOL,),
    )
    renderer = Renderer(tokenizer, sections=[section])
    for row in renderer.rows(conversation):
        for part, on in zip(row.sections, row.trained, strict=True):
            assert on == (part == section)


def test_equal_words_in_thinking_answer_and_call_are_told_apart(tokenizer, renderer):
    call = ToolCall(name="get_weather", arguments={"city": "city"})
    (row,) = renderer.rows(example(user(), says("city", thinking="city", tool_calls=(call,))))
    found = sections_of(tokenizer, row)
    assert found[Section.THINKING] == "<think>\ncity\n</think>\n\n"
    assert found[Section.TEXT] == "city"
    assert found[Section.TOOL_CALL].count("city") == 2


def test_template_text_behind_the_stop_is_never_trained(tokenizer, renderer):
    (row,) = renderer.rows(example(user(), says("One."), user("And?"), says("Two.")))
    assert tokenizer.decode(row.ids).count("<|im_end|>\n") == 3
    assert trained_text(tokenizer, row) == "One.<|im_end|>Two.<|im_end|>"


def test_an_untrained_turn_is_context_only(tokenizer, renderer):
    (row,) = renderer.rows(example(user(), says("Theirs.", trained=False), user(), says("Ours.")))
    assert trained_text(tokenizer, row) == "Ours.<|im_end|>"
    assert "Theirs." in tokenizer.decode(row.ids)


def test_turns_share_a_row_where_each_prompt_begins_with_it(tokenizer, renderer):
    messages = (user(), says("One."), user(), says("Two."), user(), says("Three."))
    (row,) = renderer.rows(example(*messages))
    for place in (1, 3, 5):
        prompt = renderer.prompt_ids(messages[:place])
        assert row.ids[: len(prompt)] == prompt


def test_a_template_that_rewrites_its_past_gets_a_row_for_each_turn():
    tokenizer = tiny_tokenizer(template=FORGETFUL)
    messages = (user(), says("One.", thinking="a"), user(), says("Two.", thinking="b"))
    renderer = Renderer(tokenizer)
    first, second = renderer.rows(example(*messages))
    assert trained_text(tokenizer, first) == "<think>\na\n</think>\n\nOne.<|im_end|>"
    assert trained_text(tokenizer, second) == "<think>\nb\n</think>\n\nTwo.<|im_end|>"
    assert "\nOne.<|im_end|>" in tokenizer.decode(second.ids)
    assert "</think>\n\nOne" not in tokenizer.decode(second.ids)


def test_a_template_that_moves_the_system_message_is_served_as_it_asks():
    tokenizer = tiny_tokenizer(special=("<s>", "[INST]", "[/INST]"), eos="</s>", template=MISTRAL)
    tokenizer.bos_token = "<s>"
    system = Message(role="system", text="Be brief.")
    rows = Renderer(tokenizer).rows(
        example(system, user("Hello"), says("Hi."), user("And?"), says("Yes."))
    )
    assert [tokenizer.decode(row.ids) for row in rows] == [
        "<s>[INST] Be brief.\n\nHello[/INST] Hi.</s>",
        "<s>[INST] Hello[/INST] Hi.</s>[INST] Be brief.\n\nAnd?[/INST] Yes.</s>",
    ]
    assert [trained_text(tokenizer, row) for row in rows] == [" Hi.</s>", " Yes.</s>"]


def test_a_customised_template_without_generation_markers_trains_only_answers():
    template = "{{ '# Acme\n' }}" + CHATML.replace("assistant\n", "assistant\n>> ").replace(
        "{{ message['content'] }}",
        "{{ '>> ' if message['role'] == 'assistant' }}{{ message['content'] }}",
    )
    tokenizer = tiny_tokenizer(template=template)
    renderer = Renderer(tokenizer)
    (row,) = renderer.rows(example(user("Hello"), says("Hi."), user(), says("Yes.")))
    assert tokenizer.decode(row.ids).startswith("# Acme\n<|im_start|>user\nHello")
    assert ">> Hi.<|im_end|>" in tokenizer.decode(row.ids)
    assert trained_text(tokenizer, row) == "Hi.<|im_end|>Yes.<|im_end|>"


def test_a_served_header_that_finished_turns_lack_stays_in_the_prompt():
    quiet = CHATML.replace("assistant\n{%", "assistant\n<think>\n\n</think>\n\n{%")
    tokenizer = tiny_tokenizer(template=quiet)
    renderer = Renderer(tokenizer)
    assert renderer.adaptation.names == ("tools-as-text", "thinking-left-out")
    (row,) = renderer.rows(example(user("Hello"), says("<tag> hi")))
    assert tokenizer.decode(row.ids).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n<tag> hi<|im_end|>"
    )
    assert trained_text(tokenizer, row) == "<tag> hi<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, LLAMA_2])
def test_metaspace_tokenizers_get_no_blank_that_serving_lacks(template):
    tokenizer = tiny_tokenizer(
        special=("<s>", "<|im_start|>", "<|im_end|>"),
        eos="</s>",
        template=template,
        metaspace=True,
    )
    tokenizer.bos_token = "<s>"
    renderer = Renderer(tokenizer)
    stop = "<|im_end|>" if template == CHATML else "</s>"
    messages = (user("What is it?"), says("A tool.\n\nYes"), user("Why?"), says(" So."))
    rows = renderer.rows(example(*messages))
    said = [trained_text(tokenizer, row) for row in rows]
    served = [renderer.prompt_text(messages[:1]), renderer.prompt_text(messages[:3])]
    assert "".join(said).count(stop) == 2
    for place in (1, 3):
        prompt = list(renderer.prompt_ids(messages[:place]))
        row = next(r for r in rows if list(r.ids[: len(prompt)]) == prompt)
        ids = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.text} for m in messages[:place]],
            add_generation_prompt=True,
            return_dict=False,
        )
        assert prompt == ids
        text = messages[place].text.strip() if template == LLAMA_2 else messages[place].text
        end = " " if template == LLAMA_2 else ""
        begin = " " if template == LLAMA_2 else ""
        whole = tokenizer.decode(row.ids)
        assert f"{served[(place - 1) // 2][-8:]}{begin}{text}{end}{stop}" in whole


def test_a_tokenizer_without_offsets_renders_too():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(extra_ids=0)
    assert not tokenizer.is_fast
    (row,) = Renderer(tokenizer).rows(example(user("h\u00e9"), says("y\u00f6s", thinking="t")))
    assert sections_of(tokenizer, row) == {
        Section.THINKING: "<think>\nt\n</think>\n\n",
        Section.FINAL_ANSWER: "y\u00f6s",
        Section.STOP: "</s>",
    }


def test_a_completion_never_merges_with_the_prompt(tokenizer):
    """A served prompt may end in the middle of what would be one token."""
    served, said = "<|im_start|>assistant\nthe to", "ol<|im_end|>"
    prompt = tokenizer(served).input_ids
    assert tokenizer(served + said).input_ids[: len(prompt)] != prompt
    encoded = completion(tokenizer, served, prompt, said)
    assert tokenizer.decode([*prompt, *encoded.ids]) == served + said
    assert encoded.offsets[-1] == (2, 2 + len("<|im_end|>"))


def test_a_tokenizer_that_loses_words_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["\nx"]}, replace_extra_special_tokens=False
    )
    with pytest.raises(RenderError, match="cannot be tokenized behind"):
        completion(tokenizer, "a\n", tokenizer("b").input_ids, "xyz")


def test_recorded_ids_are_trained_as_they_were_generated(tokenizer, renderer):
    prompt = renderer.prompt_ids([user("Hello")])
    spelled = tuple(tokenizer(letter).input_ids[0] for letter in "get_weather")
    assert spelled != tuple(tokenizer("get_weather").input_ids)
    ids = (*spelled, tokenizer.eos_token_id)
    turn = says("get_weather", generation=Generation(prompt_ids=prompt, ids=ids))
    (row,) = renderer.rows(example(user("Hello"), turn))
    assert row.ids == prompt + ids
    assert row.trained == (False,) * len(prompt) + (True,) * len(ids)
    assert row.sections[len(prompt) :] == (Section.FINAL_ANSWER,) * len(spelled) + (Section.STOP,)


def test_a_recording_that_was_cut_off_gets_no_stop(tokenizer, renderer):
    prompt = renderer.prompt_ids([user("Hello")])
    ids = tuple(tokenizer("The weather is").input_ids)
    turn = says("The weather is", generation=Generation(prompt_ids=prompt, ids=ids))
    (row,) = renderer.rows(example(user("Hello"), turn))
    assert row.ids == prompt + ids
    assert Section.STOP not in row.sections


def test_recorded_turns_share_a_row_where_the_next_prompt_continued_them(tokenizer, renderer):
    first = renderer.prompt_ids([user("Hello")])
    said = (*tokenizer("H").input_ids, *tokenizer("i").input_ids, tokenizer.eos_token_id)
    between = tuple(tokenizer("\n<|im_start|>user\nMore<|im_end|>\n").input_ids)
    second = first + said + between
    messages = (
        user("Hello"),
        says("Hi", generation=Generation(prompt_ids=first, ids=said)),
        user("More"),
        says("Bye", generation=Generation(prompt_ids=second, ids=said)),
    )
    (row,) = renderer.rows(example(*messages))
    assert row.ids == second + said
    assert sum(row.trained) == 2 * len(said)


def test_a_recording_whose_words_were_edited_keeps_its_ids(tokenizer, renderer):
    ids = (*tokenizer("something else").input_ids, tokenizer.eos_token_id)
    turn = says("Edited", generation=Generation(prompt_ids=(5, 6), ids=ids))
    (row,) = renderer.rows(example(user(), turn))
    assert row.ids == (5, 6, *ids)
    assert set(row.sections[2:-1]) == {Section.FINAL_ANSWER}


@pytest.mark.parametrize(
    "messages", [(user(),), (user(), says("Theirs.", trained=False)), (user(), says("No thought."))]
)
def test_an_example_with_nothing_to_train_is_refused(tokenizer, messages):
    renderer = Renderer(tokenizer, sections=[Section.THINKING])
    with pytest.raises(DataError, match=r"data\.jsonl:7: nothing to train.* sections thinking"):
        renderer.rows(example(*messages))


def test_an_error_names_file_line_and_message():
    refuses = CHATML.replace(
        "<|im_start|>{{",
        "{% if message['content'] == 'bad' %}{{ raise_exception('not this') }}{% endif %}"
        "<|im_start|>{{",
    )
    renderer = Renderer(tiny_tokenizer(template=refuses))
    with pytest.raises(RenderError, match=r"data\.jsonl:7: message 2: .*not this"):
        renderer.rows(example(user("bad"), says("Yes.")))


def test_a_template_that_drops_words_of_this_example_is_refused():
    shy = CHATML.replace(
        "{{ message['content'] }}", "{{ message['content'] | replace('secret', '') }}"
    )
    renderer = Renderer(tiny_tokenizer(template=shy))
    with pytest.raises(RenderError, match="the text of an assistant turn is not in what"):
        renderer.rows(example(user(), says("secret")))


def test_a_token_across_a_border_is_trained_with_the_section_that_is():
    found = [
        Span(start=0, end=3, section=Section.THINKING),
        Span(start=3, end=6, section=Section.TEXT),
    ]
    offsets = [(0, 2), (2, 4), (4, 6)]
    sections, trained = per_token(offsets, found, {Section.TEXT})
    assert sections == [Section.THINKING, Section.TEXT, Section.TEXT]
    assert trained == [False, True, True]
    sections, trained = per_token(offsets, found, {Section.STOP})
    assert sections == [Section.THINKING, Section.THINKING, Section.TEXT]
    assert trained == [False, False, False]


def test_words_behind_a_call_are_words():
    turn = says("done", tool_calls=(CALL,))
    said = "<call>get_weather</call>done<end>"
    found = spans(turn, said, said.index("<end>"), Openings(), lambda _: "")
    assert [(said[s.start : s.end], s.section) for s in found] == [
        ("<call>get_weather</call>", Section.TOOL_CALL),
        ("done", Section.TEXT),
        ("<end>", Section.STOP),
    ]


def test_parts_in_an_impossible_order_are_refused():
    turn = says("words", thinking="thought")
    with pytest.raises(RenderError, match="overlap"):
        spans(turn, "words thought", 3, Openings(), lambda _: "")
    with pytest.raises(RenderError, match="call of 'get_weather' is not in"):
        spans(says(tool_calls=(CALL,)), "other", 5, Openings(), lambda _: "")


def test_offsets_of_ids_that_no_text_has_cover_the_decoded_text(tokenizer):
    ids = [i for letter in "h\u00e9\U0001f600!" for i in tokenizer(letter).input_ids]
    text = tokenizer.decode(ids)
    offsets = decoded_offsets(tokenizer, ids)
    assert offsets[0] == (0, 1)
    assert offsets[-1] == (len(text) - 1, len(text))
    assert {place for start, end in offsets for place in range(start, end)} == set(range(len(text)))


def test_long_conversations_render_once_for_each_turn_only(renderer, monkeypatch):
    calls = []
    plain = Template.text
    monkeypatch.setattr(Template, "text", lambda *a, **k: calls.append(1) or plain(*a, **k))
    messages = [m for i in range(10) for m in (user(f"Question {i}?"), says(f"Answer {i}."))]
    renderer.rows(example(*messages))
    assert len(calls) == 2 * 10


WORDS = st.text(
    alphabet=st.characters(exclude_categories=["Cs", "Co"]), min_size=1, max_size=12
).filter(lambda text: "<|im" not in text and text.strip() and MARK not in text)
TURNS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)


@given(turns=TURNS, system=st.none() | WORDS)
@settings(max_examples=60, deadline=None)
def test_any_conversation_decodes_to_what_the_template_prints(renderer, tokenizer, turns, system):
    messages = [Message(role="system", text=system)] if system else []
    for asked, answered in turns:
        messages += [user(asked), says(answered)]
    (row,) = renderer.rows(example(*messages))
    text = "".join(f"<|im_start|>{m.role}\n{m.text}<|im_end|>\n" for m in messages)
    assert tokenizer.decode(row.ids) == text.removesuffix("\n")
    assert trained_text(tokenizer, row) == "".join(f"{said}<|im_end|>" for _, said in turns)


@given(WORDS, WORDS, st.dictionaries(WORDS, WORDS | st.integers(), max_size=2))
@settings(max_examples=60, deadline=None)
def test_any_call_and_thought_are_trained_once_and_in_their_section(
    renderer, tokenizer, thought, text, arguments
):
    call = replace(CALL, arguments=arguments)
    (row,) = renderer.rows(
        example(user(), says(text, thinking=thought, tool_calls=(call,)), tools=(TOOL,))
    )
    found = sections_of(tokenizer, row)
    assert found[Section.THINKING] == f"<think>\n{thought}\n</think>\n\n"
    assert "".join(found[s] for s in (Section.TEXT, Section.TOOL_CALL)).startswith(text)
    assert found[Section.STOP] == "<|im_end|>"
