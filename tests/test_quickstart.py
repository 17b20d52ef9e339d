"""The command on the README's first screen, and the bar that its result must meet."""

import json
from pathlib import Path

import pytest

from agent_finetune import quickstart
from agent_finetune.cli import main
from agent_finetune.errors import ConfigError
from agent_finetune.metrics import Measure
from agent_finetune.settings import read_settings
from agent_finetune.testing import save_tiny_model

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "tool_calling.json"


@pytest.mark.real  # the questions come in a wheel, the model here is tiny
def test_the_quickstart_runs_from_data_to_table(tmp_path):
    config = quickstart.QuickstartConfig(
        model=str(save_tiny_model(tmp_path / "model")),
        minutes=0.01,
        out=str(tmp_path / "out"),
        per_kind=2,
        max_length=900,  # a tiny vocabulary makes long rows
        max_new_tokens=4,
    )
    lines: list[str] = []
    result = quickstart.run(config, read_settings(), report=lines.append)
    assert result.training.steps == quickstart.PROBE_STEPS  # what always fits
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "quickstart.json").read_text())["steps"] == 4
    assert "right tool name" in lines[-1]
    assert f"--adapter {result.training.adapter_dir}" in lines[-1]


def test_a_folder_with_something_in_it_is_not_used(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    config = quickstart.QuickstartConfig(out=str(tmp_path))
    with pytest.raises(ConfigError, match="is not empty; give another --out"):
        quickstart.run(config, read_settings(), report=print)


def test_no_time_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"minutes is 0; it must be greater than 0"):
        quickstart.QuickstartConfig(minutes=0)


@pytest.mark.slow
@pytest.mark.real
def test_the_quickstart_meets_the_bar_of_three_seeds(tmp_path):
    bar = json.loads(RESULTS.read_text("utf-8"))["bar"]
    assert main(["quickstart", "--out", str(tmp_path / "out")]) == 0
    after = json.loads((tmp_path / "out" / "quickstart.json").read_text("utf-8"))["after"]
    right = (after["one_tool"]["name_accuracy"] + after["several_tools"]["name_accuracy"]) / 2
    assert right >= bar >= 0.75


def test_a_rate_over_both_kinds_counts_and_a_mean_is_weighted():
    def reports(**measures):
        return type("Report", (), {"measures": measures})()

    measured = quickstart.Measured(
        one=reports(
            exact_match=Measure(value=1.0, n=2, hits=2), argument_f1=Measure(value=1.0, n=3)
        ),
        several=reports(
            exact_match=Measure(value=0.5, n=4, hits=2), argument_f1=Measure(value=0.0, n=1)
        ),
        seconds=0.0,
    )
    assert measured.rate("exact_match") == "4 of 6"
    assert measured.rate("argument_f1") == "0.75"
    assert measured.rate("missing") == "-"
