"""The script of 2023, with its imports changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from modelscope_trainers import SAMPLE, tiny_folder

EXAMPLES = Path(__file__).parents[2] / "examples" / "modelscope_agent_train"


WITHOUT_DISTUTILS = """
import runpy, sys
sys.modules["distutils"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(tmp_path, *arguments, launcher=("-c", WITHOUT_DISTUTILS)):
    folder = tiny_folder(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(SAMPLE.read_text("utf-8").splitlines()[:5]), "utf-8")
    own = ["--model", str(folder), "--dataset_json_file", str(rows)]
    own += ["--work_dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / "finetune_tool.py"), *own, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "run" / "run.json").read_text())


def test_the_script_of_2023_trains_without_distutils_as_in_python_3_12(tmp_path):
    found = run(tmp_path)
    assert (found["status"], found["steps"]) == ("finished", 2)
    assert found["config"]["train"]["gradient_accumulation"] == 2
    assert found["config"]["train"]["max_grad_norm"] == 2.0
    assert (tmp_path / "run" / "output" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_its_deepspeed_hook_really_distributes(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29541"]
    config = str(EXAMPLES / "ds_stage_2.json")
    found = run(tmp_path, "--deepspeed", config, launcher=launcher)
    assert (found["status"], found["model"]["processes"]) == ("finished", 2)
    assert found["config"]["train"]["deepspeed"] == config
