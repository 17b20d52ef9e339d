"""ModelScope's own trainer with the `DeepspeedHook` that works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from modelscope_trainers import TokenRows, stock_configuration, tiny_folder
from torch import distributed
from transformers import AutoModelForCausalLM

import modelscope_agent_train as package
from agent_finetune.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),  # as DeepSpeed uses it
]

CONSTANT = {"type": "ConstantLR", "factor": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def our_names():
    package.register(repair_stock=True)
    yield
    package.unregister()
    package.register()


@pytest.fixture
def one_process(monkeypatch):
    """A process group of one, on the CPU, that nobody remembers afterwards."""
    import deepspeed.comm.comm
    from accelerate.state import AcceleratorState
    from deepspeed.utils import groups

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(deepspeed.comm.comm, "cdb", None)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
    groups._release_process_group_references(group=None)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def file(tmp_path):
    auto = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({**auto, "zero_optimization": {"stage": 2}}))
    return path


def build(folder, tmp_path, *, hook=None, kept=None, epochs=1):
    from modelscope.trainers import build_trainer

    period = {"save_strategy": "by_epoch", "interval": 1}
    cfg_file = stock_configuration(
        tmp_path,
        hooks=[] if hook is None else [{"type": "DeepspeedHook", "with_mpu": False, **hook}],
        lr_scheduler=CONSTANT,
        checkpoint={"period": period if kept is None else period | {"max_checkpoint_num": kept}},
    )
    arguments = {
        "model": AutoModelForCausalLM.from_pretrained(folder),
        "train_dataset": TokenRows(),
        "cfg_file": cfg_file,
        "device": "cpu",
        "seed": 1,
        "max_epochs": epochs,
    }
    return build_trainer("trainer", arguments)


def written(tmp_path):
    return AutoModelForCausalLM.from_pretrained(tmp_path / "work" / "output").state_dict()


@pytest.mark.parametrize("stage", [2, 3])
def test_one_process_trains_and_resumes_to_the_weights_of_a_run_without_it(
    folder, tmp_path, file, one_process, stage
):
    """DeepSpeed clips gradients where its file says nothing; ModelScope does not."""
    build(folder, tmp_path, epochs=2).train()
    right = written(tmp_path)
    hook = {"config": str(file), "zero_stage": stage, "save_zero_checkpoint": True}
    build(folder, tmp_path, hook=hook).train()
    build(folder, tmp_path, hook=hook, epochs=2).train(str(tmp_path / "work" / "epoch_1"))
    for name, value in written(tmp_path).items():
        torch.testing.assert_close(value, right[name])


def test_old_checkpoints_are_removed(folder, tmp_path, file, one_process):
    hook = {"config": str(file), "save_zero_checkpoint": True}
    build(folder, tmp_path, hook=hook, kept=1, epochs=2).train()
    left = {path.name for path in (tmp_path / "work").glob("epoch_*")}
    assert left == {"epoch_2", "epoch_2_trainer_state.pth"}


def test_a_run_without_its_checkpoints_is_not_resumed(folder, tmp_path, file, one_process):
    build(folder, tmp_path, hook={"config": str(file)}).train()
    again = build(folder, tmp_path, hook={"config": str(file)}, epochs=2)
    with pytest.raises(ConfigError, match="save_zero_checkpoint true"):
        again.train(str(tmp_path / "work" / "epoch_1"))


def test_a_learning_rate_may_follow_the_schedule_of_the_file(folder, tmp_path, file, one_process):
    given = json.loads(file.read_text())
    rates = dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), "auto")
    given["scheduler"] = {"type": "WarmupLR", "params": rates}
    file.write_text(json.dumps(given))
    trainer = build(folder, tmp_path, hook={"config": str(file)}, epochs=2)
    trainer.train()
    assert trainer.lr_scheduler.last_batch_iteration == 3  # of four steps, and nobody else's
    assert trainer.lr_scheduler.get_last_lr() == [0.5]


def test_a_hook_without_a_launcher_says_what_to_do(folder, tmp_path, file, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        build(folder, tmp_path, hook={"config": str(file)})


def test_a_hook_without_its_file_says_what_to_do(folder, tmp_path, one_process):
    with pytest.raises(ConfigError, match="is missing"):
        build(folder, tmp_path, hook={})
    trainer = build(folder, tmp_path, hook={"config": "nowhere.json"})
    trainer.model_dir = str(folder)
    with pytest.raises(ConfigError, match="no such file"):
        trainer.train()


DEEPSPEED = """
import json, sys
import modelscope_agent_train
modelscope_agent_train.register(repair_stock=True)
from modelscope.trainers import build_trainer
from modelscope_trainers import TokenRows, stock_configuration
from torch import distributed
from transformers import AutoModelForCausalLM

folder, out, ds, epochs, checkpoint = sys.argv[1:]
hook = {"type": "DeepspeedHook", "config": ds, "save_zero_checkpoint": True, "with_mpu": False}
cfg_file = stock_configuration(out, hooks=[hook] if ds else [], lr_scheduler={
    "type": "ConstantLR", "factor": 1.0})
trainer = build_trainer("trainer", dict(
    model=AutoModelForCausalLM.from_pretrained(folder), cfg_file=cfg_file, seed=1, device="cpu",
    train_dataset=TokenRows(4 if ds else 2), eval_dataset=TokenRows(), max_epochs=int(epochs)))
trainer.train(checkpoint or None)
if distributed.get_rank() == 0:
    print("MEASURED", json.dumps({"epoch": trainer.epoch, **trainer.evaluate()}))
else:
    trainer.evaluate()
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_train_on_the_rows_of_both_and_resume(folder, tmp_path, stage):
    """A gradient is that of both processes' rows, and a run goes on from its checkpoint."""
    script, config = tmp_path / "run.py", tmp_path / "ds.json"
    script.write_text(DEEPSPEED)
    config.write_text(
        '{"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", '
        f'"gradient_clipping": "auto", "zero_optimization": {{"stage": {stage}}}}}'
    )

    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-port", "29533"]

    def run(epochs, checkpoint=""):
        done = subprocess.run(
            [*launcher, *map(str, (script, folder, tmp_path, config, epochs)), checkpoint],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "helpers")},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
        return json.loads(line.removeprefix("MEASURED "))

    whole = run(2)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "work" / "output").state_dict()
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert not all(torch.equal(saved[name], value) for name, value in before.items())
    assert run(1)["epoch"] == 1
    again = run(2, str(tmp_path / "work" / "epoch_1"))
    assert again["epoch"] == 2
    assert again["ppl"] == pytest.approx(whole["ppl"], rel=1e-4)
