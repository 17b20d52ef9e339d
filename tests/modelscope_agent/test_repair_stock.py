"""Each fault of ModelScope 1.40's own trainer, failing there and working here."""

import importlib
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from modelscope_trainers import TokenRows, stock_configuration, tiny_folder
from torch import distributed
from transformers import AutoModelForCausalLM

import modelscope_agent_train as package

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning"),
]


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path / "model")


@pytest.fixture(params=[False, True], ids=["stock", "repaired"])
def repaired(request):
    """Whether ModelScope's names are ours."""
    package.unregister()
    package.register(repair_stock=request.param)
    yield request.param
    package.unregister()
    package.register()


@pytest.fixture
def one_process(monkeypatch):
    """A process group of one, on the CPU."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def build(folder, tmp_path, *, model=None, **arguments):
    from modelscope.trainers import build_trainer

    model = model or AutoModelForCausalLM.from_pretrained(folder)
    arguments = {
        "model": model,
        "train_dataset": TokenRows(),
        "eval_dataset": TokenRows(),
        "device": "cpu",
        "seed": 1,
        **arguments,
    }
    if "cfg_file" not in arguments:
        arguments["cfg_file"] = stock_configuration(tmp_path)
    return build_trainer("trainer", arguments)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_deepspeed_hook_can_be_made(repaired):
    """Fault 1: it imports a library that is not to be had, and a module that is gone."""
    from modelscope.trainers.hooks.builder import build_hook

    hook = {"type": "DeepspeedHook", "config": "ds.json", "with_mpu": False}
    if not repaired:
        with pytest.raises(ImportError, match="megatron_util"):
            build_hook(hook)
        return
    assert build_hook(hook).config == "ds.json"


def test_output_holds_the_trained_weights(repaired, folder, tmp_path):
    """Fault 2: it holds those from before training."""
    trainer = build(folder, tmp_path)
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    assert not same(before, after)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "work" / "output").state_dict()
    assert same(saved, after if repaired else before)


def test_a_run_is_resumed(repaired, folder, tmp_path):
    """Fault 3: the checkpoint holds what PyTorch will not load."""
    import pickle

    build(folder, tmp_path).train()
    checkpoint = str(tmp_path / "work" / "epoch_1")
    again = build(folder, tmp_path, max_epochs=2)
    if not repaired:
        with pytest.raises(pickle.UnpicklingError, match="numpy"):
            again.train(checkpoint)
        return
    again.train(checkpoint)
    assert again.epoch == 2
    whole = build(folder, tmp_path, max_epochs=2)
    whole.train()
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(again.model)[name], value)


def test_weights_of_a_checkpoint_are_measured_and_answer(folder, tmp_path):
    package.register(repair_stock=True)
    try:
        trainer = build(folder, tmp_path)
        trainer.train()
        right = trainer.evaluate()["ppl"]
        fresh = build(folder, tmp_path)
        checkpoint = str(tmp_path / "work" / "epoch_1.pth")
        assert fresh.evaluate()["ppl"] != pytest.approx(right)
        assert fresh.evaluate(checkpoint)["ppl"] == pytest.approx(right)
        answers = []
        fresh.predict(TokenRows(2), lambda inputs, outputs: answers.append(outputs), checkpoint)
        assert answers[0]["logits"].shape[:2] == (2, 12)
    finally:
        package.unregister()
        package.register()


def test_nothing_but_the_states_of_numpy_is_unpickled(tmp_path):
    from modelscope_agent_train.repair.checkpoints import numpy_states

    torch.save({"x": os.system}, tmp_path / "evil.pth")
    with numpy_states(), pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "evil.pth", weights_only=True)


def test_a_process_group_on_a_cpu_can_train_and_measure(repaired, folder, tmp_path, one_process):
    """Fault 4: the loss is sent to a GPU as soon as there is a process group."""
    trainer = build(folder, tmp_path)
    if not repaired:
        with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
            trainer.train()
        return
    trainer.train()
    assert trainer.evaluate()["ppl"] > 1


def test_perplexity_is_that_of_the_next_token(repaired, folder, tmp_path):
    """Fault 5: each token is scored by the logits that come after it."""
    trainer = build(folder, tmp_path)
    found = trainer.evaluate()["ppl"]
    nats = [
        trainer.model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss.item()
        for row in map(TokenRows().__getitem__, range(4))
    ]
    right = math.exp(sum(nats) / 4)
    assert math.isclose(found, right, rel_tol=1e-4) is repaired


def test_a_model_that_modelscope_loaded_asks_no_hub(repaired, folder, tmp_path, monkeypatch):
    """Fault 7: fifteen seconds of tries without a network."""
    from modelscope.trainers import trainer as stock

    asked = []
    monkeypatch.setattr(stock, "check_local_model_is_latest", lambda *a, **k: asked.append(a))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model_dir = str(folder)
    build(folder, tmp_path, model=model)
    assert bool(asked) is not repaired
    assert model.model_dir == str(folder)


def test_a_folder_gives_the_model_of_transformers(repaired, folder, tmp_path, monkeypatch):
    """Fault 8: ModelScope makes its own copy of Llama, of 2023, once it has asked its hub."""
    from modelscope.trainers import base

    asked = []
    monkeypatch.setattr(base, "check_local_model_is_latest", lambda *a, **k: asked.append(a))
    file = Path(stock_configuration(tmp_path))
    (folder / "configuration.json").write_text(file.read_text())
    trainer = build(folder, tmp_path, model=str(folder), cfg_file=None)
    ours = type(trainer.model).__module__.startswith("transformers.")
    assert ours is repaired
    assert bool(asked) is not repaired


def test_modelscopes_trainer_needs_distutils(monkeypatch):
    """Fault 9: Python 3.12 has none; `test_trainer_finetune_tool` trains ours without it."""
    for name in ("distutils", "distutils.version"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "modelscope.trainers.trainer", raising=False)
    with pytest.raises(ImportError, match="distutils"):
        importlib.import_module("modelscope.trainers.trainer")
