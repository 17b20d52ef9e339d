"""What the README of the ModelScope plugin says of a real model, from data to evaluation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "msagent_training.py"


@pytest.mark.real
@pytest.mark.slow
def test_the_script_teaches_a_real_model_to_call_tools_that_it_never_saw(tmp_path):
    figures = tmp_path / "figures.json"
    subprocess.run([sys.executable, BENCHMARK, "--json", figures], check=True)
    found = json.loads(figures.read_text("utf-8"))
    assert found["after"]["counts"]["name_accuracy"] >= 200
    right = {when: found[when]["metrics"]["name_accuracy"]["value"] for when in ("before", "after")}
    assert right["before"] < 0.1
    assert right["after"] >= 0.7
