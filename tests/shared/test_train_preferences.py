"""Preferences are trained on exactly the ids that were served, against a reference with a name."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import train_jobs
from peft import PeftModel
from train_jobs import losses, read
from transformers import AutoModelForCausalLM

from agent_finetune import adapters, models, plugins, testing, train
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError, TrainError
from agent_finetune.evaluate import LogProbability, log_probabilities, preference_accuracy
from agent_finetune.records import Message, PairTokens, Preference, VerdictTokens
from agent_finetune.render import Renderer
from agent_finetune.train import history, pairs, preference
from agent_finetune.train.arguments import trainer_config
from agent_finetune.train.heads import AnswerHead

ROWS = {"dpo": train_jobs.pairs, "kto": train_jobs.verdicts}
CONSTANT = {"schedule": "constant", "warmup": 0.0}
HELPERS = str(Path(train_jobs.__file__).parent)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


def job(out, objective, rows=None, **options):
    rows = ROWS[objective](6) if rows is None else rows
    return train_jobs.job(out, train_rows=rows, objective=objective, **options)


def trainer_of(job, model):
    """The trainer as `fit` makes it, before its first step."""
    config = job.config.train
    loaded = replace(job.loaded, model=model)
    with adapters.quiet():
        args = trainer_config(
            config,
            loaded,
            job.out,
            rows=job.train_rows,
            packed=False,
            evaluates=bool(job.eval_rows),
            resumes=False,
        )
        made = preference.trainer(config, loaded, args, job.train_rows, job.eval_rows, [])
    made.hold_to(config.reference)
    return made


def fresh_adapter(job):
    return adapters.attach(job.loaded, job.config.lora, seed=job.config.train.seed)


def continued(folder, rows, out, objective, **options):
    """A job that goes on with an adapter on disk."""
    model = train_jobs.loaded(adapter=str(folder))
    carried = PeftModel.from_pretrained(model.model, folder, is_trainable=True)
    return job(out, objective, rows, model=replace(model, model=carried), **options)


# The reference implementation: one answer at a time, from the papers


def log_probability(model, prompt, completion):
    """Sum of the log-probabilities of an answer's tokens."""
    ids = torch.tensor([[*prompt, *completion]])
    scores = model(input_ids=ids).logits[0].float().log_softmax(-1)
    places = range(len(prompt), ids.shape[1])
    return sum(scores[place - 1, ids[0, place]] for place in places)


def answers(row):
    if isinstance(row, PairTokens):
        return [(row.prompt, row.chosen), (row.prompt, row.rejected)]
    return [(row.prompt, row.completion)]


def measured(model, found):
    with torch.no_grad():
        return [log_probability(model, *answer) for answer in found]


def dpo_loss(model, rows, reference, beta, sft_weight):
    """Rafailov et al., equation 7, and the mean cross entropy on the chosen tokens."""
    total, nats, tokens = 0.0, 0.0, 0
    for row in rows:
        good, bad = (log_probability(model, *answer) for answer in answers(row))
        ref_good, ref_bad = measured(reference, answers(row))
        total = total - F.logsigmoid(beta * ((good - ref_good) - (bad - ref_bad)))
        nats, tokens = nats - good, tokens + len(row.chosen)
    return total / len(rows) + sft_weight * nats / tokens


def kto_loss(model, rows, reference, beta, good_weight, bad_weight):
    """Ethayarajh et al., equation 7; other answers are those of the row before."""
    others = [(row.prompt, rows[place - 1].completion) for place, row in enumerate(rows)]
    moved = zip(measured(model, others), measured(reference, others), strict=True)
    distance = max(0.0, sum(float(now - before) for now, before in moved) / len(rows))
    total = 0.0
    for row in rows:
        (answer,) = answers(row)
        ratio = log_probability(model, *answer) - measured(reference, [answer])[0]
        if row.good:
            total = total + good_weight * (1 - torch.sigmoid(beta * (ratio - distance)))
        else:
            total = total + bad_weight * (1 - torch.sigmoid(beta * (distance - ratio)))
    return total / len(rows)


def plain_loop(model, loss, config, steps):
    """Losses of a training loop over one and the same batch."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.peak_learning_rate, weight_decay=0.0)
    found = []
    for _ in range(steps):
        value = loss(model)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(value.item())
    return found


# The batch


def unpadded(batch, prefix=""):
    """Rows of a batch as (ids, ids of the answer)."""
    keys = ("input_ids", "attention_mask", "completion_mask")
    found = []
    for ids, real, answer in zip(*(batch[prefix + key] for key in keys), strict=True):
        assert not answer[real == 0].any()
        found.append((tuple(ids[real == 1].tolist()), tuple(ids[answer == 1].tolist())))
    return found


def test_a_batch_of_pairs_holds_exactly_our_ids(tmp_path):
    asked = job(tmp_path, "dpo", batch_size=6)
    trainer = trainer_of(asked, fresh_adapter(asked))
    (batch,) = trainer.get_train_dataloader()
    found = unpadded(batch)
    halves = (found[:6], found[6:])  # chosen, then rejected
    together = [
        ((row.prompt + row.chosen, row.chosen), (row.prompt + row.rejected, row.rejected))
        for row in asked.train_rows
    ]
    assert sorted(zip(*halves, strict=True)) == sorted(together)


def test_a_batch_of_verdicts_holds_exactly_our_ids_and_each_answer_twice(tmp_path):
    asked = job(tmp_path, "kto", batch_size=6)
    trainer = trainer_of(asked, fresh_adapter(asked))
    (batch,) = trainer.get_train_dataloader()
    expected = {(row.prompt + row.completion, row.completion, row.good) for row in asked.train_rows}
    own = unpadded(batch)
    labelled = {(*row, bool(label)) for row, label in zip(own, batch["label"], strict=True)}
    assert labelled == expected
    others = unpadded(batch, "KL_")
    assert sorted(answer for _, answer in others) == sorted(answer for _, answer in own)
    for (row, answer), (other, rotated) in zip(own, others, strict=True):
        assert other == row[: len(row) - len(answer)] + rotated
        assert rotated != answer


def test_what_was_rendered_reaches_the_batch_with_its_stop(tmp_path):
    model = train_jobs.loaded()
    renderer = Renderer(model.tokenizer)
    prompt = (Message(role="user", text="What is the weather?"),)
    row = renderer.pair(
        Preference(
            prompt=prompt,
            chosen=Message(role="assistant", text="Sunny."),
            rejected=Message(role="assistant", text="I cannot know."),
        )
    )
    asked = job(tmp_path, "dpo", [row], model=model)
    ((good, good_answer), (_, bad_answer)) = unpadded(
        next(iter(trainer_of(asked, fresh_adapter(asked)).get_train_dataloader()))
    )
    assert good[: -len(good_answer)] == renderer.prompt_ids(prompt)
    assert model.tokenizer.decode(good_answer) == "Sunny.<|im_end|>"
    assert model.tokenizer.decode(bad_answer) == "I cannot know.<|im_end|>"


def test_a_last_batch_of_one_verdict_borrows_an_answer():
    rows = train_jobs.verdicts(5)
    made = pairs.verdict_dataset(rows, batch_size=2, seed=3)
    assert sorted(map(tuple, made["prompt_ids"])) == sorted(row.prompt for row in rows)
    assert made[4]["KL_completion_ids"] == made[3]["completion_ids"]
    assert made[0]["KL_completion_ids"] == made[1]["completion_ids"]
    assert made["prompt_ids"] != pairs.verdict_dataset(rows, batch_size=2, seed=4)["prompt_ids"]


def test_the_rarer_kind_of_verdict_weighs_more():
    assert pairs.weights(train_jobs.verdicts(6)) == (1.0, 2.0)
    assert pairs.weights([replace(row, good=not row.good) for row in train_jobs.verdicts(6)]) == (
        2.0,
        1.0,
    )
    assert pairs.weights([replace(row, good=True) for row in train_jobs.verdicts(6)]) == (1.0, 1.0)


# The loss


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_dpo_follows_a_plain_loop(tmp_path, sft_weight):
    rows = train_jobs.pairs(4)
    asked = job(
        tmp_path / "run", "dpo", rows, sft_weight=sft_weight, beta=0.3, max_steps=4, **CONSTANT
    )
    base = train_jobs.loaded().model
    policy = adapters.attach(train_jobs.loaded(), asked.config.lora)
    expected = plain_loop(
        policy, lambda model: dpo_loss(model, rows, base, 0.3, sft_weight), asked.config.train, 4
    )
    result = train.fit(asked)
    assert losses(asked.out) == pytest.approx(expected, abs=1e-5)
    assert losses(asked.out)[0] > losses(asked.out)[-1]
    seen = sum(2 * len(row.prompt) + len(row.chosen) + len(row.rejected) for row in rows)
    assert result.train_tokens == 4 * seen


def test_kto_follows_a_plain_loop(tmp_path):
    asked = job(tmp_path / "run", "kto", batch_size=6, beta=0.3, max_steps=4, **CONSTANT)
    order = pairs.verdict_dataset(asked.train_rows, batch_size=6, seed=0)
    rows = [
        VerdictTokens(
            prompt=tuple(row["prompt_ids"]),
            completion=tuple(row["completion_ids"]),
            good=row["label"],
        )
        for row in order
    ]
    base = train_jobs.loaded().model
    policy = adapters.attach(train_jobs.loaded(), asked.config.lora)
    expected = plain_loop(
        policy, lambda model: kto_loss(model, rows, base, 0.3, 1.0, 2.0), asked.config.train, 4
    )
    train.fit(asked)
    assert losses(asked.out) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_many_scored_tokens_go_through_trls_head_to_the_same_numbers(
    tmp_path, objective, monkeypatch
):
    train.fit(job(tmp_path / "ours", objective))
    monkeypatch.setattr("agent_finetune.train.preference.MOST_LOGITS", 0)
    train.fit(job(tmp_path / "trl", objective))
    for ours, theirs in zip(
        *(history.read(tmp_path / name / "history.jsonl") for name in ("ours", "trl")), strict=True
    ):
        for key in ("loss", "grad_norm", "chosen", "margin"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key


def test_our_head_measures_what_trls_measures(tmp_path):
    asked = job(tmp_path, "dpo", batch_size=6)
    trainer = trainer_of(asked, fresh_adapter(asked))
    (batch,) = trainer.get_train_dataloader()
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours = AnswerHead(trainer.model)(**inputs, labels=labels, fused_lm_head=True)
        theirs = trainer.model(**inputs, labels=labels, fused_lm_head=True)
    scored = labels[:, 1:] != -100
    for name in ("log_probs", "entropy", "mean_logits"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert torch.allclose(one[scored], other[scored], atol=1e-5), name
        assert not one[~scored].any()
    assert torch.equal(ours.is_top1[scored], theirs.is_top1[scored])


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_second_update_is_held_to_the_reference_that_was_named(tmp_path, objective):
    """Held to itself, an adapter starts with no distance at all; held to the base, it does not."""
    rows = ROWS[objective](4)
    first = job(tmp_path / "first", objective, rows, max_steps=6)
    train.fit(first)
    found = {}
    for reference in ("base", "current"):
        second = continued(
            tmp_path / "first/adapter",
            rows,
            tmp_path / reference,
            objective,
            reference=reference,
            sft_weight=0.0,
            max_steps=1,
        )
        train.fit(second)
        (found[reference],) = history.read(second.out / "history.jsonl")
    nothing_moved = {"dpo": math.log(2), "kto": found["current"]["loss"]}[objective]
    assert found["current"]["margin"] == pytest.approx(0.0, abs=1e-6)
    assert found["current"]["loss"] == pytest.approx(nothing_moved, abs=1e-6)
    assert found["base"]["margin"] > 0.05
    assert found["base"]["loss"] < found["current"]["loss"] - 0.01
    assert found["base"]["chosen"] == pytest.approx(found["current"]["chosen"], abs=1e-4)
    if objective == "dpo":
        carried = continued(tmp_path / "first/adapter", rows, tmp_path / "x", objective)
        with torch.no_grad():
            exact = dpo_loss(carried.loaded.model, rows, train_jobs.loaded().model, 0.1, 0.0)
        assert found["base"]["loss"] == pytest.approx(float(exact), abs=1e-5)


# What comes of it


def test_after_dpo_the_chosen_is_likelier_than_before_and_than_the_rejected(tmp_path):
    asked = job(tmp_path / "run", "dpo", max_steps=30, batch_size=6)
    chosen, rejected = zip(*map(answers, asked.train_rows), strict=True)
    before = log_probabilities(asked.loaded, chosen)
    result = plugins.train_adapter(asked)
    trained = PeftModel.from_pretrained(train_jobs.loaded().model, result.adapter_dir)
    after = replace(asked.loaded, model=trained)
    good, bad = log_probabilities(after, chosen), log_probabilities(after, rejected)
    assert preference_accuracy(good, bad) == 1.0
    assert all(now.mean > then.mean for now, then in zip(good, before, strict=True))


def test_after_kto_good_answers_are_likelier_than_bad_ones(tmp_path):
    asked = job(tmp_path / "run", "kto", max_steps=30, batch_size=6)
    found = [answer for row in asked.train_rows for answer in answers(row)]
    before = log_probabilities(asked.loaded, found)
    result = plugins.train_adapter(asked)
    trained = PeftModel.from_pretrained(train_jobs.loaded().model, result.adapter_dir)
    after = log_probabilities(replace(asked.loaded, model=trained), found)
    for row, then, now in zip(asked.train_rows, before, after, strict=True):
        assert (now.total > then.total) == row.good


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_run_leaves_behind_what_it_promises(tmp_path, objective):
    asked = job(
        tmp_path / "run", objective, eval_rows=ROWS[objective](3, seed=1), save_steps=2, max_steps=4
    )
    result = train.fit(asked)
    lines = history.read(asked.out / "history.jsonl")
    own = {"dpo": "accuracy", "kto": "kl"}[objective]
    first, last = lines[1], lines[-1]
    assert {"step", "loss", "grad_norm", "tokens", "chosen", "rejected", "margin", own} <= set(
        first
    )
    assert {"eval_loss", "eval_chosen", "eval_margin", f"eval_{own}"} <= set(last)
    assert lines[0]["eval_margin"] == pytest.approx(0.0, abs=1e-6)
    assert read(asked.out / "metrics.json")["after"] == result.metrics
    run = read(asked.out / "run.json")
    assert run["status"] == "finished"
    assert run["config"]["train"]["objective"] == objective
    assert run["must_stay"]["reference"] == "base"
    assert run["must_stay"]["training rows"] == pairs.digest(asked.train_rows)
    assert run["model"]["packed"] is False
    plain = PeftModel.from_pretrained(train_jobs.loaded().model, asked.out / "adapter")
    ids = torch.tensor([[11, 12, 13]])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, asked.loaded.model(input_ids=ids).logits)
    copies = [path for path in asked.out.rglob("ref") if path.is_dir()]
    assert copies == []  # TRL keeps one of the adapter as it was
    assert (asked.out / "loss.png").exists()


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_killed_run_resumes_to_the_same_losses(tmp_path, objective):
    """Held to the adapter as it was when the run began, not as it was when the run was killed."""
    train.fit(job(tmp_path / "first", objective, max_steps=3))
    options = {"reference": "current", "max_steps": 6, "save_steps": 3, "batch_size": 2}

    def again(**more):
        rows = ROWS[objective](6, seed=2)
        return continued(
            tmp_path / "first/adapter", rows, tmp_path / "run", objective, **options, **more
        )

    whole = again()
    train.fit(whole)
    expected, digest = losses(whole.out), adapters.digest(whole.out / "adapter")
    (whole.out / "checkpoints/checkpoint-6/whole").unlink()
    run = read(whole.out / "run.json")
    (whole.out / "run.json").write_text(json.dumps(run | {"status": "running"}))
    train.fit(again(resume=True))
    assert losses(whole.out) == pytest.approx(expected, abs=1e-6)
    assert adapters.digest(whole.out / "adapter") == digest


def test_a_run_is_not_resumed_with_another_beta(tmp_path):
    train.fit(job(tmp_path / "run", "dpo", max_steps=2, save_steps=1))
    with pytest.raises(ConfigError, match=r"beta was 0\.1 and is now 0\.5"):
        train.fit(job(tmp_path / "run", "dpo", max_steps=4, beta=0.5, resume=True))


def test_the_seed_decides_everything(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train.fit(job(tmp_path / name, "kto", seed=seed, batch_size=2))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_gradient_checkpointing_changes_no_loss(tmp_path):
    for name, on in (("with", True), ("without", False)):
        train.fit(job(tmp_path / name, "dpo", gradient_checkpointing=on))
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), abs=1e-6)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_bfloat16_training_learns_and_keeps_float32_masters(tmp_path, objective):
    model = train_jobs.loaded(dtype="bfloat16")
    model.model.to(torch.bfloat16)
    rough = job(tmp_path / "rough", objective, model=model, max_steps=15, batch_size=6)
    train.fit(rough)
    exact = job(tmp_path / "exact", objective, max_steps=15, batch_size=6)
    train.fit(exact)
    assert {w.dtype for w in rough.loaded.model.parameters() if w.requires_grad} == {torch.float32}
    assert losses(rough.out) == pytest.approx(losses(exact.out), abs=0.05)
    margins = [line["margin"] for line in history.read(rough.out / "history.jsonl")]
    assert margins[-1] > margins[0] + 0.15


def test_a_base_in_four_bits_learns_preferences(tmp_path):
    pytest.importorskip("bitsandbytes")
    testing.save_tiny_model(tmp_path / "base")
    config = ModelConfig(
        model=str(tmp_path / "base"), device="cpu", dtype="bfloat16", quantization="4bit"
    )
    settings = Settings(cache_dir=tmp_path / "cache")
    loaded = models.load_base(config, models.resolve(config.model, None, settings), settings)
    asked = job(tmp_path / "run", "dpo", model=loaded, max_steps=12, batch_size=6)
    train.fit(asked)
    margins = [line["margin"] for line in history.read(asked.out / "history.jsonl")]
    assert margins[-1] > margins[0] + 0.15
    assert {w.dtype for w in loaded.model.parameters() if w.requires_grad} == {torch.float32}


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_full_training_is_held_to_the_weights_as_they_were(tmp_path, objective):
    found = {}
    for reference in ("base", "current"):
        asked = job(
            tmp_path / reference,
            objective,
            method="full",
            reference=reference,
            learning_rate=1e-3,
            max_steps=5,
            batch_size=6,
            eval_rows=ROWS[objective](2, seed=1),
        )
        assert train.fit(asked).adapter_dir == asked.out / "model"
        found[reference] = [
            line["margin"] for line in history.read(asked.out / "history.jsonl") if "margin" in line
        ]
    assert found["base"] == found["current"]
    assert found["base"][0] == pytest.approx(0.0, abs=1e-6)
    assert found["base"][-1] > 0.05
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base/model")
    ids = torch.tensor([[11, 12, 13]])
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "current/model")
        assert torch.equal(plain(input_ids=ids).logits, again(input_ids=ids).logits)


def test_dropout_of_the_base_is_off(tmp_path):
    """A reference is compared with; a mask drawn anew for each pass would be noise in it."""
    asked = job(tmp_path / "run", "dpo", sft_weight=0.0, max_steps=1)
    for layer in asked.loaded.model.model.layers:
        layer.mlp = torch.nn.Sequential(layer.mlp, torch.nn.Dropout(0.5))
    train.fit(asked)
    assert losses(asked.out) == pytest.approx([math.log(2)], abs=1e-6)


RANK = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import train_jobs
from agent_finetune import train
train.fit(train_jobs.job(pathlib.Path({out!r}), train_rows=train_jobs.pairs(8), objective="dpo",
                         sft_weight=0.0, batch_size=2, max_steps=4))
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path):
    one = job(tmp_path / "one", "dpo", train_jobs.pairs(8), sft_weight=0.0, max_steps=4)
    train.fit(one)
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(tests=HELPERS, out=str(tmp_path / "two")))
    ended = subprocess.run(
        [*TORCHRUN, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(one.out), abs=5e-5)


# Refusals


def test_rows_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="row 0 is of the type Tokens; objective 'dpo' takes Pair"):
        train.fit(job(tmp_path, "dpo", train_jobs.tokens(2)))
    with pytest.raises(DataError, match="1 row, and objective 'kto' needs at least 2"):
        train.fit(job(tmp_path, "kto", train_jobs.verdicts(1)))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    asked = job(tmp_path / "run", "dpo", learning_rate=1e30, max_grad_norm=1e30, max_steps=5)
    with pytest.raises(TrainError, match="lower learning_rate"):
        train.fit(asked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ppo"}, "objective is 'ppo'; legal values are sft, dpo, kto"),
        ({"reference": "best"}, "reference is 'best'; legal values are base, current"),
        ({"beta": 0}, "beta is 0; it must be above 0"),
        ({"sft_weight": -1}, "sft_weight is -1; it must be at least 0"),
        ({"objective": "kto", "batch_size": 1}, "batch_size is 1 and objective is 'kto'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


def test_dropout_of_the_adapter_is_refused():
    with pytest.raises(ConfigError, match="dropout must be 0"):
        RunConfig(
            model=ModelConfig(model="tiny"),
            data=DataConfig(data="x"),
            out="out",
            lora=AdapterConfig(dropout=0.1),
            train=TrainConfig(objective="dpo"),
        )


def test_learning_rates_of_preferences_are_smaller():
    assert TrainConfig(objective="dpo").peak_learning_rate == 1e-4
    assert TrainConfig(objective="kto", method="full").peak_learning_rate == 1e-6
    assert TrainConfig(objective="kto", learning_rate=3e-5).peak_learning_rate == 3e-5


# Measuring


def test_log_probabilities_are_those_of_the_textbook():
    model = train_jobs.loaded()
    found = [answer for row in train_jobs.pairs(5) for answer in answers(row)]
    done = []
    values = log_probabilities(
        model, found, batch_size=3, on_progress=lambda *now: done.append(now)
    )
    expected = [float(value) for value in measured(model.model, found)]
    assert [value.total for value in values] == pytest.approx(expected, abs=1e-4)
    assert [value.tokens for value in values] == [len(answer) for _, answer in found]
    assert values[0].mean == values[0].total / values[0].tokens
    assert done[-1] == (10, 10)
    assert log_probabilities(model, []) == []


@pytest.mark.parametrize("trains", [True, False])
def test_measuring_with_the_adapter_off_measures_the_base_and_changes_nothing(tmp_path, trains):
    first = job(tmp_path / "first", "dpo", max_steps=4)
    train.fit(first)
    base = train_jobs.loaded()
    carried = PeftModel.from_pretrained(
        train_jobs.loaded().model, first.out / "adapter", is_trainable=trains
    ).train()
    model = replace(base, model=carried)
    found = [answer for row in first.train_rows for answer in answers(row)]
    state = [(w.requires_grad, w.grad) for w in carried.parameters()]
    with_it = log_probabilities(model, found)
    without = log_probabilities(model, found, adapter=False)
    assert without == log_probabilities(base, found, adapter=False)
    assert without != with_it
    assert with_it == log_probabilities(model, found)
    assert state == [(w.requires_grad, w.grad) for w in carried.parameters()]
    assert carried.training


def test_an_empty_answer_is_refused():
    with pytest.raises(DataError, match="answer 1: 2 prompt tokens and 0 answer tokens"):
        log_probabilities(train_jobs.loaded(), [((5, 6), (7,)), ((5, 6), ())])


def test_accuracy_compares_answers_of_any_length_per_token():
    short = LogProbability(total=-4.0, tokens=2)
    long = LogProbability(total=-6.0, tokens=6)
    assert preference_accuracy([long, short], [short, long]) == 0.5
    assert math.isnan(preference_accuracy([], []))
