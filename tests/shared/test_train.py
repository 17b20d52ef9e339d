"""Training: the losses are right, and what a run leaves behind can be trusted."""

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import train_jobs
from peft import PeftModel
from rich.console import Console
from train_jobs import losses, read
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent_finetune import adapters, attention, collate, testing, train
from agent_finetune.config import AdapterConfig, ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from agent_finetune.train import arguments, folder, history
from agent_finetune.train.callbacks import ProgressBar
from agent_finetune.train.trainer import trained_loss

HELPERS = str(Path(train_jobs.__file__).parent)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


def reference_loss(model, rows):
    """The loss as the textbook has it: one row at a time, sum over trained tokens, mean."""
    total, count = 0.0, 0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0].float()
        for place in range(1, len(row.ids)):
            if row.trained[place]:
                total = total + F.cross_entropy(logits[place - 1], torch.tensor(row.ids[place]))
                count += 1
    return total / count


def reference_losses(job, batches):
    """Losses of a plain training loop over given batches of rows."""
    config = job.config.train
    model = adapters.attach(train_jobs.loaded(), job.config.lora, seed=config.seed).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.peak_learning_rate, weight_decay=0.0)
    found = []
    for rows in batches:
        loss = reference_loss(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_packed_padded_and_reference_loss_are_one():
    loaded = train_jobs.loaded()
    rows = train_jobs.tokens(5)
    attention.register()
    with torch.no_grad():
        expected = float(reference_loss(loaded.model, rows))
        padded = trained_loss(loaded.model, collate.pad(rows, pad_id=1))
        with attention.using(loaded.model, attention.PACKED):
            packed = trained_loss(loaded.model, collate.pack(rows))
    for total, count in (padded, packed):
        assert float(total / count) == pytest.approx(expected, abs=1e-5)
        assert int(count) == sum(sum(row.trained[1:]) for row in rows)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 2)])
def test_training_follows_a_plain_loop(tmp_path, pack, batch_size, accumulation):
    """All rows in one batch, so that the order of the shuffle does not matter."""
    rows = train_jobs.tokens(4)
    job = train_jobs.job(
        tmp_path / "run",
        train_rows=rows,
        pack=pack,
        batch_size=batch_size,
        gradient_accumulation=accumulation,
        schedule="constant",
        warmup=0.0,
        max_steps=4,
    )
    result = train.fit(job)
    assert losses(job.out) == pytest.approx(reference_losses(job, [rows] * 4), abs=2e-5)
    assert losses(job.out)[-1] < losses(job.out)[0]
    assert result.steps == 4
    assert result.loss == losses(job.out)[-1]
    assert result.train_tokens == 4 * sum(len(row.ids) for row in rows)
    assert read(job.out / "run.json")["model"]["packed"] is pack


def test_a_run_leaves_behind_what_it_promises(tmp_path):
    job = train_jobs.job(
        tmp_path / "run", eval_rows=train_jobs.tokens(3, seed=1), lora=AdapterConfig(rank=2)
    )
    job = replace(job, facts={"data": {"read": 16, "dropped": 0}})
    result = train.fit(job)
    lines = history.read(job.out / "history.jsonl")
    training_line = next(line for line in lines if "loss" in line)
    assert list(training_line) == [
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "seconds",
    ]
    evaluations = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [0, 3]
    metrics = read(job.out / "metrics.json")
    assert metrics["before"]["eval_loss"] == evaluations[0]["eval_loss"]
    assert metrics["after"] == result.metrics
    assert metrics["after"]["eval_loss"] == evaluations[1]["eval_loss"]
    run = read(job.out / "run.json")
    assert run["status"] == "finished"
    assert run["data"] == {"read": 16, "dropped": 0}
    assert run["config"]["lora"]["rank"] == 2
    assert run["seed"] == 0
    assert run["versions"]["trl"]
    assert run["model"]["digest"] == "sha256:0"
    assert run["adapter_digest"] == adapters.digest(job.out / "adapter")
    assert (job.out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert result.adapter_dir == job.out / "adapter"
    plain = PeftModel.from_pretrained(train_jobs.loaded().model, job.out / "adapter")
    ids = torch.tensor([[11, 12, 13]])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, job.loaded.model(input_ids=ids).logits)
    assert not job.loaded.model.training
    pickles = [path for path in job.out.rglob("*") if path.suffix in (".bin", ".pkl")]
    assert pickles == []


def test_the_held_out_loss_is_per_token_whatever_the_batches(tmp_path):
    rows = train_jobs.tokens(5, seed=1)
    found = set()
    for batch_size in (2, 5):
        job = train_jobs.job(
            tmp_path / str(batch_size), eval_rows=rows, batch_size=batch_size, max_steps=1
        )
        train.fit(job)
        found.add(round(read(job.out / "metrics.json")["before"]["eval_loss"], 5))
    with torch.no_grad():
        assert found == {round(float(reference_loss(train_jobs.loaded().model, rows)), 5)}


def test_the_seed_decides_everything(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train.fit(train_jobs.job(tmp_path / name, seed=seed, lora=AdapterConfig(dropout=0.2)))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_epochs_and_log_steps_are_counted(tmp_path):
    job = train_jobs.job(tmp_path / "run", max_steps=None, epochs=1.5, log_steps=2)
    assert train.fit(job).steps == 6
    lines = history.read(job.out / "history.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["epoch"] for line in lines] == [0.5, 1.0, 1.5]


def test_a_short_run_takes_its_first_step_at_full_speed(tmp_path):
    job = train_jobs.job(tmp_path / "run", learning_rate=1e-3, max_steps=2)
    train.fit(job)
    rates = [line["learning_rate"] for line in history.read(job.out / "history.jsonl")]
    assert rates == [1e-3, 5e-4]


def test_bfloat16_training_learns_and_keeps_float32_masters(tmp_path):
    model = train_jobs.loaded(dtype="bfloat16")
    model.model.to(torch.bfloat16)
    rows = train_jobs.tokens(4)
    job = train_jobs.job(tmp_path / "run", train_rows=rows, model=model, max_steps=15)
    train.fit(job)
    trained = {w.dtype for w in job.loaded.model.parameters() if w.requires_grad}
    assert trained == {torch.float32}
    found = losses(job.out)
    exact = train_jobs.job(tmp_path / "exact", train_rows=rows, max_steps=15)
    train.fit(exact)
    with torch.no_grad():  # autocast ended with the training
        assert job.loaded.model(input_ids=torch.tensor([[5]])).logits.dtype == torch.bfloat16
    assert found[-1] < found[0] - 0.1
    assert found == pytest.approx(losses(exact.out), rel=0.02)


def test_full_training_leaves_a_plain_model(tmp_path):
    model = train_jobs.loaded(dtype="bfloat16")
    model.model.to(torch.bfloat16)
    job = train_jobs.job(
        tmp_path / "run",
        train_rows=train_jobs.tokens(4),
        model=model,
        method="full",
        learning_rate=1e-3,
    )
    result = train.fit(job)
    assert result.adapter_dir == job.out / "model"
    plain = AutoModelForCausalLM.from_pretrained(job.out / "model")
    assert plain.dtype == torch.bfloat16
    ids = torch.tensor([[11, 12, 13]])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, job.loaded.model(input_ids=ids).logits)
    assert AutoTokenizer.from_pretrained(job.out / "model").chat_template
    assert losses(job.out)[-1] < losses(job.out)[0]
    assert read(job.out / "run.json")["model"]["compute_dtype"] == "bfloat16"


def test_full_training_in_bfloat16_by_name_stays_in_bfloat16(tmp_path):
    model = train_jobs.loaded(dtype="bfloat16")
    model = replace(model, config=ModelConfig(model="tiny", dtype="bfloat16"))
    model.model.to(torch.bfloat16)
    job = train_jobs.job(tmp_path / "run", model=model, method="full", max_steps=1)
    train.fit(job)
    assert {weight.dtype for weight in job.loaded.model.parameters()} == {torch.bfloat16}
    assert read(job.out / "run.json")["model"]["compute_dtype"] == "float32"


def test_full_training_of_a_model_with_an_adapter_is_refused(tmp_path):
    model = train_jobs.loaded()
    model = replace(model, model=adapters.attach(model, AdapterConfig(rank=2)))
    with pytest.raises(ConfigError, match="merge it first"):
        train.fit(train_jobs.job(tmp_path / "run", model=model, method="full"))


def test_an_adapter_goes_on_training_where_it_was(tmp_path):
    rows = train_jobs.tokens(4)
    first = train_jobs.job(tmp_path / "first", train_rows=rows, max_steps=8)
    train.fit(first)
    fresh = train_jobs.loaded(adapter=str(first.out / "adapter"))
    carried = PeftModel.from_pretrained(fresh.model, first.out / "adapter")
    second = train_jobs.job(
        tmp_path / "second", train_rows=rows, model=replace(fresh, model=carried), max_steps=2
    )
    train.fit(second)
    assert losses(second.out)[0] < losses(first.out)[-1]
    assert read(second.out / "run.json")["must_stay"]["adapter"].startswith("sha256:")


def test_a_base_in_four_bits_trains_a_float32_adapter(tmp_path):
    pytest.importorskip("bitsandbytes")
    from agent_finetune import models

    testing.save_tiny_model(tmp_path / "base")
    config = ModelConfig(
        model=str(tmp_path / "base"), device="cpu", dtype="bfloat16", quantization="4bit"
    )
    settings = Settings(cache_dir=tmp_path / "cache")
    resolved = models.resolve(config.model, None, settings)
    model = models.load_base(config, resolved, settings)
    job = train_jobs.job(
        tmp_path / "run", train_rows=train_jobs.tokens(4), model=model, max_steps=12
    )
    train.fit(job)
    assert losses(job.out)[-1] < losses(job.out)[0] - 0.05
    trained = {weight.dtype for weight in model.model.parameters() if weight.requires_grad}
    assert trained == {torch.float32}


def test_gradient_checkpointing_changes_no_loss(tmp_path):
    for name, on in (("with", True), ("without", False)):
        train.fit(train_jobs.job(tmp_path / name, gradient_checkpointing=on))
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), abs=1e-6)


def test_many_trained_tokens_go_through_trls_head_to_the_same_losses(tmp_path, monkeypatch):
    train.fit(train_jobs.job(tmp_path / "ours"))
    monkeypatch.setattr("agent_finetune.train.trainer.MOST_LOGITS", 0)
    train.fit(train_jobs.job(tmp_path / "trl"))
    assert losses(tmp_path / "trl") == pytest.approx(losses(tmp_path / "ours"), abs=1e-5)


def test_patience_stops_and_keeps_the_best(tmp_path):
    """Held-out rows that training can only make worse: the best model is the first."""
    job = train_jobs.job(
        tmp_path / "run",
        train_rows=train_jobs.tokens(4),
        eval_rows=train_jobs.tokens(4, seed=5),
        learning_rate=0.1,
        eval_steps=1,
        patience=2,
        max_steps=30,
    )
    result = train.fit(job)
    evaluations = [line for line in history.read(job.out / "history.jsonl") if "eval_loss" in line]
    after_start = [line for line in evaluations if line["step"]]
    best = min(after_start, key=lambda line: line["eval_loss"])
    assert result.steps < 30
    assert result.metrics["eval_loss"] == best["eval_loss"]
    with torch.no_grad():
        kept = float(reference_loss(job.loaded.model, job.eval_rows))
    assert kept == pytest.approx(best["eval_loss"], abs=1e-5)


def test_old_checkpoints_are_dropped(tmp_path):
    job = train_jobs.job(tmp_path / "run", max_steps=5, save_steps=1, keep_checkpoints=2)
    train.fit(job)
    assert [step for step, _ in folder.whole_checkpoints(job.out)] == [4, 5]
    assert len(list((job.out / "checkpoints").glob("checkpoint-*"))) == 2


# What the user sees meanwhile


def bar_of(console):
    bar = ProgressBar(history.History(Path(os.devnull)), console)
    bar.history.lines.append({"step": 5, "loss": 1.25, "tokens_per_second": 310.0})
    state = SimpleNamespace(global_step=4, max_steps=50)
    bar.on_train_begin(None, state, None)
    state.global_step = 5
    bar.on_step_end(None, state, None)
    bar.on_prediction_step(None, state, None)
    bar.on_log(None, state, None, logs={"eval_loss": 1.0})
    bar.on_log(None, state, None, logs={"loss": 1.25})
    bar.close()
    return console.file.getvalue()


def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left():
    drawn = bar_of(Console(file=io.StringIO(), force_terminal=True, width=120))
    assert "5/50" in drawn
    assert "loss 1.250  310 tokens/s" in drawn
    assert "left" in drawn


def test_a_log_file_gets_a_line_every_tenth_of_the_way():
    drawn = bar_of(Console(file=io.StringIO(), force_terminal=False, width=120))
    assert re.fullmatch(r"step 5/50  loss 1\.250  310 tokens/s  \d:\d\d:\d\d left\n", drawn)


# A GPU: what can be said without one


def test_a_gpu_that_training_would_not_take_is_refused():
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        arguments.take_device(SimpleNamespace(device=torch.device("cuda:0")), "cuda:1")


def test_several_gpus_in_sight_are_not_split_over():
    args = SimpleNamespace(device=torch.device("cuda:0"), _n_gpu=2)
    arguments.take_device(args, "cuda:0")
    assert args._n_gpu == 1


# Two processes

RANK = """
import os, pathlib, sys
sys.path.insert(0, {tests!r})
import train_jobs
from agent_finetune import train
result = train.fit(train_jobs.job(pathlib.Path({out!r}), batch_size=2, max_steps=4,
                                eval_rows=train_jobs.tokens(4, seed=1), save_steps=2))
# One write: torchrun starts Python unbuffered, and the pieces of two prints would mix.
os.write(1, b"steps %d %d\\n" % (result.steps, result.train_tokens))
"""


def test_two_processes_have_the_losses_of_one_and_write_once(tmp_path):
    one = train_jobs.job(
        tmp_path / "one",
        batch_size=4,
        max_steps=4,
        eval_rows=train_jobs.tokens(4, seed=1),
        save_steps=2,
    )
    train.fit(one)
    out = tmp_path / "two"
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(tests=HELPERS, out=str(out)))
    ended = subprocess.run(
        [*TORCHRUN, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert losses(out) == pytest.approx(losses(one.out), abs=5e-5)
    ours, theirs = (read(path / "metrics.json") for path in (out, one.out))
    assert ours["after"]["eval_loss"] == pytest.approx(theirs["after"]["eval_loss"], abs=5e-5)
    run = read(out / "run.json")
    assert run["model"]["processes"] == 2
    assert run["train_tokens"] == read(one.out / "run.json")["train_tokens"]
    assert ended.stdout.count(f"steps 4 {run['train_tokens']}") == 2
    assert len(losses(out)) == 4
