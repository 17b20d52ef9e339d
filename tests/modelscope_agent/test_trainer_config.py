"""A configuration of ModelScope as a run of the kernel; nothing in it is passed over."""

from pathlib import Path

import pytest

from agent_finetune.errors import ConfigError
from modelscope_agent_train.native import arguments
from modelscope_agent_train.native.drafts import EVERY, NEVER, Run
from modelscope_agent_train.native.translation import translate

RUN = Run(
    out=Path("run"), model_dir=None, rows=40, evaluates=True, method="lora", seed=3, max_epochs=2
)


def made(train=None, evaluation=None, hooks=(), run=RUN):
    return translate({"train": train or {}, "evaluation": evaluation or {}}, hooks, run)


def test_each_setting_finds_its_place():
    train = {
        "dataloader": {"batch_size_per_gpu": 2},
        "optimizer": {
            "type": "AdamW",
            "lr": 1e-3,
            "weight_decay": 0.1,
            "options": {"cumulative_iters": 5, "grad_clip": {"max_norm": 2.0, "norm_type": 2}},
        },
        "lr_scheduler": {
            "type": "CosineAnnealingLR",
            "options": {"warmup": {"warmup_iters": 10}},
        },
    }
    found = made(train)
    assert found.notes == ()
    config = found.train
    assert (config.batch_size, config.gradient_accumulation) == (2, 5)
    assert (config.learning_rate, config.weight_decay, config.max_grad_norm) == (1e-3, 0.1, 2.0)
    assert (config.schedule, config.epochs, config.seed) == ("cosine", 2, 3)
    assert config.warmup == 2 / 8  # 10 iterations are 2 steps, of 40 / (2 * 5) in each of 2 epochs


def test_hooks_that_the_kernel_stands_in_for_are_settings():
    hooks = [
        {"type": "CheckpointHook", "save_strategy": "by_step", "interval": 10},
        {"type": "EvaluationHook", "eval_strategy": "by_epoch", "interval": 2},
        {"type": "OptimizerHook", "cumulative_iters": 4},
        {"type": "LrSchedulerHook"},
        {"type": "DDPHook", "launcher": "pytorch"},
    ]
    found = made(hooks=hooks)
    assert found.train.gradient_accumulation == 4
    assert found.train.save_steps == 3  # of 4 iterations each
    assert found.train.eval_steps == 20
    assert found.train.keep_checkpoints == EVERY
    assert found.executed == ()
    assert found.outputs == (Path("run/output"),)
    assert [note.partition(":")[0] for note in found.notes] == ["LrSchedulerHook", "DDPHook"]


def test_other_hooks_are_run():
    class MyHook:
        pass

    hooks = [{"type": "TensorboardHook", "interval": 1}, {"type": "Mine"}, {"type": MyHook}]
    assert made(hooks=hooks).executed == tuple(hooks)


def test_a_deepspeed_hook_is_the_kernels_deepspeed(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 2}}')
    hook = {
        "type": "DeepspeedHook",
        "config": str(file),
        "save_zero_checkpoint": True,
        "with_mpu": False,
    }
    assert made(hooks=[hook]).train.deepspeed == str(file)
    assert made(hooks=[hook]).notes == ()
    from dataclasses import replace

    beside = replace(RUN, model_dir=tmp_path, out=tmp_path / "run")
    staged = made(hooks=[hook | {"config": "ds.json", "zero_stage": 3}], run=beside)
    assert '"stage": 3' in Path(staged.train.deepspeed).read_text()
    with pytest.raises(ConfigError, match="no such file"):
        made(hooks=[hook | {"config": "nowhere.json"}])


@pytest.mark.parametrize(
    ("train", "note"),
    [
        ({"optimiser": {"lr": 1}}, "train.optimiser.lr: not known, no effect; did you mean"),
        ({"dataloader": {"workers_per_gpu": 2}}, "train.dataloader.workers_per_gpu: no effect"),
        ({"lr_scheduler": {"T_max": 3}}, "train.lr_scheduler.T_max: no effect"),
    ],
)
def test_a_key_without_effect_is_named(train, note):
    assert any(found.startswith(note) for found in made(train).notes), made(train).notes


@pytest.mark.parametrize(
    ("hook", "note"),
    [
        ({"type": "DeepspeedHook", "with_mpu": True}, "with_mpu: no effect"),
        (
            {"type": "DeepspeedHook", "with_mpu": False, "save_zero_checkpoint": False},
            "always hold ZeRO state",
        ),
        ({"type": "CheckpointHook", "save_last": False}, "the end of the run is always saved"),
        ({"type": "CheckpointHook", "save_dir": "else"}, "lie in work_dir/checkpoints"),
        ({"type": "EvaluationHook", "start_idx": 3}, "evaluation begins with the run"),
    ],
)
def test_what_a_hook_asks_for_in_vain_is_named(tmp_path, hook, note):
    (tmp_path / "ds.json").write_text("{}")
    given = {"config": str(tmp_path / "ds.json")} if hook["type"] == "DeepspeedHook" else {}
    (found,) = made(hooks=[given | hook]).notes
    assert note in found


def test_older_and_rarer_ways_to_say_it_mean_the_same():
    hooks = [
        {
            "type": "CheckpointHook",
            "by_epoch": False,
            "interval": 10,
            "save_trainer_state": False,
            "output_sub_dir": "mine",
        },
        {"type": "BestCkptSaverHook", "save_best": False},
        {"type": "OptimizerHook", "cumulative_iters": 2, "grad_clip": {"max_norm": 3.0}},
    ]
    train = {"optimizer": {"type": "Adam", "weight_decay": 0.1}, "clip_grad": 2.0}
    found = made(train | {"lr_scheduler": {"type": "ConstantLR"}}, hooks=hooks)
    assert (found.train.save_steps, found.train.save_only_model) == (5, True)
    assert found.train.max_grad_norm == 3.0
    assert found.outputs == (Path("run/mine"),)
    assert "decoupled" in found.notes[0]
    warm = {"optimizer": {"options": {"warmup": {"warmup_ratio": 0.5}}}}
    assert made(warm).train.schedule == "constant_with_warmup"


def test_metrics_that_are_not_measured_are_named():
    found = made(evaluation={"metrics": ["ppl", "text-gen-metric"]})
    assert "'text-gen-metric' is not measured" in found.notes[0]


@pytest.mark.parametrize(
    ("train", "hooks", "message"),
    [
        ({"optimizer": {"type": "SGD"}}, [], "legal is AdamW"),
        ({"lr_scheduler": {"type": "StepLR"}}, [], "legal are LinearLR"),
        ({"use_fp16": True, "bf16": True}, [], "both true"),
        ({}, [{"type": "MegatronHook"}], "give a DeepspeedHook"),
        ({}, [{"type": "ApexAMPOptimizerHook"}], "Apex is not used"),
        ({}, [{"type": "BestCkptSaverHook", "metric_key": "f1"}], "with the rule min"),
        ({}, [{"type": "CheckpointHook", "save_strategy": "often"}], "by_epoch, by_step and no"),
        ({}, [{"type": "CheckpointHook", "push_to_hub": True}], "hub_repo_id"),
        ({}, [{"type": "DeepspeedHook"}], "config is missing"),
        ({"optimizer": {"options": {"grad_clip": {"norm_type": 1}}}}, [], "legal is 2"),
        ({}, [{"type": "PlateauLrSchedulerHook"}], "cannot follow a metric"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_what_can(train, hooks, message):
    with pytest.raises(ConfigError, match=message):
        made(train, hooks=hooks)


def test_without_an_evaluation_hook_there_is_none_on_the_way():
    assert made().train.eval_steps == NEVER
    assert made(hooks=[{"type": "EvaluationHook"}]).train.eval_steps is None


@pytest.mark.parametrize(
    ("train", "dtype"),
    [
        ({}, "auto"),
        ({"bf16": True}, "bfloat16"),
        ({"use_fp16": True}, "float16"),
        ({"use_fp16": True, "bf16": False}, "float16"),
        ({"bf16": False}, "float32"),
    ],
)
def test_each_number_format_can_be_asked_for(train, dtype):
    assert arguments.dtype(train) == dtype
