"""A run that leaves the real numbers stops at once, and nothing of it is written."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import train_jobs
from safetensors.torch import load_file
from train_jobs import losses, read
from transformers import TrainerCallback

from agent_finetune import adapters, train
from agent_finetune.errors import TrainError
from agent_finetune.train import folder, history
from agent_finetune.train.callbacks import SCALER_STEPS, GradientCheck
from agent_finetune.train.trainer import check_weights

ROWS = {"sft": train_jobs.tokens(16), "dpo": train_jobs.pairs(16), "kto": train_jobs.verdicts(16)}


def job_of(out, objective="sft", **options):
    rows = ROWS[objective]
    return train_jobs.job(
        out, train_rows=rows, objective=objective, max_steps=5, save_steps=1, **options
    )


class FromStep(TrainerCallback):
    """Lets something happen in a step, as it would on a machine or with data that is to blame."""

    def __init__(self, step, happen):
        self.step = step
        self.happen = happen

    def on_step_begin(self, args, state, control, **given):
        if state.global_step + 1 == self.step:
            self.happen(given["model"])


def spoiled_loss(value):
    def happen(model):
        head = model.get_base_model().lm_head
        head.register_forward_hook(lambda module, arguments, output: output * value)

    return happen


def spoiled_gradient(model):
    weight = next(weight for weight in model.parameters() if weight.requires_grad)
    weight.register_hook(lambda gradient: gradient * math.inf)


def no_numbers_are_on_disk(out):
    files = list(out.rglob("adapter_model.safetensors"))
    assert files
    assert all(torch.isfinite(w).all() for path in files for w in load_file(path).values())


def stopped_at_three(job, match):
    with pytest.raises(TrainError, match=rf"^step 3: {match}.*lower learning_rate.*float16"):
        train.fit(job)
    assert [step for step, _ in folder.whole_checkpoints(job.out)] == [1, 2]
    assert not (job.out / "adapter").exists()
    no_numbers_are_on_disk(job.out)
    run = read(job.out / "run.json")
    assert (run["status"], run["steps"]) == ("failed", 2)
    assert run["error"].startswith("TrainError: step 3: ")
    assert all(math.isfinite(loss) for loss in losses(job.out))


LOSS = (spoiled_loss(math.nan), "loss is nan")
GRADIENT = (spoiled_gradient, "the gradient is ")


@pytest.mark.parametrize(
    ("objective", "happen", "match"),
    [
        ("sft", *LOSS),
        pytest.param("sft", *GRADIENT, marks=pytest.mark.slow),
        pytest.param("dpo", *LOSS, marks=pytest.mark.slow),
        ("dpo", *GRADIENT),
        ("kto", *LOSS),
        pytest.param("kto", *GRADIENT, marks=pytest.mark.slow),
    ],
)
def test_the_step_is_named_and_what_was_whole_goes_on(tmp_path, objective, happen, match):
    job = job_of(tmp_path / "run", objective)
    stopped_at_three(replace(job, callbacks=[FromStep(3, happen)]), match)
    if objective == "sft":
        whole = job_of(tmp_path / "whole")
        train.fit(whole)
        train.fit(train_jobs.with_train(job, resume=True))
        assert losses(job.out) == pytest.approx(losses(whole.out), abs=1e-6)
        assert adapters.digest(job.out / "adapter") == adapters.digest(whole.out / "adapter")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("last", [False, True])
def test_a_weight_that_is_no_number_reaches_neither_checkpoint_nor_adapter(tmp_path, value, last):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            if state.global_step == 3:
                weight = next(w for w in given["model"].parameters() if w.requires_grad)
                weight.data[0, 0] = value

    save = {"save_steps": 2, "max_steps": 3} if last else {"save_steps": 1, "max_steps": 5}
    job = train_jobs.job(tmp_path / "run", **save)
    with pytest.raises(TrainError, match=r"^step 3: the weight base_model\S+ is (nan|inf)"):
        train.fit(replace(job, callbacks=[Spoil()]))
    assert [step for step, _ in folder.whole_checkpoints(job.out)] == ([2] if last else [1, 2])
    assert not (job.out / "adapter").exists()
    no_numbers_are_on_disk(job.out)


def test_a_learning_rate_that_is_far_too_high_ends_in_one_line(tmp_path):
    job = job_of(tmp_path / "run", learning_rate=1e30)
    with pytest.raises(TrainError, match=r"^step \d: (loss|the gradient) is \S+; lower learning_r"):
        train.fit(job)
    assert not (job.out / "adapter").exists()
    no_numbers_are_on_disk(job.out)


def test_weights_whose_sum_alone_is_too_large_are_fine():
    layer = torch.nn.Linear(4, 4)
    layer.weight.data.fill_(3e38)
    check_weights(layer, 1)
    layer.weight.requires_grad_(False)[0, 0] = math.nan  # it is not trained, and not written
    check_weights(layer, 1)


def test_float16_may_skip_steps_while_its_scale_falls_but_not_for_ever():
    layer = torch.nn.Linear(2, 2)
    check, args = GradientCheck(), SimpleNamespace(fp16=True)
    state = SimpleNamespace(global_step=7)

    def step(gradient):
        layer.weight.grad = torch.full((2, 2), gradient)
        check.on_pre_optimizer_step(args, state, None, model=layer)

    for _ in range(3):
        for _ in range(SCALER_STEPS):
            step(math.inf)
        step(1.0)
    for _ in range(SCALER_STEPS):
        step(math.nan)
    with pytest.raises(TrainError, match="step 8: the gradient is nan"):
        step(math.nan)


def test_a_norm_that_overflowed_is_written_as_null(tmp_path):
    written = history.History(tmp_path / "history.jsonl")
    written.add({"step": 1, "loss": 2.0, "grad_norm": math.inf})
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "loss": 2.0, "grad_norm": None}
    assert history.read(tmp_path / "history.jsonl") == written.lines
