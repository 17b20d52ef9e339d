"""For every format: what is trained is what is served, results never, the stop token always."""

import pytest
from agent_formats import read
from agent_rows import ROWS

from agent_finetune.records import Section
from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_tokenizer

OURS = [(name, place) for name, rows in ROWS.items() for place in range(len(rows))]
TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that knows tools; the tiny tokenizer's own does not, and is adapted."""


@pytest.fixture(scope="module", params=["without tools", "with tools"])
def rendering(request):
    own = {"template": TOOLS} if request.param == "with tools" else {}
    tokenizer = tiny_tokenizer(**own)
    return tokenizer, Renderer(tokenizer)


def answers(renderer, example):
    """Each trained turn: its place, and its prompt exactly as it is served."""
    messages = renderer.said_messages(example.messages)
    for place, message in enumerate(messages):
        if message.role == "assistant" and message.trained:
            yield message, renderer.prompt_ids(messages[:place], example.tools)


@pytest.mark.parametrize(("name", "place"), OURS)
def test_what_a_tool_or_a_person_says_is_never_trained(rendering, name, place):
    tokenizer, renderer = rendering
    for row in renderer.rows(read(name, ROWS[name][place])):
        whole = tokenizer.decode(row.ids)
        learned = tokenizer.decode([i for i, on in zip(row.ids, row.trained, strict=True) if on])
        for word in ("OBSERVED", "ASKED"):
            assert word not in learned
        assert "ASKED" in whole


@pytest.mark.parametrize(("name", "place"), OURS)
def test_the_stop_token_is_trained_behind_every_trained_turn(rendering, name, place):
    _, renderer = rendering
    example = read(name, ROWS[name][place])
    stops = [
        (token, on)
        for row in renderer.rows(example)
        for token, on, section in zip(row.ids, row.trained, row.sections, strict=True)
        if section is Section.STOP
    ]
    assert stops == [(renderer.stop_ids[0], True)] * len(list(answers(renderer, example)))


@pytest.mark.parametrize(("name", "place"), OURS)
def test_trained_ids_are_the_served_prompt_and_what_is_generated_behind_it(rendering, name, place):
    _, renderer = rendering
    example = read(name, ROWS[name][place])
    rows = renderer.rows(example)
    learned = 0
    for message, prompt in answers(renderer, example):
        row = next(r for r in rows if r.ids[: len(prompt)] == prompt and r.trained[len(prompt)])
        end = row.ids.index(renderer.stop_ids[0], len(prompt)) + 1
        generated = row.ids[len(prompt) : end]
        assert all(row.trained[len(prompt) : end])
        learned += len(generated)
        said = renderer.parse(generated, example.tools)
        assert [(c.name, c.arguments) for c in said.calls] == [
            (c.name, c.arguments) for c in message.tool_calls
        ]
        assert said.text.strip() == message.text
    assert learned == sum(sum(row.trained) for row in rows)
