"""The launchers start what they say, with flags that the script knows."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from agent_finetune.train import distributed
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.flags import parse

FOLDER = Path(__file__).parents[2] / "examples" / "modelscope_agent_train"
DISTRIBUTED = {"ddp": None, "zero2": 2, "zero3": 3}


@pytest.fixture
def started(tmp_path):
    """The words that a launcher starts a program with, as that program gets them."""
    for name in ("python", "torchrun"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def start(name, *words, **environment):
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        ended = subprocess.run(
            [str(FOLDER / f"run_train_{name}.sh"), *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={"PATH": path, **environment},
        )
        return ended.stdout.splitlines()

    return start


def arguments(words):
    script = words.index(str(FOLDER / "llm_sft.py"))
    return parse(SftArguments, words[script + 1 :], prog="llm_sft.py").arguments


def test_there_is_a_launcher_for_each_way():
    names = {path.name for path in FOLDER.glob("run_train_*.sh")}
    assert names == {f"run_train_{name}.sh" for name in ("single", *DISTRIBUTED)}


def test_one_process_is_plain_python_on_the_documented_flags(started):
    words = started("single")
    assert words[0] == "python"
    flags = arguments(words)
    assert (flags.dataset, flags.dataset_test_ratio) == ("damo/MSAgent-Bench", 0.02)
    assert (flags.lora_rank, flags.lora_alpha, flags.gradient_accumulation_steps) == (8, 32, 16)
    assert flags.deepspeed is None


@pytest.mark.parametrize(("name", "stage"), DISTRIBUTED.items())
def test_several_processes_take_as_many_rows_per_step_as_one(started, name, stage):
    words = started(name, NPROC="8", MASTER_PORT="29511")
    assert words[:5] == ["torchrun", "--nproc-per-node", "8", "--master-port", "29511"]
    flags = arguments(words)
    assert flags.batch_size * flags.gradient_accumulation_steps * 8 == 16
    if stage is None:
        assert flags.deepspeed is None
    else:
        assert distributed.stage(distributed.read(flags.deepspeed)) == stage


@pytest.mark.parametrize("name", ["single", *DISTRIBUTED])
def test_flags_given_to_a_launcher_win(started, name):
    flags = arguments(started(name, "--model_type", "qwen3-8b", "--dataset", "a file.jsonl"))
    assert (flags.model_type, flags.dataset) == ("qwen3-8b", "a file.jsonl")
