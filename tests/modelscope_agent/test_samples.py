"""The samples that are shipped are faithful, clean, and read by their own reader."""

import pytest

from agent_finetune.contracts import Settings
from modelscope_agent_train.sources import open_dataset, read_dataset, sample_names
from modelscope_agent_train.validation import validate

SETTINGS = Settings(offline=True)
ROWS = {
    "agent_flan": 6,
    "agentfabric": 6,
    "agentinstruct": 6,
    "alpha_umi": 6,
    "ms_agent": 6,
    "msagent": 24,
    "toolbench": 7,
    "xlam": 6,
}


@pytest.mark.parametrize("name", ROWS)
def test_a_sample_is_found_and_read_by_the_reader_of_its_name(name):
    result = read_dataset([f"{name}-sample"], settings=SETTINGS)
    assert (result.format, len(result.examples), result.bad) == (name, ROWS[name], ())


def test_all_samples_are_known():
    assert sample_names() == tuple(f"{name}-sample" for name in sorted(ROWS))


@pytest.mark.parametrize("name", ROWS)
def test_a_sample_has_no_problem(name):
    found = validate(f"{name}-sample", settings=SETTINGS)
    assert found.problems == {}, found.text()


def test_the_msagent_sample_shows_every_kind_of_row():
    examples = read_dataset(["msagent-sample"], settings=SETTINGS).examples
    turns = [[m for m in each.messages if m.role == "assistant"] for each in examples]
    assert any(len(turn.tool_calls) > 1 for each in turns for turn in each)
    assert any(sum(bool(turn.tool_calls) for turn in each) > 1 for each in turns)
    assert sum(not any(turn.tool_calls for turn in each) for each in turns) >= 3  # refusals
    assert any(turn.tool_calls and turn.text for each in turns for turn in each)
    assert any(sum(m.role == "user" for m in each.messages) > 1 for each in examples)
    chinese = [e for e in examples if any("\u4e00" <= c <= "\u9fff" for c in e.messages[-1].text)]
    assert len(chinese) >= 5
    text = " ".join(str(row.data) for row in open_dataset("msagent-sample", settings=SETTINGS).rows)
    assert "plugin_schema_for_model" in text
    assert "'required': 'True'" in text.replace('"', "'").replace("\\", "")
    assert "<|startofthink|>和<|endofthink|>" in text
