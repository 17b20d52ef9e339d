"""What keeps an adapter from changing the model where nothing was to be learned."""

from dataclasses import replace

import pytest
import torch
import train_jobs

from agent_finetune import adapters, attention, train
from agent_finetune.config import AdapterConfig
from agent_finetune.contracts import Retention
from agent_finetune.errors import ConfigError
from agent_finetune.train.retention import Keeper

KEPT = train_jobs.tokens(6, seed=5)


def adapted(seed=None):
    loaded = train_jobs.loaded()
    model = adapters.attach(loaded, AdapterConfig(rank=4))
    if seed is not None:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.3)
    return model


def keeper(*, weight=1.0, rows=6, packed=False):
    retention = Retention(rows=KEPT, weight=weight, rows_per_step=rows)
    return Keeper(retention, pad_id=0, packed=packed, seed=0)


def test_an_adapter_that_changes_nothing_costs_nothing():
    model = adapted()
    assert keeper().loss(model, model).item() == pytest.approx(0.0, abs=1e-6)


def divergence(model):
    """The same, written out row by row."""
    total, count = 0.0, 0
    for row in KEPT:
        ids = torch.tensor([row.ids])
        places = [place - 1 for place, trained in enumerate(row.trained) if trained and place]
        with torch.no_grad():
            with model.disable_adapter():
                base = model(input_ids=ids).logits[0, places].softmax(-1)
            changed = model(input_ids=ids).logits[0, places].softmax(-1)
        total += (base * (base / changed).log()).sum().item()
        count += len(places)
    return total / count


def test_the_loss_is_the_divergence_from_the_base_on_the_answers():
    model = adapted(seed=1)
    expected = divergence(model)
    assert keeper(weight=2.0).loss(model, model).item() == pytest.approx(2 * expected, rel=1e-4)
    attention.register()
    with attention.using(adapters.base_model(model), attention.PACKED):
        packed = keeper(weight=2.0, packed=True).loss(model, model).item()
    assert packed == pytest.approx(2 * expected, rel=1e-4)


def test_only_the_adapter_gets_gradients():
    model = adapted(seed=1)
    keeper().loss(model, model).backward()
    named = dict(model.named_parameters())
    assert all(named[name].grad is not None for name in named if "lora_" in name)
    assert all(named[name].grad is None for name in named if "lora_" not in name)


def test_every_answer_has_its_turn_before_one_comes_again():
    keep = keeper(rows=2)
    seen = [next(keep._order) for _ in range(12)]
    assert len({row.ids for row in seen[:6]}) == len({row.ids for row in seen[6:]}) == 6


@pytest.mark.parametrize("pack", [True, False])
def test_a_run_that_is_held_moves_less_where_it_should_not(tmp_path, pack):
    moved = {}
    for weight in (0.0, 50.0):
        job = train_jobs.job(
            tmp_path / f"{pack}{weight}",
            train_rows=train_jobs.tokens(4, seed=1),
            max_steps=15,
            pack=pack,
        )
        job = replace(job, retention=Retention(rows=KEPT, weight=weight) if weight else None)
        loaded = replace(job.loaded, model=adapters.attach(job.loaded, job.config.lora))
        train.fit(replace(job, loaded=loaded))
        moved[weight] = divergence(loaded.model)
    assert moved[50.0] < 0.5 * moved[0.0]


def test_full_training_has_no_base_to_hold_to(tmp_path):
    job = train_jobs.job(tmp_path / "run", train_rows=KEPT, method="full")
    with pytest.raises(ConfigError, match="no base left"):
        train.fit(replace(job, retention=Retention(rows=KEPT, weight=1.0)))
