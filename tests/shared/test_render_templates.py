"""The law of rendering on every serving template that TRL ships: trained is what is served."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from chat_templates import NAMES, TEMPLATES, renderer, tokenizer

from agent_finetune.records import Example, Message, ToolCall
from agent_finetune.render.preamble import adaptation_names, own_template
from agent_finetune.render.steps import Step, join, runs

ADAPTED = {
    "cohere": "merge-user-turns tools-as-text thinking-as-text",
    "cohere2": "merge-user-turns tools-as-text thinking-as-text",
    "deepseek_r1_distill": "tools-as-text thinking-as-text",
    "deepseekv3": "tools-as-text thinking-as-text",
    "diffusion_gemma": "call-text-as-thinking",
    "gemma": "system-as-user merge-user-turns tools-as-text thinking-as-text",
    "gemma3": "merge-user-turns tools-as-text thinking-as-text",
    "gemma4": "thinking-as-text call-text-as-thinking",
    "gemma4_v2": "thinking-as-text call-thinking-left-out",
    "gemma4_v3": "thinking-as-text call-text-as-thinking",
    "gemma4_v4": "thinking-as-text call-text-as-thinking",
    "gemma4_v5": "call-text-as-thinking",
    "gptoss": "one-call-per-turn call-text-as-thinking",
    "idefics3": "content-as-parts tools-as-text thinking-as-text",
    "lfm2": "tools-as-text thinking-as-text",
    "lfm2_v2": "thinking-as-text",
    "llama3": "tools-as-text thinking-as-text",
    "llama3_1": "one-call-per-turn thinking-as-text call-thinking-left-out call-text-left-out",
    "llama3_2": "one-call-per-turn thinking-as-text call-thinking-left-out call-text-left-out",
    "llava_next": "content-as-parts tools-as-text thinking-as-text",
    "muse_glimmer": "call-text-as-thinking",
    "phi3": "tools-as-text thinking-as-text",
    "phi3_5": "tools-as-text thinking-as-text",
    "qwen2_5": "thinking-as-text",
    "qwen2_5_vl": "tools-as-text thinking-as-text",
    "qwen3_5_nothink": "thinking-left-out",
    "qwen3_instruct_2507": "thinking-as-text",
    "qwen3_vl": "thinking-as-text",
    "smolvlm": "content-as-parts tools-as-text thinking-as-text",
}
"""Every adaptation that is made; the templates that are not listed are used as they are."""

NO_TWIN = {
    "deepseek_r1_distill": "thinking is written past the template by a filter, which its marker",
    "deepseekv3": "positions do not survive",
    "diffusion_gemma": "the twin does not train <|tool_response>, with which a call ends",
    "gemma4": "has no twin",
    "gemma4_v2": "has no twin",
    "gemma4_v3": "has no twin",
    "gemma4_v4": "has no twin",
    "gemma4_v5": "has no twin",
    "glm4moe": "the twin ends a turn with <|endoftext|>, which the serving template never prints",
    "gptoss": "past thinking is in the served prompt and no longer in the finished text",
    "llama3_1": "has no twin",
    "llama3_2": "has no twin",
    "nemotron_3_5_lightning": "serves '<think>\\n' and prints '<think></think>' in finished turns",
    "nemotron_3_nano": "as nemotron_3_5_lightning",
    "nemotron_3_super": "as nemotron_3_5_lightning",
    "nemotron_3_ultra": "as nemotron_3_5_lightning",
    "qwen3": "the twin keeps an empty thinking block in past turns",
    "qwen3_5_nothink": "as qwen3",
    "qwen3_5_think": "as qwen3",
    "qwen3_6": "as qwen3",
}
"""Templates whose twin does not render the serving text at every step, and why."""

STOPS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "gemma4": "<turn|>",
    "diffusion_gemma": "<turn|>",
    "gemma": "<end_of_turn>",
    "glm4moe": "<|user|>",
    "gptoss": "<|return|>",
    "idefics3": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>",
    "llama3": "<|eot_id|>",
    "llava_next": "</s>",
    "muse_glimmer": "<|eot|>",
    "phi3": "<|end|>",
    "": "<|im_end|>",
}
"""What ends a turn, by the longest beginning of a template's name."""

CALL_STOPS = {
    "gemma4_v2": "<turn|>",
    "gemma4": "<|tool_response>",
    "diffusion_gemma": "<|tool_response>",
    "glm4moe": "<|observation|>",
    "gptoss": "<|call|>",
}
"""What ends a turn that calls a tool, where that differs."""

HEADERS = {
    "diffusion_gemma": "<|turn>model\n",
    "gptoss": "<|start|>assistant",
    "nemotron": "<|im_start|>assistant\n<think>",
}
"""What a finished turn prints before the first of what was said, where the prompt differs."""

CALL = ToolCall(name="nameQc", arguments={"keyQc": "argQc", "days": 3}, id="callaaaaa")
CALL_2 = ToolCall(name="nameQd", arguments={"keyQd": ["argQd"]}, id="callbbbbb")
TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"describes {name}",
            "parameters": {
                "type": "object",
                "properties": {
                    key: {"type": kind, "description": "what"},
                    "days": {"type": "integer"},
                },
                "required": [key],
            },
        },
    }
    for name, key, kind in (("nameQc", "keyQc", "string"), ("nameQd", "keyQd", "array"))
)


def user(text: str) -> Message:
    return Message(role="user", text=text)


def says(text: str = "", **more: Any) -> Message:
    return Message(role="assistant", text=text, **more)


def result(text: str, call: ToolCall) -> Message:
    return Message(role="tool", text=text, tool_call_id=call.id, name=call.name)


SYSTEM = Message(role="system", text="systemQs words")
CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "chat": (SYSTEM, user("userQa?"), says("textQa said.")),
    "turns": (user("userQa?"), says("textQa"), user("userQb?"), says("textQb"), user("userQe")),
    "thinking": (
        SYSTEM,
        user("userQa?"),
        says("textQa", thinking="thoughtQa is long"),
        user("userQb?"),
        says("textQb", thinking="thoughtQb"),
    ),
    "tools": (
        SYSTEM,
        user("userQa?"),
        says(tool_calls=(CALL,)),
        result("resultQc", CALL),
        says("textQa"),
        user("userQb?"),
        says(tool_calls=(CALL_2,)),
    ),
    "tools and thinking": (
        user("userQa?"),
        says(thinking="thoughtQa", tool_calls=(CALL,)),
        result("resultQc", CALL),
        says("textQb", thinking="thoughtQb"),
    ),
    "words beside a call": (
        user("userQa?"),
        says("textQa", thinking="thoughtQa", tool_calls=(CALL,)),
        result("resultQc", CALL),
        says("textQb"),
    ),
    "two calls": (
        user("userQa?"),
        says(tool_calls=(CALL, CALL_2)),
        result("resultQc", CALL),
        result("resultQd", CALL_2),
        says("textQb"),
    ),
}
each_template = pytest.mark.parametrize("name", NAMES)


def example(messages: tuple[Message, ...]) -> Example:
    called = any(message.tool_calls for message in messages)
    return Example(messages=messages, tools=TOOLS if called else (), source="here:1")


@cache
def rendered(name: str, kind: str) -> tuple[Example, tuple[Message, ...], list[Step]]:
    """The conversation, its messages as the template says them, and its assistant turns."""
    case = example(CONVERSATIONS[kind])
    messages = tuple(renderer(name).said_messages(case.messages))
    return case, messages, renderer(name).steps(case)


def openai(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as a host sends them; written here again, so that nothing is taken on trust."""
    sent = []
    for message in messages:
        item: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.thinking:
            item["reasoning_content"] = item["thinking"] = message.thinking
        if message.tool_calls:
            item["tool_calls"] = [
                {
                    "type": "function",
                    "id": c.id,
                    "function": {"name": c.name, "arguments": c.arguments},
                }
                for c in message.tool_calls
            ]
        if message.role == "tool":
            item |= {"tool_call_id": message.tool_call_id, "name": message.name}
        sent.append(item)
    return sent


def render(name: str, messages: tuple[Message, ...], tools: Any, **more: Any) -> Any:
    options = {"chat_template": renderer(name).adaptation.template, "tokenize": False, **more}
    sent = [dict(tool) for tool in tools] or None
    return tokenizer(name).apply_chat_template(openai(messages), tools=sent, **options)


def sentinels(message: Message) -> list[str]:
    words = re.findall(r"\w+Q\w", f"{message.thinking or ''} {message.text}")
    for call in message.tool_calls:
        words += re.findall(r"\w+Q\w", f"{call.name} {call.arguments}")
    return words


def by_name(table: dict[str, str], name: str) -> str | None:
    keys = sorted((key for key in table if name.startswith(key)), key=len)
    return table[keys[-1]] if keys else None


def expected(name: str, before: tuple[Message, ...], turn: Message, tools: Any) -> str:
    """What a turn says, found by its sentinels and by a table of stops; no probing."""
    served = render(name, before, tools, add_generation_prompt=True)
    whole = render(name, (*before, turn), tools)
    printed = [word for word in sentinels(turn) if word in whole[max(len(served) - 60, 0) :]]
    first = min(whole.rindex(word) for word in printed)
    last = max(whole.rindex(word) + len(word) for word in printed)
    header = by_name(HEADERS, name)
    start = len(served)
    if header and (not whole.startswith(served) or header in whole[start:first]):
        start = whole.rindex(header, 0, first) + len(header)
    stop = by_name(STOPS, name)
    if turn.tool_calls:
        stop = by_name(CALL_STOPS, name) or stop
    assert stop
    if name == "glm4moe":  # it prints nothing behind a turn: the next turn's header stops it
        return whole[start:] + stop
    return whole[start : whole.index(stop, last) + len(stop)]


@each_template
def test_exactly_the_templates_that_lose_something_are_adapted(name: str) -> None:
    adaptation = renderer(name).adaptation
    assert " ".join(adaptation.names) == ADAPTED.get(name, "")
    assert len(adaptation.reasons) == len(adaptation.names)
    assert adaptation_names(adaptation.template) == adaptation.names
    original = tokenizer(name).chat_template
    assert own_template(adaptation.template) in (original, original.removesuffix("\n"))
    if not adaptation.names:
        assert adaptation.template == original


@each_template
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_row_is_the_prompt_ids_that_are_served_and_what_the_model_says(
    name: str, kind: str
) -> None:
    case, messages, steps = rendered(name, kind)
    served_ids = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    assert [step.place for step in steps] == [
        place for place, message in enumerate(messages) if message.role == "assistant"
    ]
    for step in steps:
        before, turn = messages[: step.place], messages[step.place]
        served = tuple(render(name, before, case.tools, **served_ids))
        assert step.prompt == served == renderer(name).prompt_ids(before, case.tools)
        assert tokenizer(name).decode(step.ids) == expected(name, before, turn, case.tools)
        assert all(step.trained)


@each_template
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_system_user_and_tool_words_are_never_trained(name: str, kind: str) -> None:
    case, _, steps = rendered(name, kind)
    rows = [join(run, case.source) for run in runs(steps)]
    said = [
        tokenizer(name).decode([i for i, on in zip(row.ids, row.trained, strict=True) if on])
        for row in rows
    ]
    for message in case.messages:
        if message.role != "assistant":
            assert not any(word in text for word in sentinels(message) for text in said)
        else:
            for word in sentinels(message):
                times = 0 if word in lost_words(name, message) else 1
                if name == "muse_glimmer" and word.startswith("name"):
                    times = 2  # it addresses the tool, and then names it
                assert sum(text.count(word) for text in said) == times, word


def lost_words(name: str, message: Message) -> list[str]:
    """Words that a named adaptation leaves out."""
    names = renderer(name).adaptation.names
    lost: list[str] = []
    if "thinking-left-out" in names or (message.tool_calls and "call-thinking-left-out" in names):
        lost += (message.thinking or "").split()
    if message.tool_calls and "call-text-left-out" in names:
        lost += re.findall(r"text\w+", message.text)
    return lost


@each_template
def test_what_is_trained_parses_back_into_the_turn(name: str) -> None:
    for kind in CONVERSATIONS:
        case, messages, steps = rendered(name, kind)
        for step in steps:
            turn = messages[step.place]
            parsed = renderer(name).parse(step.ids, case.tools)
            lost = lost_words(name, turn)
            assert [(c.name, c.arguments) for c in parsed.calls] == [
                (c.name, c.arguments) for c in turn.tool_calls
            ]
            found = f"{parsed.thinking or ''} {parsed.text}".split()
            wanted = f"{turn.thinking or ''} {turn.text}".split()
            assert found == [word for word in wanted if not any(w in word for w in lost)]
            assert not parsed.broken


def comparable(name: str, kind: str) -> tuple[int, int]:
    """Compare each step with the twin; answer how many there are, and how many could be."""
    twin_file = TEMPLATES / f"{name}_training.jinja"
    own = own_template(renderer(name).adaptation.template)
    if twin_file.exists():
        twin = twin_file.read_text(encoding="utf-8")
    else:
        twin = own if "endgeneration" in own else ""
    template = renderer(name).adaptation.template.replace(own, twin)
    case, messages, steps = rendered(name, kind)
    compared = 0
    for step in steps:
        shown = messages[: step.place + 1]
        if not twin or "{% filter" in template:
            continue
        if render(name, shown, case.tools, chat_template=template) != render(
            name, shown, case.tools
        ):
            continue
        marked = render(
            name,
            shown,
            case.tools,
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = tuple(marked["input_ids"]), marked["assistant_masks"]
        length = len(step.prompt) + len(step.ids)
        if ids[:length] != step.prompt + step.ids or (name == "diffusion_gemma" and case.tools):
            continue
        # The twin trains the template's text behind the stop too, which no model ever says.
        assert [bool(on) for on in mask[len(step.prompt) : length]] == list(step.trained)
        assert tokenizer(name).decode(ids[length:]).strip() in ("", "</s>")
        compared += 1
    return len(steps), compared


@each_template
def test_flags_equal_those_of_the_generation_marked_twin(name: str) -> None:
    counts = [comparable(name, kind) for kind in CONVERSATIONS]
    if name in NO_TWIN:
        assert any(compared < steps for steps, compared in counts), "take it off the list"
    else:
        assert all(compared == steps for steps, compared in counts)


def test_rows_are_shared_only_where_the_prefix_survives() -> None:
    """Counts over all templates: how many say a conversation in one row, how many in several."""
    counts = {}
    for kind in ("turns", "tools", "tools and thinking"):
        counts[kind] = 0
        for name in NAMES:
            steps = rendered(name, kind)[2]
            made = [join(run, "") for run in runs(steps)]
            counts[kind] += len(made) == 1
            ends = [step.prompt + step.ids for step in steps]
            assert {row.ids for row in made} <= set(ends)
            assert all(any(row.ids[: len(end)] == end for row in made) for end in ends)
    assert counts == {"turns": 30, "tools": 29, "tools and thinking": 39}
