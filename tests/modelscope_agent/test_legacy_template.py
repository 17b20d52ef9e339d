"""The 2023 form as a chat template: what it serves are the prompts that were trained."""

import json

import pytest
from legacy_rows import BOS, TOKENIZERS, conversation, executed, llama_2, think

from agent_finetune.errors import RenderError
from agent_finetune.records import Example, Message, Row, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.testing.tiny import tiny_tokenizer
from modelscope_agent_train import legacy
from modelscope_agent_train.formats import msagent


def tool(name="get_weather", **parameters):
    schema = {"type": "object", **parameters}
    function = {"name": name, "description": "tells it", "parameters": schema}
    return {"type": "function", "function": function}


CITY = {"city": {"description": "where"}}
WEATHER = tool(properties=CITY, required=["city"])
CALL = Message(
    role="assistant", tool_calls=(ToolCall(name="get_weather", arguments={"city": "北京"}),)
)
TALK = (
    Message(role="system", text="You are ModelScopeGPT. Plugins:"),
    Message(role="user", text="Weather in 北京?"),
    CALL,
    Message(role="tool", text="7"),
    Message(role="assistant", text="7 度。"),
    Message(role="user", text="Thanks"),
    Message(role="assistant", text="Welcome."),
)
PLUGIN = (
    '1. {"name": "get_weather", "description": "tells it", "parameters": '
    '[{"name": "city", "description": "where", "required": "True"}]}'
)
SAME = conversation(
    ("Weather in 北京?", f"{think(city='北京')}\n\n{executed('7')}\n7 度。"),
    ("Thanks", "Welcome."),
    system=f"You are ModelScopeGPT. Plugins:\n\n{PLUGIN}",
)
"""The same conversation as a row."""


def served(tokenizer):
    tokenizer.chat_template = legacy.template(tokenizer)
    return Renderer(tokenizer)


@pytest.fixture(scope="module", params=TOKENIZERS)
def renderer(request):
    return served(TOKENIZERS[request.param]())


def test_the_whole_text_is_the_rows_with_the_end_of_sequence_after_each_turn(renderer):
    end = legacy.stop(renderer.tokenizer).ending
    pieces = "".join(text for text, _ in legacy.text_pieces(SAME)).replace("\n\n</s>", end)
    bos = renderer.tokenizer.bos_token or ""
    text = renderer.prompt_text([*TALK, Message(role="user", text="x")], [WEATHER])
    assert text == f"{bos}{pieces}\n\n<|user|>:x\n\n<|assistant|>:"


def test_prompts_have_the_ids_that_were_trained(renderer):
    for number, before in enumerate((2, 4, 6)):
        ids = renderer.prompt_ids(TALK[:before], [WEATHER])
        assert ids == legacy.prompt_ids(renderer.tokenizer, SAME, number)


def test_what_the_model_says_is_read_back_as_a_call(renderer):
    step = legacy.steps(SAME)[0]
    ids = renderer.tokenizer(step.label, add_special_tokens=False)["input_ids"]
    turn = renderer.parse(ids, [WEATHER])
    assert (turn.calls, turn.text, turn.broken) == (CALL.tool_calls, "", ())


def test_a_call_ends_where_its_tag_closes_and_an_answer_with_the_end_of_sequence(renderer):
    assert "<|endofthink|>" in renderer.stop_strings
    assert renderer.stop_ids == (renderer.tokenizer.eos_token_id,)
    stream = renderer.open_turn([WEATHER])
    said = think(city="北京") + "\n\n<|startofexec|>made up"
    stream.feed(renderer.tokenizer(said, add_special_tokens=False)["input_ids"])
    _, turn = stream.finish()
    assert (turn.calls, turn.text, turn.broken) == (CALL.tool_calls, "", ())


def test_the_written_end_is_no_part_of_an_answer(renderer):
    ending = legacy.stop(renderer.tokenizer).ending
    ids = renderer.tokenizer(f"\n7 度。{ending}", add_special_tokens=False)["input_ids"]
    assert renderer.parse(ids).text == "7 度。"


def test_calls_are_read_where_the_tags_are_tokens_of_the_vocabulary():
    tags = ("<|startofthink|>", "<|endofthink|>", "<|startofexec|>", "<|endofexec|>")
    renderer = served(tiny_tokenizer(special=("<|im_start|>", *tags)))
    step = legacy.steps(SAME)[0]
    ids = renderer.tokenizer(step.label, add_special_tokens=False)["input_ids"]
    assert renderer.parse(ids, [WEATHER]).calls == CALL.tool_calls


def test_the_kernel_trains_through_the_template_what_the_model_has_to_say(renderer):
    rows = renderer.rows(Example(messages=TALK, tools=(WEATHER,)))
    trained = [i for row in rows for i, on in zip(row.ids, row.trained, strict=True) if on]
    text = renderer.tokenizer.decode(trained)
    ending = legacy.stop(renderer.tokenizer).ending
    expected = f"{think(city='北京')}\n7 度。{ending}Welcome.{ending}"
    assert text.replace(" ", "") == expected.replace(" ", "")


def test_the_template_begins_with_what_the_tokenizer_puts_before_texts():
    assert legacy.template(tiny_tokenizer()) == legacy.TEMPLATE
    assert legacy.template(llama_2()) == '{{- "<s>" -}}' + legacy.TEMPLATE
    assert BOS == {"tiny": "", "llama-2": "<s>", "llama-3": "<|begin_of_text|>"}


def test_any_host_renders_it_through_transformers(renderer):
    messages = [{"role": "user", "content": "hello"}]
    ids = renderer.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    bos = renderer.tokenizer.bos_token or ""
    text = f"{bos}<|system|>:\n\n<|user|>:hello\n\n<|assistant|>:"
    assert ids == renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_results_in_a_row_and_a_second_call_stay_in_one_turn(renderer):
    messages = [*TALK[:4], Message(role="tool", text="8"), CALL, Message(role="tool", text="9")]
    text = renderer.prompt_text(messages, [WEATHER])
    call = think(city="北京")
    assert text.endswith(
        f"\n\n<|assistant|>:{call}\n\n{executed('7')}\n{executed('8')}\n{call}\n\n{executed('9')}"
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": CITY, "required": ["city"]},
        {"properties": {"city": {"type": "string", "enum": ["Rome"]}}, "required": []},
        {"properties": {"at": {"type": "object", "properties": {}, "required": []}}},
        {"properties": {"city": {"type": "string"}}, "additionalProperties": False},
        {"properties": {"any": True}},
    ],
)
def test_plugins_are_listed_without_losing_anything(schema):
    offered = [tool(**schema), tool("other", properties={}, required=[])]
    text = served(tiny_tokenizer()).prompt_text([Message(role="user", text="a")], offered)
    system = text.removeprefix("<|system|>:").partition("\n\n<|user|>:")[0]
    said = [
        {"from": "system", "value": system},
        {"from": "user", "value": "a"},
        {"from": "assistant", "value": f"{think()}{executed('1')}b"},
    ]
    found = msagent.read_row(Row(source="a:1", data={"conversations": said})).tools
    assert [each["function"]["name"] for each in found] == ["get_weather", "other"]
    expected = {"type": "object", **schema}
    expected.setdefault("required", [])
    got = dict(found[0]["function"]["parameters"])
    got.setdefault("required", [])
    assert json.loads(json.dumps(got)) == expected


def test_plugins_without_a_system_message_say_how_they_are_called(renderer):
    text = renderer.prompt_text(TALK[1:2], [WEATHER])
    assert "<|startofthink|>" in text.partition(PLUGIN)[0]


def test_two_calls_in_one_turn_are_refused_by_the_template_and_said_in_turn_by_the_kernel():
    tokenizer = tiny_tokenizer()
    twice = Message(role="assistant", tool_calls=CALL.tool_calls * 2)
    plain = {"role": "assistant", "content": "", "tool_calls": [call_dict(), call_dict()]}
    with pytest.raises(Exception, match="this form says one call a turn"):
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}, plain], chat_template=legacy.TEMPLATE
        )
    results = (Message(role="tool", text="1"), Message(role="tool", text="2"))
    said = served(tokenizer).rows(
        Example(messages=(TALK[1], twice, *results, TALK[4]), tools=(WEATHER,))
    )
    assert tokenizer.decode(said[0].ids).count("<|startofthink|>") == 3  # one tells how


def call_dict():
    return {"type": "function", "function": {"name": "get_weather", "arguments": '{"a": 1}'}}


def test_arguments_may_be_a_string_of_json():
    message = {"role": "assistant", "content": None, "tool_calls": [call_dict()]}
    text = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": "a"}, message], chat_template=legacy.TEMPLATE, tokenize=False
    )
    assert '{"api_name": "get_weather", "parameters": {"a": 1}}\n```<|endofthink|>' in text


def test_a_template_needs_to_know_how_texts_begin():
    tokenizer = llama_2()
    tokenizer.decode = lambda ids, **options: "somewhat else"
    with pytest.raises(RenderError, match="which no text stands for"):
        legacy.template(tokenizer)
