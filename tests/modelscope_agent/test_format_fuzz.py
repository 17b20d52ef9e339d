"""Whatever stands in a row, a reader answers an example or a DataError, and detection an answer."""

import copy
import json
import random

import pytest
from agent_formats import read
from agent_rows import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_finetune.errors import DataError
from agent_finetune.records import Row
from modelscope_agent_train.formats import FORMATS, detect

WORDS = (
    "<|startofthink|>", "<|endofthink|>", "<|startofexec|>", "<|endofexec|>", "```JSON\n", "\n```",
    '{"api_name": "f", "parameters": {}}', "{'a': None}", "Thought:", "\nAction: f", "\nAction:",
    "\nAction Input: ", "\nObservation: ", "<result>", "</result>", "\nFinal Answer: a", "Answer:",
    "Begin!", "1. {", '"name":', "[", "]", "{", "}", '"', "'", "\\", "\n", "words",
    "You have access to the following APIs:\n", "Use the following format:", "Parameters: [",
    "Specifically, you have access to the following APIs: [", "Finish", "# \u5de5\u5177\n",
    "You have assess to the following apis:\n", "You are AutoGPT",
)  # fmt: skip
"""Pieces that mean something to a reader."""
TEXT = st.lists(st.sampled_from(WORDS), max_size=9).map("".join)
VALUES = st.recursive(
    TEXT | st.none() | st.booleans() | st.integers() | st.just(float("nan")) | st.just(b"x"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("name", "parameters", "function", "loss")), inner)
    ),
    max_leaves=3,
)
few = settings(max_examples=40, deadline=None)


def places(value, path=()):
    """Where in a row something stands."""
    yield path
    if not isinstance(value, (dict, list)):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from places(inner, (*path, key))


def replaced(row, path, value):
    changed = copy.deepcopy(row)
    *to, last = path
    inner = changed
    for key in to:
        inner = inner[key]
    inner[last] = value
    return changed


def survives(name, row):
    try:
        example = read(name, row)
    except DataError as error:
        assert str(error)  # noqa: PT017 - refusing is as right as reading
        return
    assert any(m.role == "assistant" and m.trained for m in example.messages)
    json.dumps([dict(c.arguments) for m in example.messages for c in m.tool_calls])


@pytest.mark.parametrize("name", FORMATS)
@few
@given(st.data())
def test_a_row_with_anything_in_any_place_is_read_or_refused(name, data):
    row = data.draw(st.sampled_from(ROWS[name]))
    path = data.draw(st.sampled_from([path for path in places(row) if path]))
    changed = replaced(row, path, data.draw(VALUES))
    survives(name, changed)
    detect([Row(source="a:1", data=changed)])


@pytest.mark.parametrize("name", FORMATS)
@few
@given(st.data())
def test_a_text_with_pieces_in_it_is_read_or_refused(name, data):
    row = data.draw(st.sampled_from(ROWS[name]))
    texts = [p for p in places(row) if p and isinstance(_at(row, p), str)]
    path = data.draw(st.sampled_from(texts))
    text = _at(row, path)
    cut = data.draw(st.integers(0, len(text)))
    survives(name, replaced(row, path, text[:cut] + data.draw(TEXT) + text[cut:]))


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_another_format_is_read_or_refused(name):
    for rows in ROWS.values():
        for row in rows:
            survives(name, row)


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_cut_anywhere_is_read_or_refused(name):
    chance = random.Random(0)
    for row in ROWS[name]:
        for path in places(row):
            if path and isinstance(text := _at(row, path), str) and text:
                survives(name, replaced(row, path, text[: chance.randrange(len(text))]))


def _at(row, path):
    for key in path:
        row = row[key]
    return row
