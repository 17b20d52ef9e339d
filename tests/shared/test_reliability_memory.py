"""Memory that runs out: what to lower, by how much, and that doing so works."""

import json
import re
from dataclasses import replace

import forked
import pytest
import torch
import train_jobs
from forked import train_words
from train_jobs import losses, read

from agent_finetune import adapters, cli, train
from agent_finetune.errors import TrainError
from agent_finetune.models.hardware import ran_out_of_memory
from agent_finetune.testing import save_tiny_model
from agent_finetune.train import folder, memory


def small_device(model, most_rows, *, from_call=0):
    """Make a model's forward pass fail as a GPU's does when there are too many rows."""
    calls = 0

    def look(module, arguments):
        nonlocal calls
        calls += module.training
        if module.training and len(arguments[0]) > most_rows and calls > from_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.lm_head.register_forward_pre_hook(look)


def test_what_is_advised_works_and_keeps_the_losses(tmp_path):
    options = {"max_steps": 4, "save_steps": 1, "batch_size": 8, "pack": False}
    whole = train_jobs.job(tmp_path / "whole", **options)
    train.fit(whole)
    job = train_jobs.job(tmp_path / "run", **options)
    small_device(job.loaded.model, 4, from_call=2)
    with pytest.raises(TrainError, match=r"^step \d: out of memory on cpu; ") as caught:
        train.fit(job)
    said = str(caught.value)
    batch, fewer = map(int, re.search(r"Lower batch_size (\d+) -> (\d+)", said).groups())
    before, more = map(int, re.search(r"gradient_accumulation (\d+) -> (\d+)", said).groups())
    assert (batch, before, fewer * more) == (8, 1, 8)
    assert said.endswith("The last checkpoint is kept")
    assert (read(job.out / "run.json")["status"], len(folder.whole_checkpoints(job.out))) == (
        "failed",
        2,
    )
    again = train_jobs.with_train(job, resume=True, batch_size=fewer, gradient_accumulation=more)
    small_device(again.loaded.model, 4)
    train.fit(again)
    assert losses(job.out) == pytest.approx(losses(whole.out), abs=1e-5)


@pytest.mark.parametrize(
    ("rows_that_fit", "fewer", "more"), [(2.5, 2, 4), (0.2, 1, 8), (7.9, 4, 2), (100.0, 4, 2)]
)
def test_batches_become_as_small_as_they_must(tmp_path, monkeypatch, rows_that_fit, fewer, more):
    job = train_jobs.job(tmp_path / "run", batch_size=8)
    fixed, each = memory._needs(job, torch.device("cpu"))
    monkeypatch.setattr(memory, "_memory", lambda device: int(fixed + rows_that_fit * each))
    said = memory.advice(job)
    assert f"batch_size 8 -> {fewer} and raise gradient_accumulation 1 -> {more} (" in said
    assert "set gradient_checkpointing" in said
    assert re.search(r"max_length to \d+ \(the longest row has 20 tokens", said)


def test_settings_that_are_as_low_as_they_go_are_not_named(tmp_path):
    job = train_jobs.job(tmp_path / "run", batch_size=1, gradient_checkpointing=True)
    said = memory.advice(job)
    assert "Lower max_length to 10" in said
    assert "batch_size" not in said
    assert "quantization none -> 4bit" in said
    held = replace(job.loaded.config, quantization="4bit")
    said = memory.advice(replace(job, loaded=replace(job.loaded, config=held)))
    assert "quantization" not in said
    full = train_jobs.job(tmp_path / "run", method="full")
    assert "method full -> lora" in memory.advice(full)


def test_pairs_count_on_both_sides(tmp_path):
    rows = train_jobs.pairs(8)
    jobs = [
        train_jobs.job(tmp_path / "run", train_rows=rows, objective=objective)
        for objective in ("dpo", "sft")
    ]
    needs = [memory._needs(job, torch.device("cpu"))[1] for job in jobs]
    assert needs[0] == pytest.approx(2 * needs[1])


def test_memory_that_ran_out_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out_of_memory(caught.value)
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert ran_out_of_memory(MemoryError())
    assert not ran_out_of_memory(RuntimeError("a bug"))
    assert not ran_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_a_merge_without_memory_says_so(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(adapters, "merge", fail)
    assert cli.main(["merge", "--adapter", "a", "--out", str(tmp_path / "m")]) == 2
    assert "out of memory; merging holds the base" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_limit_of_addresses_ends_in_one_line_and_the_run_goes_on(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    data = tmp_path / "rows.jsonl"
    turns = [
        {"role": "user", "content": "What is the weather in Paris? " * 90},
        {"role": "assistant", "content": "It is sunny."},
    ]
    data.write_text((json.dumps({"messages": turns}) + "\n") * 24)
    out = tmp_path / "run"
    with forked.forks(tmp_path) as forks:
        words = train_words(model, data, out, steps=1, batch=24)
        ended = forks.run(words, limits={"RLIMIT_AS": 300 * 2**20})
        assert ended.code == 2, ended.said
        line = ended.said.splitlines()[-1]
        assert line.startswith("error: step 1: out of memory on cpu; a step needs about ")
        assert "Traceback" not in ended.said
        assert read(out / "run.json")["status"] == "failed"
        fewer, more = re.search(
            r"batch_size 24 -> (\d+) and raise gradient_accumulation 1 -> (\d+)", line
        ).groups()
        again = ["--resume", "--gradient-accumulation", more]
        ended = forks.run(train_words(model, data, out, *again, steps=1, batch=fewer))
        assert ended.code == 0, ended.said
