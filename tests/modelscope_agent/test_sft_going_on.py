"""Runs that are cut off, and runs that go on from others."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers.trainer import Trainer

from agent_finetune.testing import save_tiny_model
from agent_finetune.train import history
from modelscope_agent_train import run_folders
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.flags import parse
from modelscope_agent_train.sft import PATIENCE, main

FLAGS = (
    "--dataset xlam-sample --dtype fp32 --gradient_checkpoint false --evaluate false "
    "--gradient_accumulation_steps 2 --dataset_test_ratio 0 --max_length 2048 --logging_steps 1"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("made") / "tiny"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENT_TRAIN_OFFLINE", "1")
    return tmp_path


@pytest.fixture(scope="module")
def once(model, tmp_path_factory):
    """A run of two steps with a checkpoint after each."""
    place = tmp_path_factory.mktemp("once")
    given = words(model, "--max_steps", "2", "--output_dir", str(place / "runs"))
    assert main([*given, "--local_files_only", "true"]) == 0
    (run,) = runs(place)
    return run


@pytest.fixture
def finished(once, place):
    """The same in a place of its own."""
    shutil.copytree(once, place / "runs" / "tiny" / once.name)
    return place / "runs" / "tiny" / once.name


def words(model, *more):
    return [*FLAGS.split(), "--model_id_or_path", model, "--save_steps", "1", *more]


def runs(place):
    return [run for _, run in sorted(run_folders.runs(place / "runs" / "tiny"))]


def steps(run):
    return [line["step"] for line in history.read(run / "history.jsonl") if "loss" in line]


def cut_off(run):
    """Make it a run that was killed behind its last checkpoint."""
    described = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**described, "status": "running"}))
    (run / "adapter").rename(run.parent / "lost")
    with (run / "history.jsonl").open("a") as file:
        file.write('{"step": 2, "ep')


def interrupting(monkeypatch, at, by=lambda: signal.raise_signal(signal.SIGINT)):
    """Press Ctrl-C in a step, or whatever ends it."""
    usual, taken = Trainer.training_step, []

    def step(self, *given, **named):
        taken.append(1)
        if len(taken) > 2 * at:
            by()
        return usual(self, *given, **named)

    monkeypatch.setattr(Trainer, "training_step", step)


@pytest.mark.parametrize(
    "spelled",
    [
        ["--resume_from_ckpt", "true"],
        ["--resume-from-ckpt", "last"],
        ["--resume_from_ckpt=LAST"],
        ["--resume_from_ckpt", "RUN"],
        ["--resume_from_ckpt", "RUN/checkpoints/checkpoint-2"],
        ["--resume_from_ckpt", "RUN/checkpoints/checkpoint-2/"],
    ],
)
def test_every_way_to_name_a_checkpoint_finds_it(once, monkeypatch, spelled):
    spelled = [word.replace("RUN", str(once)) for word in spelled]
    monkeypatch.chdir(once.parents[2])
    word = parse(SftArguments, spelled, prog="sft").arguments.resume_from_ckpt
    found = run_folders.find_checkpoint(word, Path("runs/tiny"))
    assert (found.path.resolve(), found.step) == (once / "checkpoints/checkpoint-2", 2)


def test_a_run_goes_on_from_the_newest(finished, model, place, capsys):
    assert main(words(model, "--max_steps", "3", "--resume_from_ckpt", "last")) == 0
    assert "checkpoints/checkpoint-2" in capsys.readouterr().err
    assert steps(runs(place)[1]) == [1, 2, 3]


def test_a_run_that_says_false_begins_anew(finished, model, place):
    assert main(words(model, "--max_steps", "1", "--resume_from_ckpt", "false")) == 0
    assert steps(runs(place)[1]) == [1]


def test_a_flag_without_its_value_says_so(capsys):
    assert main(["--resume_from_ckpt", "--lora_rank", "8"]) == 2
    assert capsys.readouterr().err == (
        "error: --resume_from_ckpt: its value is missing; flags are written --name value\n"
    )


def test_a_run_that_has_ended_does_not_begin_again(finished, model, place, capsys):
    assert main(words(model, "--max_steps", "2", "--resume_from_ckpt", "true")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "is at step 2, and the run ends at step 2; raise --max_steps or" in last
    assert runs(place) == [finished]


def test_a_run_killed_before_it_wrote_its_result_does_its_last_step_again(
    finished, model, place, capsys
):
    cut_off(finished)
    assert main(words(model, "--max_steps", "2", "--resume_from_ckpt", "true")) == 0
    assert "is at the last step, and its run was cut off" in capsys.readouterr().err
    assert steps(runs(place)[1]) == [1, 2]
    assert (runs(place)[1] / "adapter").is_dir()


def test_ctrl_c_keeps_the_checkpoint_and_says_how_to_go_on(model, place, capsys, monkeypatch):
    interrupting(monkeypatch, at=2)
    assert main(words(model, "--max_steps", "3")) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    (run,) = runs(place)
    assert last == (
        f"interrupted; to go on from {run.relative_to(place)}/checkpoints/checkpoint-2, give the "
        "same command with --resume_from_ckpt true"
    )
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert main(words(model, "--max_steps", "3", "--resume_from_ckpt", "true")) == 0
    assert steps(runs(place)[1]) == [1, 2, 3]


def test_ctrl_c_before_the_first_checkpoint_says_that_there_is_none(
    model, place, capsys, monkeypatch
):
    interrupting(monkeypatch, at=0)
    assert main(words(model, "--max_steps", "3")) == 130
    assert "interrupted before the first checkpoint" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_right_after_going_on_names_the_earlier_run(
    finished, model, place, capsys, monkeypatch
):
    interrupting(monkeypatch, at=0)
    assert main(words(model, "--max_steps", "3", "--resume_from_ckpt", "true")) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{finished.relative_to(place)}/checkpoints/checkpoint-2" in last
    assert runs(place) == [finished]


def test_settings_that_change_losses_leave_no_folder_behind(finished, model, place, capsys):
    given = words(model, "--max_steps", "3", "--resume_from_ckpt", "true", "--seed", "7")
    assert main(given) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "seed was 42 and is now 7" in last
    assert runs(place) == [finished]


@pytest.mark.parametrize("path", ["a file", "a file/below"])
def test_a_folder_that_cannot_be_made_is_told_before_the_model_is_looked_for(place, capsys, path):
    (place / "a file").touch()
    flags = ["--model_id_or_path", "./none", "--dataset", "xlam-sample", "--output_dir", path]
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --output_dir: {path}/none: Not a directory")


def test_a_disk_that_is_full_is_one_line(model, place, capsys, monkeypatch):
    def full(self, *given, **named):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x")

    monkeypatch.setattr(Trainer, "training_step", full)
    assert main(words(model, "--max_steps", "1")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: runs/x: No space left on device; checkpoints that are whole stay"


def test_data_that_is_nowhere_is_told_before_the_model_is_looked_for(place, capsys):
    flags = ["--model_id_or_path", "./none", "--dataset", "xlam-sample,msagent-sampel"]
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("did you mean 'msagent-sample'?")


def test_a_run_that_is_terminated_says_so_and_how_to_go_on(model, place, capsys, monkeypatch):
    interrupting(monkeypatch, at=2, by=lambda: signal.raise_signal(signal.SIGTERM))
    assert main(words(model, "--max_steps", "3")) == 143
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("terminated; to go on from ")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_the_program_with_one_line(model, place, number, code, word):
    program = "import sys; from modelscope_agent_train.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "sft", *words(model, "--max_steps", "2000")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(command, text=True, **pipes)
    end = time.monotonic() + 120
    while time.monotonic() < end and not list((place / "runs").rglob("checkpoint-2/whole")):
        time.sleep(0.1)
    os.kill(started.pid, number)
    out, told = started.communicate(timeout=120)
    assert started.returncode == code
    assert "Traceback" not in told
    assert out == ""
    assert told.splitlines()[-1].startswith(f"{word}; to go on from ")


def test_a_process_that_is_not_the_first_leaves_errors_to_it(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    waited = []
    monkeypatch.setattr("modelscope_agent_train.sft.time.sleep", waited.append)
    assert main(["--lora_rnak", "8"]) == 2
    assert waited == [PATIENCE]
    assert capsys.readouterr().err.startswith("error in process 1: there is no flag --lora_rnak")


def test_two_processes_say_a_wrong_flag_once():
    script = Path(__file__).parents[2] / "examples/modelscope_agent_train/llm_sft.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, "--master-port", "0", str(script), "--lora_rnak", "8"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode != 0
    assert ended.stderr.count("error: there is no flag --lora_rnak") == 1
    assert "error in process" not in ended.stderr
