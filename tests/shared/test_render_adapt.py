"""What templates lose is found, adapted in one string, named, and used for serving too."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agent_finetune.errors import RenderError
from agent_finetune.records import Example, Message, Section, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.render.messages import as_dicts
from agent_finetune.render.template import find_stop
from agent_finetune.testing import CHATML, tiny_tokenizer

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = ToolCall(name="get_weather", arguments={"city": "Paris"}, id="call00001")
SECOND = ToolCall(name="get_weather", arguments={"city": "Rome"}, id="call00002")


def user(text="What?"):
    return Message(role="user", text=text)


def says(text="", **more):
    return Message(role="assistant", text=text, **more)


def rendered(template, *messages, tools=(), **options):
    """The conversation's last row as text."""
    tokenizer = tiny_tokenizer(template=template, **options)
    rows = Renderer(tokenizer).rows(Example(messages=messages, tools=tools))
    return tokenizer.decode(rows[-1].ids)


def test_smollm2_says_tools_calls_and_results_as_text():
    text = rendered(
        SMOLLM2,
        Message(role="system", text="Be brief."),
        user(),
        says("I look.", tool_calls=(CALL, SECOND)),
        Message(role="tool", text="sunny"),
        Message(role="tool", text="rainy"),
        says("Well."),
        tools=(TOOL,),
    )
    assert text == (
        "<|im_start|>system\nBe brief.\n\n"
        "You can call these functions:\n"
        '{"name":"get_weather","description":"Weather of a city","parameters":'
        '{"type":"object","properties":{"city":{"type":"string"}}}}\n'
        "To call one, answer with its name and arguments like this:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\nI look.\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
        "<tool_response>\nrainy\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nWell.<|im_end|>"
    )


def test_smollm2_keeps_its_own_default_system_message_without_tools():
    assert "named SmolLM" in rendered(SMOLLM2, user(), says("Yes."))
    assert "named SmolLM" not in rendered(SMOLLM2, user(), says("Yes."), tools=(TOOL,))


def test_a_model_without_a_template_talks_chatml_with_tools_and_thinking():
    turn = says(thinking="weather", tool_calls=(CALL,))
    tokenizer = tiny_tokenizer(special=(), eos="<|endoftext|>", template=None)
    size = len(tokenizer)
    renderer = Renderer(tokenizer)
    assert renderer.adaptation.names == ("chatml", "tools-as-text", "thinking-as-text")
    (row,) = renderer.rows(Example(messages=(user(), turn), tools=(TOOL,)))
    text = tokenizer.decode(row.ids)
    assert text.startswith("<|im_start|>system\nYou can call these functions:")
    assert text.endswith(
        "<|im_end|>\n<|im_start|>assistant\n<think>\nweather\n</think>\n\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|endoftext|>'
    )
    assert row.sections[-1] is Section.STOP
    assert len(tokenizer) == size
    assert renderer.stop_ids == (tokenizer.eos_token_id,)
    assert renderer.stop_strings == ()
    assert tokenizer.chat_template is None


def test_a_base_model_that_knows_im_end_ends_with_it():
    tokenizer = tiny_tokenizer(special=("<|im_end|>",), eos="</s>", template=None)
    renderer = Renderer(tokenizer)
    (row,) = renderer.rows(Example(messages=(user(), says("Yes."))))
    assert tokenizer.decode(row.ids[-1:]) == "<|im_end|>"
    ids = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert renderer.stop_ids == tuple(ids)


def test_a_base_model_whose_texts_begin_with_a_token_keeps_it():
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(special=("<s>",), eos="</s>", template=None)
    tokenizer.bos_token = "<s>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    prompt = Renderer(tokenizer).prompt_ids([user()])
    assert prompt.count(tokenizer.bos_token_id) == 1
    assert prompt[0] == tokenizer.bos_token_id


def test_without_any_stop_token_a_turn_ends_with_a_string():
    tokenizer = tiny_tokenizer(special=(), eos="</s>", template=None)
    tokenizer.eos_token = None
    renderer = Renderer(tokenizer)
    assert renderer.stop_ids == ()
    assert renderer.stop_strings == ("<|im_end|>",)
    (row,) = renderer.rows(Example(messages=(user(), says("Yes."))))
    stop = [i for i, s in zip(row.ids, row.sections, strict=True) if s is Section.STOP]
    assert tokenizer.decode(stop) == "<|im_end|>"
    assert renderer.parse(row.ids[-len(stop) - 4 :]).text.endswith("Yes.")


def test_a_template_that_stops_with_nothing_gets_the_eos_token():
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    plain += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    tokenizer = tiny_tokenizer(special=(), eos="</s>", template=plain)
    renderer = Renderer(tokenizer)
    assert "stop-with-eos" in renderer.adaptation.names
    (row,) = renderer.rows(Example(messages=(user(), says("Yes."))))
    assert tokenizer.decode(row.ids) == "user: What?\nassistant: Yes.</s>"
    tokenizer.eos_token = None
    with pytest.raises(RenderError, match="nothing ends a turn"):
        Renderer(tokenizer)


ALTERNATING = CHATML.replace(
    "<|im_start|>{{",
    "{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('must alternate') }}{% endif %}<|im_start|>{{",
)


def test_system_and_neighbouring_user_turns_are_folded_where_refused():
    tokenizer = tiny_tokenizer(template=ALTERNATING)
    names = Renderer(tokenizer).adaptation.names
    assert names[:2] == ("system-as-user", "merge-user-turns")
    text = rendered(
        ALTERNATING,
        Message(role="system", text="Be brief."),
        user("One."),
        user("Two."),
        says("Yes."),
    )
    assert text == (
        "<|im_start|>user\nBe brief.\n\nOne.\n\nTwo.<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>"
    )
    alone = rendered(ALTERNATING, Message(role="system", text="Be brief."), says("Yes."))
    assert alone.startswith("<|im_start|>user\nBe brief.<|im_end|>")


def test_a_result_and_the_users_next_words_are_one_turn_where_turns_alternate():
    text = rendered(
        ALTERNATING,
        user(),
        says(tool_calls=(CALL,)),
        Message(role="tool", text="sunny"),
        user("And?"),
        says("Yes."),
        tools=(TOOL,),
    )
    assert "<tool_response>\nsunny\n</tool_response>\n\nAnd?<|im_end|>" in text


NATIVE = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '[CALL]' + c.function.name + ARGUMENTS }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_keeps_everything_is_used_as_it_is():
    template = NATIVE.replace("ARGUMENTS", "(c.function.arguments | tojson)")
    adaptation = Renderer(tiny_tokenizer(template=template)).adaptation
    assert adaptation.names == adaptation.reasons == ()
    assert adaptation.template == template


def test_arguments_become_json_text_where_a_template_adds_strings():
    template = NATIVE.replace("ARGUMENTS", "c.function.arguments")
    assert Renderer(tiny_tokenizer(template=template)).adaptation.names == ("arguments-as-json",)
    text = rendered(template, user(), says(tool_calls=(CALL,)), tools=(TOOL,))
    assert text.endswith('[CALL]get_weather{"city": "Paris"}<|im_end|>')


ONE_CALL = NATIVE.replace("ARGUMENTS", "(c.function.arguments | tojson)").replace(
    "{% for c in m.tool_calls or [] %}",
    "{% if (m.tool_calls or []) | length > 1 %}{{ raise_exception('one call') }}{% endif %}"
    "{% for c in m.tool_calls or [] %}",
)


def test_calls_are_said_one_after_another_where_a_turn_holds_one():
    tokenizer = tiny_tokenizer(template=ONE_CALL)
    renderer = Renderer(tokenizer)
    assert renderer.adaptation.names == ("one-call-per-turn",)
    messages = (
        user(),
        says("Both.", tool_calls=(CALL, SECOND)),
        Message(role="tool", text="rainy", tool_call_id="call00002"),
        Message(role="tool", text="sunny", tool_call_id="call00001"),
        says("Done."),
    )
    (row,) = renderer.rows(Example(messages=messages, tools=(TOOL,)))
    said = tokenizer.decode(row.ids)
    paris, rome = '[CALL]get_weather{"city": "Paris"}', '[CALL]get_weather{"city": "Rome"}'
    places = [said.index(word) for word in ("Both.", paris, "sunny", rome, "rainy", "Done.")]
    assert places == sorted(places)
    served = renderer.prompt_text(messages[:-1], (TOOL,))
    assert said.startswith(served), "plain serving splits the calls in the same way"


def test_calls_without_results_cannot_be_said_one_after_another():
    renderer = Renderer(tiny_tokenizer(template=ONE_CALL))
    messages = (user(), says(tool_calls=(CALL, SECOND)))
    with pytest.raises(RenderError, match="2 calls in one turn, and no results"):
        renderer.rows(Example(messages=messages, tools=(TOOL,), source="d:1"))


def test_content_becomes_parts_where_a_template_reads_parts():
    parts = CHATML.replace("{{ message['content'] }}", "{{ message['content'][0]['text'] }}")
    assert "content-as-parts" in Renderer(tiny_tokenizer(template=parts)).adaptation.names
    text = rendered(parts, user("Hello"), says("Hi."))
    assert text.endswith("user\nHello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>")


def test_a_tool_template_and_a_plain_one_become_one():
    native = NATIVE.replace("ARGUMENTS", "(c.function.arguments | tojson)")
    both = {"default": "{{ 'plain\n' }}" + native, "tool_use": "{{ 'tools\n' }}" + native + "\n"}
    tokenizer = tiny_tokenizer(template=both)
    renderer = Renderer(tokenizer)
    for tools in ((), (TOOL,)):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What?"}],
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=False,
        )
        assert renderer.prompt_text([user()], tools) == text
        assert text.startswith("tools" if tools else "plain")
    assert renderer.adaptation.names == ()
    only = Renderer(tiny_tokenizer(template={"default": native}))
    assert only.adaptation.template == native
    with pytest.raises(RenderError, match="chat templates rag, and none called 'default'"):
        Renderer(tiny_tokenizer(template={"rag": native}))


def test_a_template_that_loses_the_users_words_is_refused():
    with pytest.raises(RenderError, match="loses a user's and an assistant's words"):
        Renderer(tiny_tokenizer(template="{{ 'Hello<|im_end|>' }}"))


@pytest.mark.parametrize("template", [SMOLLM2, None, ALTERNATING, ONE_CALL])
def test_a_saved_template_serves_plain_transformers_and_is_not_adapted_twice(template, tmp_path):
    from transformers import AutoTokenizer

    messages = (
        user(),
        says("Look.", thinking="hm", tool_calls=(CALL,)),
        Message(role="tool", text="sunny", tool_call_id="call00001", name="get_weather"),
    )
    tokenizer = tiny_tokenizer(template=template)
    first = Renderer(tokenizer)
    first.save(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == first.adaptation.template
    assert tokenizer.chat_template == template
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    plain = loaded.apply_chat_template(
        [
            {"role": "user", "content": "What?"},
            {
                "role": "assistant",
                "content": "Look.",
                "reasoning_content": "hm",
                "tool_calls": [
                    {
                        "type": "function",
                        "id": "call00001",
                        "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
                    }
                ],
            },
            {"role": "tool", "content": "sunny", "tool_call_id": "call00001"},
        ],
        tools=[TOOL],
        add_generation_prompt=True,
        return_dict=False,
    )
    again = Renderer(loaded)
    assert (
        tuple(plain) == first.prompt_ids(messages, (TOOL,)) == again.prompt_ids(messages, (TOOL,))
    )
    assert again.adaptation == first.adaptation


def test_content_in_parts_and_arguments_as_json_are_read_by_the_folds():
    tokenizer = tiny_tokenizer(template=SMOLLM2)
    text = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "What?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"name": "f", "arguments": json.dumps({"a": 1})}],
            },
            {"role": "tool", "content": [{"type": "text", "text": "sunny"}]},
        ],
        tools=[{"name": "f", "parameters": {}}],
        chat_template=Renderer(tokenizer).adaptation.template,
        tokenize=False,
    )
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in text
    assert "<tool_response>\nsunny\n</tool_response>" in text
    assert '\n{"name":"f","parameters":{}}\n' in text


def test_calls_and_results_get_ids_and_names_that_match():
    calls = (ToolCall(name="a", arguments={}), ToolCall(name="b", arguments={}, id="own"))
    dicts = as_dicts(
        [
            user(),
            says(tool_calls=calls),
            Message(role="tool", text="1", tool_call_id="own"),
            Message(role="tool", text="2"),
            Message(role="tool", text="3", tool_call_id="lost", name="c"),
            Message(role="user", text="x", name="Ada"),
        ]
    )
    assert [call["id"] for call in dicts[1]["tool_calls"]] == ["call00001", "own"]
    found = [(d.get("tool_call_id"), d.get("name")) for d in dicts[2:]]
    assert found == [("own", "b"), ("call00001", "a"), ("lost", "c"), (None, "Ada")]


@pytest.mark.parametrize(
    ("ended", "followed", "stop"),
    [
        ("<end>\n", "<end>\n<user>", "<end>"),
        ("<close><end>", "<close><end><user>", "<end>"),
        ("<return>", "<end><user>", "<return>"),
        ("", "<user>\n", "<user>"),
        ("[/s]\n", "[/s]\nUser:", "[/s]"),
        ("[/s]\n[eos]", "[/s]\n[user]", "[/s]"),
        ("\n", "\nUser:", None),
    ],
)
def test_the_stop_is_what_ends_a_turn_in_the_middle_and_at_the_end(ended, followed, stop):
    found = find_stop(ended, followed, ["<return>", "<close>", "<user>", "<end>"])
    assert (found.text if found else None) == stop


def test_a_stop_may_be_written_as_a_control_token_and_be_none():
    ended = '"}\n```<|endofthink|>\n\n'
    found = find_stop(ended, ended + "<|startofexec|>1", ["<end>"])
    assert found is not None
    assert (found.text, found.rendered) == ("<|endofthink|>", True)


def test_rendering_needs_no_torch():
    code = (
        "import sys\n"
        "from agent_finetune.testing import tiny_tokenizer\n"
        "from agent_finetune.records import Example, Message\n"
        "from agent_finetune.render import Renderer\n"
        "before = 'torch' in sys.modules\n"
        "tokenizer = tiny_tokenizer()\n"
        "sys.modules['torch'] = None if not before else sys.modules['torch']\n"
        "m = (Message(role='user', text='a'), Message(role='assistant', text='b'))\n"
        "print(before, len(Renderer(tokenizer).rows(Example(messages=m))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
