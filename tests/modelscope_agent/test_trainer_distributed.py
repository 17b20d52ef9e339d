"""A DeepspeedHook under torchrun: `build_trainer("agent-sft", ...)` does what one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import modelscope_sessions
import pytest
import torch
from modelscope_sessions import SAVED, STEPS, Losses
from modelscope_trainers import conversations, tiny_folder
from safetensors.torch import load_file
from train_jobs import losses, read

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FILES = Path(__file__).parents[2] / "examples" / "modelscope_agent_train"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


def two_processes(folder, out, stage, **session):
    options = {"deepspeed": str(FILES / f"ds_stage_{stage}.json"), **session}
    options |= {"folder": str(folder), "out": str(out)}
    return subprocess.run(
        [*TORCHRUN, modelscope_sessions.__file__, json.dumps(options)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            # A folder without a single extension in it: whatever is compiled would be found there.
            "TORCH_EXTENSIONS_DIR": str(out.parent / "compiled"),
        },
        timeout=600,
    )


def one_process(folder, out):
    hook = Losses()
    modelscope_sessions.build(folder, out, hooks=[hook]).train()
    assert hook.seen == pytest.approx(losses(out))
    measured = read(out / "metrics.json")
    # It learns enough for the comparison to mean something: hundreds of times what may differ.
    assert measured["before"]["eval_loss"] - measured["after"]["eval_loss"] > 0.04
    return out


def check_alike(out, one, *, stage, session=STEPS):
    """Held against one process: losses, weights, answers, and what each process's hooks saw."""
    assert losses(out) == pytest.approx(losses(one), abs=1e-4)
    assert len(losses(out)) == STEPS
    for rank in range(2):
        seen = read(out / f"seen_by_{rank}.json")
        assert seen["losses"] == pytest.approx(losses(out)[-session:])
        assert seen["iter"] == STEPS
        measured = read(one / "metrics.json")["after"]["eval_loss"]
        assert seen["metrics"]["loss"] == pytest.approx(measured, abs=1e-4)
    run = read(out / "run.json")
    assert (run["status"], run["model"]["processes"]) == ("finished", 2)
    assert run["model"]["compute_dtype"] == "float32"
    assert run["must_stay"]["ZeRO stage of deepspeed"] == stage
    assert not (out.parent / "compiled").exists()
    name = "output/adapter_model.safetensors"
    found, wanted = load_file(out / name), load_file(one / name)
    assert found.keys() == wanted.keys()
    for key, weight in found.items():
        torch.testing.assert_close(weight, wanted[key], atol=1e-4, rtol=1e-3)
    check_answers(out, one)


def check_answers(out, one):
    """Greedy answers of a fresh trainer with one adapter, the other, and none."""
    asked = conversations(2, start=2)
    trainer = modelscope_sessions.build(out.parent / "model", out.parent / "asking")
    before = trainer.predict(asked)
    ours, theirs = (trainer.predict(asked, checkpoint_path=run / "output") for run in (out, one))
    assert ours == theirs
    assert ours != before


def test_a_deepspeed_hook_with_zero_2_trains_as_one_process_does(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    one = one_process(folder, tmp_path / "one")
    out = tmp_path / "two"
    ended = two_processes(folder, out, 2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    check_alike(out, one, stage=2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_a_killed_run_goes_on_to_the_losses_and_answers_of_one_process(tmp_path, stage):
    folder = tiny_folder(tmp_path / "model")
    one = one_process(folder, tmp_path / "one")
    out = tmp_path / "two"
    killed = two_processes(folder, out, stage, killed_at=SAVED + 2)
    assert killed.returncode != 0
    assert read(out / "run.json")["status"] != "finished"
    assert losses(out) == pytest.approx(losses(one)[: len(losses(out))], abs=1e-4)
    assert len(losses(out)) > SAVED
    checkpoint = str(out / "checkpoints" / f"checkpoint-{SAVED}")
    ended = two_processes(folder, out, stage, checkpoint=checkpoint)
    assert ended.returncode == 0, ended.stderr[-3000:]
    check_alike(out, one, stage=stage, session=STEPS - SAVED)
