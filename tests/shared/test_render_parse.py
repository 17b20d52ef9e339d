"""Generated ids become turns, read by the family's own parser where it has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trl

from agent_finetune.render import Renderer
from agent_finetune.testing import CHATML, tiny_tokenizer

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
XML = "<tool_call>\n<function=add>\n<parameter=a>\n7\n</parameter>\n</function>\n</tool_call>"
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


def family(name, *special):
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = tiny_tokenizer(
        special=("<|im_start|>", "<|im_end|>", *special), eos="<|im_end|>", template=template
    )
    return tokenizer, Renderer(tokenizer)


@pytest.fixture(scope="module")
def plain():
    tokenizer = tiny_tokenizer()
    return tokenizer, Renderer(tokenizer)


def test_text_up_to_the_stop_is_parsed(plain):
    tokenizer, renderer = plain
    turn = renderer.parse(tokenizer("Hello.<|im_end|>\n<|im_start|>user").input_ids)
    assert turn.text == "Hello."


def test_a_turn_without_its_stop_is_parsed_as_far_as_it_goes(plain):
    tokenizer, renderer = plain
    turn = renderer.parse(tokenizer('One.<tool_call>\n{"name": "f", "arg').input_ids)
    assert turn.text == "One."
    assert turn.broken == ('<tool_call>\n{"name": "f", "arg',)


def test_a_familys_format_is_read_with_the_types_of_the_schema():
    tokenizer, renderer = family("qwen3_5_think")
    ids = tokenizer(f"hm\n</think>\n\nI add.\n\n{XML}<|im_end|>").input_ids
    turn = renderer.parse(ids, [ADD])
    assert turn.thinking == "hm"
    assert turn.text == "I add."
    assert [(call.name, call.arguments) for call in turn.calls] == [("add", {"a": 7})]


def test_malformed_json_in_a_familys_format_is_kept():
    tokenizer, renderer = family("qwen3")
    ids = tokenizer('<tool_call>\n{"name": "add", "arguments": {\n</tool_call><|im_end|>').input_ids
    turn = renderer.parse(ids, [ADD])
    assert turn.calls == ()
    assert turn.broken == ('<tool_call>\n{"name": "add", "arguments": {\n</tool_call>',)
    ids = tokenizer('<tool_call>\n{"nam": "add"}\n</tool_call><|im_end|>').input_ids
    assert renderer.parse(ids).broken == ('<tool_call>\n{"nam": "add"}\n</tool_call>',)


@pytest.mark.parametrize("inside", ['"word"', "[1]", "7", '{"name": "add", "arguments": NaN}'])
def test_json_that_is_no_call_in_a_familys_format_is_kept(inside):
    tokenizer, renderer = family("qwen3")
    raw = f"<tool_call>{inside}</tool_call>"
    assert renderer.parse(tokenizer(f"{raw}<|im_end|>").input_ids).broken == (raw,)


def test_thinking_that_our_adaptation_added_is_read_beside_the_familys_calls():
    tokenizer, renderer = family("qwen2_5")
    said = (
        '<think>\nhm\n</think>\n\nSo:\n<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
    )
    turn = renderer.parse(tokenizer(said + "<|im_end|>").input_ids)
    assert (turn.thinking, turn.text) == ("hm", "So:")
    assert [call.name for call in turn.calls] == ["add"]


def test_a_prompt_that_opened_thinking_is_remembered():
    opens = CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
    tokenizer = tiny_tokenizer(template=opens)
    renderer = Renderer(tokenizer)
    turn = renderer.parse(tokenizer("hm\n</think>\n\nYes.<|im_end|>").input_ids)
    assert (turn.thinking, turn.text) == ("hm", "Yes.")


def test_the_tokenizers_own_response_template_comes_first():
    tokenizer, _ = family("qwen3")
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "thinking": {"open": "((", "close": "))", "content": "text"},
            "content": {"close_pattern": r"<\|im_end\|>", "content": "text"},
        },
    }
    turn = Renderer(tokenizer).parse(tokenizer("((hm))Yes.<|im_end|>").input_ids)
    assert (turn.thinking, turn.text) == ("hm", "Yes.")


def test_json_behind_a_templates_own_marker_is_a_call():
    tokenizer = tiny_tokenizer(
        special=("[INST]", "[/INST]", "[CALLS]"),
        eos="</s>",
        template=(
            "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
            "{% if m.tool_calls %}{{ m.content + '[CALLS] [' }}{% for c in m.tool_calls %}"
            "{{ (c.function | tojson) + (']' if loop.last else ', ') }}{% endfor %}{{ '</s>' }}"
            "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}"
            "{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% endfor %}"
        ),
    )
    renderer = Renderer(tokenizer)
    assert "tools-as-text" not in renderer.adaptation.names
    call = '{"name": "add", "arguments": {"a": 7}}'
    turn = renderer.parse(tokenizer(f"Both.[CALLS] [{call}, {call}]</s>").input_ids)
    assert turn.text == "Both."
    assert [(c.name, c.arguments) for c in turn.calls] == [("add", {"a": 7})] * 2
    broken = renderer.parse(tokenizer('[CALLS] [{"name": </s>').input_ids)
    assert broken.calls == ()
    assert broken.text == ""
    assert broken.broken == ('[CALLS] [{"name":',)


def test_a_closed_call_in_a_turn_without_its_stop_is_read_with_its_types():
    tokenizer, renderer = family("qwen3_5_think")
    turn = renderer.parse(tokenizer(f"hm\n</think>\n\nSo.\n\n{XML}\nmore").input_ids, [ADD])
    assert [(call.name, call.arguments) for call in turn.calls] == [("add", {"a": 7})]
    assert turn.text.split() == ["So.", "more"]


@pytest.mark.parametrize(
    "said",
    [
        XML.removesuffix("</parameter>\n</function>\n</tool_call>"),
        XML.replace("</parameter>\n", ""),
        XML.replace("<parameter=a>", "<parameter"),
    ],
)
def test_tags_of_which_something_would_be_lost_are_kept_raw(said):
    tokenizer, renderer = family("qwen3_5_think")
    turn = renderer.parse(tokenizer(f"</think>\n\nSo.\n\n{said}").input_ids, [ADD])
    assert (turn.text, turn.calls, turn.broken) == ("So.", (), (said.strip(),))


def test_a_changed_template_is_known_by_how_it_prints_a_call():
    source = (TEMPLATES / "qwen3_5_think.jinja").read_text(encoding="utf-8")
    tokenizer = tiny_tokenizer(template="{# mine #}" + source)
    ids = tokenizer(f"</think>\n\n{XML}<|im_end|>").input_ids
    (call,) = Renderer(tokenizer).parse(ids, [ADD]).calls
    assert call.arguments == {"a": 7}


def test_gpt_oss_calls_are_read_in_both_orders_of_the_header():
    template = (TEMPLATES / "gptoss.jinja").read_text(encoding="utf-8")
    special = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>")
    tokenizer = tiny_tokenizer(special=special, eos="<|return|>", template=template)
    renderer = Renderer(tokenizer)
    said = (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I add.<|end|><|start|>assistant<|channel|>commentary to=functions.add "
        '<|constrain|>json<|message|>{"a": 7}'
    )
    turn = renderer.parse(tokenizer(said + "<|call|>").input_ids, [ADD])
    assert (turn.thinking, turn.text, turn.broken) == ("hm", "I add.", ())
    assert [(call.name, call.arguments) for call in turn.calls] == [("add", {"a": 7})]
    assert renderer.parse(tokenizer(said[:-3]).input_ids).broken == (
        said[said.rindex("<|start|>") : -3],
    )
    assert renderer.parse(tokenizer("Hello.<|return|>").input_ids).text == "Hello."


def test_mistrals_named_arguments_are_read():
    tokenizer = tiny_tokenizer(
        special=("[INST]", "[/INST]", "[CALLS]", "[ARGS]"),
        eos="</s>",
        template=(
            "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
            "{% if m.tool_calls %}{{ m.content }}{% for c in m.tool_calls %}"
            "{{ '[CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}"
            "{% endfor %}{{ '</s>' }}"
            "{% elif m.role == 'assistant' %}{{ m.content + '</s>' }}"
            "{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% endfor %}"
        ),
    )
    ids = tokenizer('Both.[CALLS]add[ARGS]{"a": 7}[CALLS]ping[ARGS]{}</s>').input_ids
    turn = Renderer(tokenizer).parse(ids)
    assert turn.text == "Both."
    assert [(c.name, c.arguments) for c in turn.calls] == [("add", {"a": 7}), ("ping", {})]


def test_python_calls_keep_their_literals():
    template = (TEMPLATES / "lfm2_v2.jinja").read_text(encoding="utf-8")
    special = ("<|im_start|>", "<|im_end|>", "<|tool_call_start|>", "<|tool_call_end|>")
    tokenizer = tiny_tokenizer(special=special, eos="<|im_end|>", template=template)
    renderer = Renderer(tokenizer)
    said = "Well, f(x).<|tool_call_start|>[f(a=True, b={'c': [1, null]}), g()]<|tool_call_end|>"
    turn = renderer.parse(tokenizer(said).input_ids)
    assert turn.text == "Well, f(x)."
    assert [(c.name, c.arguments) for c in turn.calls] == [
        ("f", {"a": True, "b": {"c": [1, None]}}),
        ("g", {}),
    ]
    for inside in ("[f(1)]", "[f(**{'a': 1})]", "[f(a=b)]", "[f(a=1e999)]", "f(", "[]", "7"):
        raw = f"<|tool_call_start|>{inside}<|tool_call_end|>"
        assert renderer.parse(tokenizer(raw).input_ids).broken == (raw,)
