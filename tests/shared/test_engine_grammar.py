"""Answers under a grammar: whatever a model says, it fits the schema, and calls are calls."""

from __future__ import annotations

import json
import random
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from chat_templates import NAMES, tokenizer
from chat_templates import renderer as template_renderer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.engine.grammar import Constraint, Grammars
from agent_finetune.engine.sampling import Sampling, choose
from agent_finetune.engine.schemas import KNOWN_FORMATS, prepared
from agent_finetune.errors import ConfigError, EngineError, RenderError
from agent_finetune.records import Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.settings import read_settings
from agent_finetune.testing import tiny_tokenizer

READ = [name for name in NAMES if name != "muse_glimmer"]
"""Muse's words and calls are read by the response template of its checkpoint alone."""

PADDING = 29
"""Logits that have no token, as models with a rounded vocabulary have."""


class Color(Enum):
    RED = "red"
    GREEN = "green"


class Stop(BaseModel):
    city: str = Field(max_length=8, description="Where")
    nights: int = Field(ge=0, le=99)


class Train(BaseModel):
    by: Literal["train"]
    seat: bool


class Plane(BaseModel):
    by: Literal["plane"]
    gate: Annotated[str, Field(pattern="^[A-F][0-9]{1,2}$")]


class Trip(BaseModel):
    color: Color
    stops: list[Stop] = Field(min_length=1, max_length=3)
    ticket: Annotated[Train | Plane, Field(discriminator="by")]
    note: str | None = None
    days: tuple[int, Literal["days"]] | None = None
    then: Trip | None = None


def tool(name: str, parameters: Any) -> dict[str, Any]:
    function = {"name": name, "description": f"does {name}", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = (
    tool(
        "get_weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    ),
    tool("book-trip", Trip.model_json_schema()),
    tool("list_files", {}),
)


@cache
def grammars(name: str = "") -> Grammars:
    """Of a template of TRL, or of a template that knows neither tools nor thinking."""
    made = tokenizer(name) if name else tiny_tokenizer()
    return Grammars(renderer(name), made, len(made) + PADDING)


@cache
def renderer(name: str = "") -> Renderer:
    return template_renderer(name) if name else Renderer(tiny_tokenizer())


def allowed(constraint: Constraint, size: int) -> list[int]:
    words = np.zeros((size + 31) // 32, dtype=np.int32)
    constraint.fill(words)
    return [i for i in range(len(words) * 32) if words[i // 32] >> (i % 32) & 1]


def drive(constraint: Constraint, name: str = "", seed: int = 0, most: int = 900) -> list[int]:
    """Say random tokens of those allowed, with a leaning to come to an end; stop included."""
    rng = random.Random(seed)
    made, stops = tokenizer(name) if name else tiny_tokenizer(), set(renderer(name).stop_ids)
    ids: list[int] = []
    while len(ids) < most:
        open_ids = allowed(constraint, len(made) + PADDING)
        assert open_ids
        assert max(open_ids) < len(made)
        assert not constraint.finished or set(open_ids) <= stops
        assert all(constraint.legal([i]) for i in open_ids[:3])
        closing = [i for i in open_ids if made.decode([i])[:1] in ('"', "}", "]", ",", " ", "n")]
        closing += [i for i in open_ids if i in stops]
        ids.append(rng.choice(closing if closing and rng.random() < 0.6 else open_ids))
        if ids[-1] in stops:
            return ids
        constraint.advance(ids[-1])
    raise AssertionError(f"no end: {made.decode(ids)[-200:]!r}")


def said(ids: list[int], name: str = "") -> Any:
    """The words of a turn, read as JSON."""
    parsed = renderer(name).parse(ids)
    assert not parsed.calls
    assert not parsed.broken
    return json.loads(parsed.text)


@pytest.mark.parametrize("seed", range(6))
def test_random_tokens_under_a_schema_are_a_value_of_it(seed: int) -> None:
    ids = drive(grammars().schema(Trip.model_json_schema()), seed=seed)
    Trip.model_validate(said(ids))


def values(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas, small enough to be driven at random."""
    leaves = st.sampled_from(
        [
            {"type": "integer", "minimum": -5, "maximum": 120},
            {"type": "boolean"},
            {"type": "null"},
            {"type": "string", "maxLength": 5},
            {"enum": ["a", 'q"uote', "é", 7, None]},
            {"const": {"k": [1]}},
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "string", "format": "date"},
        ]
    )
    if not depth:
        return leaves
    inner = values(depth - 1)
    return st.one_of(
        leaves,
        st.builds(lambda item: {"type": "array", "items": item, "maxItems": 3}, inner),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda fields, keep: {
                "type": "object",
                "properties": fields,
                "required": [name for name in fields if name in keep],
            },
            st.dictionaries(st.sampled_from(["a", "b c", 'd"', "é"]), inner, max_size=3),
            st.sets(st.sampled_from(["a", "b c", 'd"', "é"])),
        ),
    )


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value matches one of the schemas above; written plainly, as a reference."""
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "array":
        return (
            isinstance(value, list)
            and len(value) <= 3
            and all(fits(item, schema["items"]) for item in value)
        )
    if schema["type"] == "object":
        if not isinstance(value, dict):
            return False
        known = schema["properties"]
        missing = set(schema["required"]) - set(value)
        return not missing and all(fits(value[k], known[k]) if k in known else False for k in value)
    kinds = {"integer": int, "boolean": bool, "string": str, "number": (int, float)}
    if value is None or schema["type"] == "null":
        return value is None and schema["type"] == "null"
    if not isinstance(value, kinds[schema["type"]]):
        return False
    in_range = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    short = not isinstance(value, str) or len(value) <= schema.get("maxLength", 10)
    return in_range and short


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values(), st.integers(0, 99))
def test_random_tokens_fit_schemas_of_any_kind(schema: dict[str, Any], seed: int) -> None:
    assert fits(said(drive(grammars().schema(schema), seed=seed)), schema)


@pytest.mark.parametrize("name", READ)
def test_an_answer_held_to_a_schema_reads_back_with_every_template(name: str) -> None:
    schema = Stop.model_json_schema()
    for seed, thinking in enumerate((0, 0, 6, 6)):
        ids = drive(grammars(name).schema(schema, thinking=thinking), name, seed)
        Stop.model_validate(said(ids, name))


@pytest.mark.parametrize("name", READ)
def test_a_forced_call_reads_back_with_every_template(name: str) -> None:
    for seed, (chosen, thinking) in enumerate(
        ((None, 0), ("get_weather", 0), ("book-trip", 6), ("list_files", 0), (None, 6))
    ):
        constraint = grammars(name).call(TOOLS, chosen, thinking=thinking)
        ids = drive(constraint, name, seed)
        parsed = renderer(name).parse(ids, TOOLS)
        assert len(parsed.calls) == 1, tokenizer(name).decode(ids)
        assert (parsed.text, parsed.broken) == ("", ())
        call = parsed.calls[0]
        assert chosen in (None, call.name)
        if call.name == "get_weather":
            assert set(call.arguments) <= {"city", "unit"}
            assert call.arguments.get("unit", "C") in ("C", "F")
            assert len(call.arguments["city"]) <= 12
        if call.name == "book-trip":
            Trip.model_validate(call.arguments)


CALLS = {
    "qwen3": '<think>\n\n</think>\n\n<tool_call>\n{"name": "list_files", "arguments": {}}\n'
    "</tool_call>",
    "llama3_1": '{"name": "list_files", "parameters": {}}',
    "gptoss": " to=functions.list_files<|channel|>commentary json<|message|>{}",
    "cohere2": '<tool_call>\n{"name": "list_files", "arguments": {}}\n</tool_call><|END_RESPONSE|>',
    "idefics3": ' <tool_call>\n{"name": "list_files", "arguments": {}}\n</tool_call>',
    "qwen3_5_think": '\n</think>\n\n<tool_call>\n{"name": "list_files", "arguments": {}}\n'
    "</tool_call>",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_forced_call_is_said_as_the_template_prints_it(name: str) -> None:
    files = tool("list_files", {"type": "object", "properties": {}})
    ids = tokenizer(name)(CALLS[name], add_special_tokens=False)["input_ids"]
    for thinking in (0, 50):
        constraint = grammars(name).call([files], thinking=thinking)
        assert constraint.legal(ids)
        for token in ids:
            constraint.advance(token)
        assert constraint.finished
    assert not grammars(name).call([files]).legal([*ids, ids[0]])


def test_a_marker_is_its_own_token_and_never_its_letters() -> None:
    constraint = grammars("qwen3").call(TOOLS, thinking=0)
    made = tokenizer("qwen3")
    assert allowed(constraint, len(made)) == [made.convert_tokens_to_ids("<think>")]


def test_a_call_that_is_said_with_an_id_gets_one_of_its_own() -> None:
    template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "{% if m['role'] == 'assistant' %}{% if m['tool_calls'] %}[TOOL_CALLS] ["
        "{% for c in m['tool_calls'] %}{{ {'name': c.function.name, "
        "'arguments': c.function.arguments, 'id': c.id} | tojson }}"
        "{% if not loop.last %}, {% endif %}{% endfor %}]{% else %} {{ m['content'] }}{% endif %}"
        "</s>{% elif m['role'] == 'tool' %}[TOOL_RESULTS]{{ m['content'] }}[/TOOL_RESULTS]"
        "{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}{% endfor %}"
    )
    marks = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
    made = tiny_tokenizer(special=marks, eos="</s>", template=template)
    mistral = Renderer(made)
    constraint = Grammars(mistral, made, len(made)).call([tool("f", {})])
    text = '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "Zq3456789"}]</s>'
    ids = made(text)["input_ids"]
    for token in ids:
        constraint.advance(token)
    (call,) = mistral.parse(ids).calls
    assert (call.name, call.arguments, call.id) == ("f", {"a": 1}, "Zq3456789")


@pytest.mark.parametrize(
    ("name", "thought"),
    [
        ("qwen3", "<think>\nhm {}</think>\n\n"),
        ("deepseekv3", "so, what?\n\n</think>\n\n"),
        ("gptoss", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"),
        ("glm4moe", "\n<think>hm</think>\n"),
    ],
)
def test_a_model_that_thinks_may_think_first(name: str, thought: str) -> None:
    grammar = grammars(name)
    opening = "<|channel|>final<|message|>" if name == "gptoss" else ""
    ids = tokenizer(name)(thought + opening + "true", add_special_tokens=False)["input_ids"]
    schema = {"type": "boolean"}
    assert grammar.schema(schema, thinking=30).legal(ids)
    assert not grammar.schema(schema, thinking=0).legal(ids)
    assert not grammar.schema(schema, thinking=1).legal(ids)
    constraint = grammar.schema(schema, thinking=30)
    for token in ids:
        constraint.advance(token)
    assert constraint.finished


def test_thinking_that_no_token_closes_ends_at_its_first_closing() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
        "<think>\n{{ m['reasoning_content'] }}\n</think>\n\n{% endif %}{{ m['content'] }}"
        "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    made = tiny_tokenizer(template=template)
    grammar = Grammars(Renderer(made), made, len(made))
    constraint = grammar.schema({"type": "integer"}, thinking=10)
    for token in made("hm </th\n</think>\n\n12")["input_ids"]:
        constraint.advance(token)
    stop = list(Renderer(made).stop_ids)
    assert constraint.legal(stop[:1])
    assert not constraint.legal(made("a")["input_ids"])
    endless = made("a" * 60)["input_ids"]
    assert not grammar.schema({"type": "integer"}, thinking=10).legal(endless)


def test_a_stop_is_allowed_exactly_when_the_answer_may_end() -> None:
    made, constraint = tiny_tokenizer(), grammars().schema({"type": "integer"})
    stops = set(renderer().stop_ids)
    assert not stops & set(allowed(constraint, len(made)))
    constraint.advance(made("1")["input_ids"][0])
    assert stops <= set(allowed(constraint, len(made)))
    assert not constraint.finished  # another digit may follow
    closed = grammars().schema({"const": 1})
    closed.advance(made("1")["input_ids"][0])
    assert closed.finished
    assert set(allowed(closed, len(made))) == stops
    closed.advance(next(iter(stops)))
    assert closed.finished


def test_a_stop_that_is_no_token_is_said_as_text() -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}###{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    made = tiny_tokenizer(special=(), eos="</s>", template=template)
    assert Renderer(made).stop_strings == ("###",)
    constraint = Grammars(Renderer(made), made, len(made)).schema({"type": "boolean"})
    for token in made("true###")["input_ids"]:
        assert not constraint.legal([made.eos_token_id])
        constraint.advance(token)
    assert constraint.finished


def test_blanks_are_those_of_printed_json_and_no_others() -> None:
    made = tiny_tokenizer()
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"type": "array"}}}
    for text, legal in (
        ('{"a": 1, "b": [2, 3]}', True),
        ('{"a":1', False),
        ('{"a":  1', False),
        ("{\n", False),
        (" {", False),
        ('{"a": 1 }', False),
    ):
        assert grammars().schema(schema).legal(made(text)["input_ids"]) == legal, text


def test_objects_hold_no_keys_that_are_not_listed_unless_the_schema_says_so() -> None:
    made = tiny_tokenizer()
    listed = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for schema, legal in (
        (listed, False),
        ({**listed, "additionalProperties": True}, True),
        ({"type": "object"}, True),
        ({"allOf": [listed, {"type": "object", "properties": {"other": {}}}]}, True),
    ):
        assert grammars().schema(schema).legal(made('{"other": 1}')["input_ids"]) == legal


@pytest.mark.parametrize("known", sorted(KNOWN_FORMATS))
def test_the_formats_that_are_kept_are_known_to_the_library(known: str) -> None:
    grammars().schema({"type": "string", "format": known})


def test_other_formats_are_only_annotations() -> None:
    schema = TypeAdapter(dict[str, Path]).json_schema()
    assert schema["additionalProperties"]["format"] == "path"
    grammars().schema(schema)
    held = {"type": "object", "properties": {"format": {"type": "string"}}}
    assert prepared(held)["properties"] == held["properties"]  # a key of that name is no format


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "https://example.org/schema.json"}, "example.org"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "itself"),
        ({"anyOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"allOf": [{"$ref": "#"}]}}}, "itself"),
        ({"$ref": "#/$defs/A/b", "$defs": {"A": {}}}, "A/b"),
        (
            {
                "$ref": "#/$defs/A",
                "$defs": {
                    "A": {
                        "type": "object",
                        "properties": {
                            "a": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/A"}}
                        },
                        "required": ["a"],
                    }
                },
            },
            "itself",
        ),
    ],
)
def test_what_cannot_be_held_to_is_named(schema: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        grammars().schema(schema)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=what):
        grammars().call([tool("f", {"type": "object", "properties": {"a": schema}, **schema})])


def test_markup_of_the_model_in_a_schema_is_refused_where_it_would_be_said() -> None:
    for schema in (
        {"const": "<|im_end|>"},
        {"type": "object", "properties": {"<tool_call>": {"type": "integer"}}},
    ):
        with pytest.raises(ConfigError, match="markup and never text"):
            grammars("qwen3").schema(schema)
    grammars("qwen3").schema({"const": 1, "description": "ends with <|im_end|>"})


def test_integers_without_limits_come_to_an_end() -> None:
    made = tiny_tokenizer()
    for digits, legal in (("9" * 15, True), ("-" + "9" * 15, True), ("9" * 17, False)):
        assert grammars().schema({"type": "integer"}).legal(made(digits)["input_ids"]) == legal
    even = grammars().schema({"type": "integer", "multipleOf": 2})
    assert even.legal(made("12")["input_ids"])


def test_a_definition_that_may_hold_itself_is_a_tree_of_any_depth() -> None:
    tree = {
        "$ref": "#/$defs/Tree",
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {
                    "kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
                    "next": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
                },
                "required": ["kids", "next"],
            }
        },
    }
    text = '{"kids": [{"kids": [], "next": null}], "next": {"kids": [], "next": null}}'
    constraint = grammars().schema(tree)
    for token in tiny_tokenizer()(text)["input_ids"]:
        constraint.advance(token)
    assert constraint.finished


def test_a_tool_that_is_not_offered_cannot_be_forced() -> None:
    with pytest.raises(ConfigError, match=r"no tool 'other' .* 'get_weather', 'book-trip'"):
        grammars().call(TOOLS, "other")


def test_a_call_that_no_parser_reads_back_is_refused() -> None:
    with pytest.raises(RenderError, match="'list_files' cannot be forced"):
        grammars("muse_glimmer").call([tool("list_files", {})])


def test_a_token_that_may_not_come_is_an_error_of_this_answer() -> None:
    made = tiny_tokenizer()
    constraint = grammars().schema({"type": "boolean"})
    with pytest.raises(EngineError, match="cannot be held to its grammar"):
        constraint.advance(made("x")["input_ids"][0])
    assert not constraint.finished
    with pytest.raises(EngineError, match="grammar"):
        constraint.fill(np.zeros(32, dtype=np.int32))


def test_answers_of_one_schema_do_not_share_their_place() -> None:
    made = tiny_tokenizer()
    one, other = (grammars().schema({"enum": ["ab", "cd"]}) for _ in range(2))
    for token in made('"ab"')["input_ids"]:
        one.advance(token)
    assert one.finished
    assert other.legal(made('"cd"')["input_ids"])


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False
        name_or_path = "somewhere/slow"

    with pytest.raises(ConfigError, match="somewhere/slow"):
        Grammars(renderer(), Slow(), 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("smaller", [True, False])
def test_masks_are_as_wide_as_the_logits(smaller: bool) -> None:
    made = tiny_tokenizer()
    size = len(made) - 40 if smaller else len(made) + 70
    constraint = Grammars(renderer(), made, size).schema({"type": "boolean"})
    assert sorted(made.decode([i])[0] for i in allowed(constraint, size)) == ["f", "t"]


@cache
def real() -> tuple[Any, Renderer, Grammars]:
    config = ModelConfig(model="smollm2-135m-instruct")
    loaded = plugins.load_model(config, read_settings())
    made = Renderer(loaded.tokenizer)
    size = loaded.model.get_output_embeddings().weight.shape[0]
    return loaded, made, Grammars(made, loaded.tokenizer, size)


def generate(constraint: Constraint, messages: list[Message], tools: Any = ()) -> list[int]:
    import torch

    loaded, made, _ = real()
    row, past, ids = Sampling(constraint=constraint), None, []
    given = torch.tensor([made.prompt_ids(messages, tools)])
    with torch.inference_mode():
        while len(ids) < 60:
            out = loaded.model(input_ids=given, past_key_values=past, use_cache=True)
            (token,) = choose(out.logits[:, -1], [row])
            assert isinstance(token, int)
            ids.append(token)
            if token in made.stop_ids:
                break
            constraint.advance(token)
            past, given = out.past_key_values, torch.tensor([[token]])
    return ids


@pytest.mark.real
def test_a_small_model_answers_in_json_when_it_is_held_to_it() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "big": {"type": "boolean"}},
        "required": ["city", "big"],
    }
    asked = [Message(role="user", text="Which city is the capital of France?")]
    ids = generate(real()[2].schema(schema), asked)
    answer = json.loads(real()[1].parse(ids).text)
    assert "Paris" in answer["city"]
    assert isinstance(answer["big"], bool)


@pytest.mark.real
def test_a_small_model_calls_when_it_has_to() -> None:
    asked = [Message(role="user", text="What is the weather in Paris, in degrees Celsius?")]
    ids = generate(real()[2].call(TOOLS, "get_weather"), asked, TOOLS)
    (call,) = real()[1].parse(ids, TOOLS).calls
    assert call.name == "get_weather"
    assert call.arguments["city"] == "Paris"


QUESTION = (Message(role="user", text="What is the weather?"),)
CALLED = (
    *QUESTION,
    Message(role="assistant", tool_calls=(ToolCall(name="now", arguments={}, id="callaaaaa"),)),
    Message(role="tool", text="noon", tool_call_id="callaaaaa", name="now"),
)
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("wanted", [True, False])
def test_a_schema_is_held_to_whether_thinking_is_asked_for_or_not(name: str, wanted: bool) -> None:
    asked = template_renderer(name).thinking(wanted)
    for messages in (QUESTION, asked.said_messages(CALLED)):
        asking = asked.prompt(messages).asking
        held = grammars(name).of(asked).schema(CITY, thinking=6 if wanted else 0, asking=asking)
        stream = asked.open_turn(calls=False, asking=asking)
        stream.feed(drive(held, name, 1))
        turn = stream.finish()[1]
        assert json.loads(turn.text) == {"city": "Rome"}
        if not wanted:
            assert not turn.thinking


@pytest.mark.parametrize("name", READ)
def test_a_forced_call_is_one_without_thinking_too(name: str) -> None:
    asked = template_renderer(name).thinking(False)
    asking = asked.prompt(QUESTION, TOOLS).asking
    held = grammars(name).of(asked).call(TOOLS, thinking=0, asking=asking)
    stream = asked.open_turn(TOOLS, asking=asking)
    stream.feed(drive(held, name, 2))
    turn = stream.finish()[1]
    assert len(turn.calls) == 1
    assert not turn.broken
