"""Runs that are killed, resumed, in each other's way or out of numbers lose nothing."""

import json
import math
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_jobs
from train_jobs import losses, read

from agent_finetune import adapters, plugins, train
from agent_finetune.config import AdapterConfig
from agent_finetune.contracts import TrainResult
from agent_finetune.errors import ConfigError, DataError, TrainError
from agent_finetune.records import Tokens
from agent_finetune.train import folder, history

HELPERS = str(Path(train_jobs.__file__).parent)


# Resuming


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
import train_jobs
from agent_finetune import train
from agent_finetune.train import callbacks
from transformers import TrainerCallback

class Kill(callbacks.CheckpointKeeper):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

callbacks.CheckpointKeeper.on_step_begin = Kill.on_step_begin
train.fit(train_jobs.job(pathlib.Path({out!r}), max_steps=6, save_steps=3,
                       eval_rows=train_jobs.tokens(3, seed=1),
                       lora=train_jobs.AdapterConfig(rank=4, dropout=0.1)))
"""


def whole_and_killed(tmp_path):
    options = {
        "max_steps": 6,
        "save_steps": 3,
        "eval_rows": train_jobs.tokens(3, seed=1),
        "lora": AdapterConfig(rank=4, dropout=0.1),
    }
    whole = train_jobs.job(tmp_path / "whole", **options)
    train.fit(whole)
    out = tmp_path / "killed"
    script = KILLED.format(tests=HELPERS, out=str(out))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return whole, train_jobs.job(out, **options, resume=True)


def test_a_killed_run_resumes_to_the_same_losses(tmp_path):
    whole, killed = whole_and_killed(tmp_path)
    assert read(killed.out / "run.json")["status"] == "running"
    assert len(losses(killed.out)) == 4
    assert not (killed.out / "adapter").exists()
    result = train.fit(killed)
    assert losses(killed.out) == pytest.approx(losses(whole.out), abs=1e-6)
    assert result.train_tokens == read(whole.out / "run.json")["train_tokens"]
    steps = [(line["step"], "loss" in line) for line in history.read(killed.out / "history.jsonl")]
    assert steps == [
        (line["step"], "loss" in line) for line in history.read(whole.out / "history.jsonl")
    ]
    for when, values in read(whole.out / "metrics.json").items():
        assert read(killed.out / "metrics.json")[when] == pytest.approx(values)
    assert adapters.digest(killed.out / "adapter") == adapters.digest(whole.out / "adapter")


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    job = train_jobs.job(tmp_path / "run", max_steps=6, save_steps=2)
    train.fit(job)
    expected = losses(job.out)
    half_finish(job.out)
    newest = job.out / "checkpoints" / "checkpoint-6"
    (newest / "whole").unlink()
    (newest / "adapter_model.safetensors").write_bytes(b"half")
    again = train_jobs.with_train(job, resume=True)
    train.fit(again)
    assert losses(job.out) == pytest.approx(expected, abs=1e-6)


def half_finish(out):
    """Leave a run's folder as if it had been killed before its end."""
    run = read(out / "run.json")
    (out / "run.json").write_text(json.dumps(run | {"status": "running"}))


def test_a_run_killed_after_its_last_checkpoint_still_ends_the_same(tmp_path):
    job = train_jobs.job(tmp_path / "run", max_steps=4, save_steps=2)
    train.fit(job)
    digest, expected = adapters.digest(job.out / "adapter"), losses(job.out)
    half_finish(job.out)
    train.fit(train_jobs.with_train(job, resume=True))
    assert losses(job.out) == expected
    assert adapters.digest(job.out / "adapter") == digest


def test_resuming_nothing_begins(tmp_path):
    job = train_jobs.job(tmp_path / "run", resume=True)
    assert train.fit(job).steps == 3


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path):
    job = train_jobs.job(tmp_path / "run", schedule="constant", max_steps=2, save_steps=2)
    train.fit(job)
    first = losses(job.out)
    assert train.fit(train_jobs.with_train(job, resume=True, max_steps=4)).steps == 4
    assert losses(job.out)[:2] == first
    assert len(losses(job.out)) == 4


def test_a_finished_run_has_nothing_to_resume(tmp_path):
    job = train_jobs.job(tmp_path / "run")
    train.fit(job)
    with pytest.raises(ConfigError, match=r"finished at step 3.*raise max_steps"):
        train.fit(train_jobs.with_train(job, resume=True))


def test_resuming_with_other_settings_names_the_setting(tmp_path):
    job = train_jobs.job(tmp_path / "run")
    train.fit(job)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01 and is now 0\.5"):
        train.fit(train_jobs.with_train(job, resume=True, learning_rate=0.5, max_steps=9))
    other = replace(
        train_jobs.with_train(job, resume=True, max_steps=9), train_rows=train_jobs.tokens(8)
    )
    with pytest.raises(ConfigError, match="training rows was"):
        train.fit(other)


# The folder


@pytest.mark.parametrize(
    ("status", "advice"), [("finished", "remove that folder"), ("running", "--resume")]
)
def test_another_runs_results_are_not_overwritten(tmp_path, status, advice):
    job = train_jobs.job(tmp_path / "run")
    train.fit(job)
    if status == "running":
        half_finish(job.out)
    before = (job.out / "history.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=advice):
        train.fit(train_jobs.job(job.out))
    assert (job.out / "history.jsonl").read_bytes() == before


def test_a_folder_with_something_else_of_our_names_is_refused(tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ConfigError, match="'adapter' of something else"):
        train.fit(train_jobs.job(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="not written by agent-finetune"):
        train.fit(train_jobs.job(tmp_path))
    (tmp_path / "run.json").write_text("no")
    with pytest.raises(ConfigError, match="not JSON"):
        train.fit(train_jobs.job(tmp_path))


def test_out_must_be_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must be a folder"):
        train.fit(train_jobs.job(tmp_path / "file"))


def test_two_runs_cannot_share_a_folder(tmp_path):
    job = train_jobs.job(tmp_path)
    with (
        ThreadPoolExecutor(1) as elsewhere,
        folder.claimed(tmp_path, resume=False),
        pytest.raises(ConfigError, match="another run is writing here"),
    ):
        elsewhere.submit(train.fit, job).result()


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert history.read(path) == [{"step": 1, "loss": 2.0}]
    taken_up = history.History(path, resume_at=1)
    taken_up.add({"step": 2, "loss": 1.0})
    assert [line["step"] for line in history.read(path)] == [1, 2]


# What goes wrong


def test_a_row_with_nothing_to_learn_is_refused(tmp_path):
    bad = Tokens(ids=(5, 6), trained=(False, False), sections=(None, None), source="a.jsonl:3")
    with pytest.raises(DataError, match=r"a\.jsonl:3: none of its 2 tokens is trained"):
        train.fit(train_jobs.job(tmp_path / "run", train_rows=(bad,), max_steps=1))


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path):
    job = train_jobs.job(tmp_path / "run", save_steps=1, max_steps=5)
    calls = iter(range(100))

    def overflow(module, arguments, output):
        return output * (math.nan if next(calls) >= 4 else 1.0)

    job.loaded.model.lm_head.register_forward_hook(overflow)  # calls 0 and 1 are the probe's
    with pytest.raises(TrainError, match=r"step \d: loss is nan; lower learning_rate"):
        train.fit(job)
    assert folder.whole_checkpoints(job.out)
    assert all(math.isfinite(loss) for loss in losses(job.out))


def test_a_gradient_that_overflows_never_reaches_the_weights(tmp_path):
    job = train_jobs.job(tmp_path / "run", save_steps=1)
    head = job.loaded.model.lm_head
    head.register_full_backward_hook(lambda module, into, out: (into[0] * math.inf,))
    with pytest.raises(TrainError, match="step 1: the gradient is"):
        train.fit(job)
    weights = [weight for weight in job.loaded.model.parameters() if weight.requires_grad]
    assert all(torch.isfinite(weight).all() for weight in weights)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_says_what_to_lower(tmp_path, error):
    def fail(module, arguments):
        if module.training:
            raise error

    job = train_jobs.job(tmp_path / "run")
    job.loaded.model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(TrainError, match=r"step 1: out of memory.*batch_size 4 -> 2"):
        train.fit(job)


def test_other_errors_keep_their_traceback(tmp_path):
    def fail(module, arguments):
        if module.training:
            raise RuntimeError("a bug")

    job = train_jobs.job(tmp_path / "run")
    job.loaded.model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train.fit(job)


def test_the_kernel_answers_the_training_hook(tmp_path):
    assert isinstance(plugins.train_adapter(train_jobs.job(tmp_path / "run")), TrainResult)
