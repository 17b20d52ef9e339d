"""What a DeepSpeed file may say, checked before anything is loaded."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import train_jobs

from agent_finetune import train
from agent_finetune.config import ModelConfig, TrainConfig
from agent_finetune.errors import ConfigError, TrainError
from agent_finetune.settings import read_settings
from agent_finetune.train import arguments, distributed, folder, record, trainer

EXAMPLES = Path(__file__).parents[2] / "examples" / "modelscope_agent_train"


@pytest.fixture
def written(tmp_path):
    def write(values):
        path = tmp_path / "ds.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **values}))
        return str(path)

    return write


def run_config(path, *, model=None, **options):
    job = train_jobs.job("out", deepspeed=path)
    config = replace(job.config, train=replace(job.config.train, **options))
    return config if model is None else replace(config, model=model)


# Reading


def test_a_file_that_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"deepspeed is 'nowhere\.json': No such file"):
        distributed.check(run_config("nowhere.json"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{not json", "not JSON"),
        ([1], "a DeepSpeed file is a JSON object"),
        ({"zero_optimization": {"stage": 4}}, r"stage is 4; legal are 1, 2 and 3"),
        ({"zero_optimization": {"stage": "2"}}, r"stage is '2'; legal"),
        ({"zero_optimization": {"stage": 0}}, r"Stage 0 shares nothing out"),
        ({}, r"stage is None; legal"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, complaint):
    path = tmp_path / "ds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=complaint):
        distributed.check(run_config(str(path)))


def test_a_missing_package_names_what_brings_it(written, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "deepspeed" else found(name)
    )
    with pytest.raises(ConfigError, match=r"pip install -e 'shared\[deepspeed\]'"):
        distributed.check(run_config(written({})))


def test_the_run_is_refused_before_its_data_is_read(tmp_path):
    config = replace(run_config("nowhere.json"), out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        train.run(config, read_settings(), report=print)


def test_without_a_file_there_is_nothing_to_check():
    config = train_jobs.job("out").config
    distributed.check(config)
    assert distributed.stage_of(config.train) is None
    assert distributed.engine_config(config.train, precision="float32", device="cpu") is None


# Contradictions


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"train_micro_batch_size_per_gpu": 3},
            r"train_micro_batch_size_per_gpu is 3 and batch_size is 4; put \"auto\" there",
        ),
        ({"gradient_accumulation_steps": 8}, "8 and gradient_accumulation is 1"),
        ({"gradient_clipping": 0.5}, r"0\.5 and max_grad_norm is 1\.0"),
        ({"optimizer": {"params": {"lr": 0.1}}}, r"optimizer\.params\.lr is 0\.1"),
        ({"optimizer": {"params": {"weight_decay": 0.1}}}, "and weight_decay is"),
        ({"scheduler": {"type": "OneCycle"}}, "OneCycle.*WarmupDecayLR is linear"),
    ],
)
def test_a_key_that_contradicts_a_setting_is_refused_with_both_values(written, values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        distributed.check(run_config(written(values)))


def test_values_that_agree_are_taken(written):
    values = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 1,
        "scheduler": {"type": "WarmupDecayLR"},
    }
    distributed.check(run_config(written(values)))


def test_two_optimizers_are_refused(written):
    path = written({"optimizer": {"type": "AdamW"}})
    distributed.check(run_config(path))
    with pytest.raises(ConfigError, match=r"optimizer is 'sgd'.*one of the two"):
        distributed.check(run_config(path, optimizer="sgd"))


def test_there_is_no_best_model_to_go_back_to_in_checkpoints_of_the_model_alone(written):
    config = run_config(written({}), save_only_model=True)
    held = replace(config, data=replace(config.data, eval_share=0.1))
    with pytest.raises(ConfigError, match="patience goes back"):
        distributed.check(replace(held, train=replace(held.train, patience=2)))


@pytest.mark.parametrize(
    ("setting", "model"),
    [
        ({"eval_generate": 2}, ModelConfig(model="tiny", device="cpu")),
        ({"objective": "dpo"}, ModelConfig(model="tiny", device="cpu")),
        ({}, ModelConfig(model="tiny", device="cpu", quantization="4bit")),
    ],
)
def test_what_needs_whole_weights_is_refused_where_there_are_none(written, setting, model):
    distributed.check(run_config(written({}), model=model, **setting))
    with pytest.raises(ConfigError, match="ZeRO stage 3, where no process holds a whole weight"):
        distributed.check(
            run_config(written({"zero_optimization": {"stage": 3}}), model=model, **setting)
        )


@pytest.mark.parametrize(
    ("section", "precision"), [("bf16", "float32"), ("fp16", "bfloat16"), ("fp16", "float32")]
)
def test_a_number_format_that_is_not_the_runs_is_refused(written, section, precision):
    config = TrainConfig(deepspeed=written({section: {"enabled": True}}))
    with pytest.raises(ConfigError, match=rf"{section}\.enabled is True.* {precision}"):
        distributed.engine_config(config, precision=precision, device="cuda:0")


def test_a_number_format_that_is_the_runs_is_taken(written):
    config = TrainConfig(deepspeed=written({"bf16": {"enabled": True}}))
    given = distributed.engine_config(config, precision="bfloat16", device="cuda:0")
    assert given["bf16"] == {"enabled": True}


def test_a_file_for_another_number_of_processes_is_refused(written, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    config = TrainConfig(deepspeed=written({"train_batch_size": 32}), batch_size=4)
    distributed.check_launched(config, 8)
    with pytest.raises(ConfigError, match=r"32 and batch_size \* .* \* 2 processes is 8"):
        distributed.check_launched(config, 2)


def test_a_process_that_nobody_launched_says_what_to_type(written, tmp_path):
    job = train_jobs.job(tmp_path / "run", deepspeed=written({}))
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 1"):
        train.fit(job)
    plain = train_jobs.job(tmp_path / "plain", max_steps=1)
    assert train.fit(plain).steps == 1  # nothing of the refused run is left in this process


# What is left out follows our settings


def test_what_a_file_leaves_out_follows_the_run(written):
    config = TrainConfig(deepspeed=written({}))
    given = distributed.engine_config(config, precision="float32", device="cuda:0")
    assert given == {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
    }


@pytest.mark.parametrize("stage", [2, 3])
def test_the_files_of_2023_are_taken_as_they_are(stage):
    path = EXAMPLES / f"ds_stage_{stage}.json"
    config = TrainConfig(deepspeed=str(path))
    given = distributed.engine_config(config, precision="bfloat16", device="cuda:0")
    assert given == json.loads(path.read_text())
    assert distributed.stage_of(config) == stage


@pytest.mark.parametrize(("offload", "torch_adam"), [("none", True), ("cpu", None)])
def test_a_cpu_takes_the_adam_that_is_not_compiled(written, offload, torch_adam):
    values = {
        "optimizer": {"type": "AdamW"},
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": offload}},
    }
    given = distributed.engine_config(
        TrainConfig(deepspeed=written(values)), precision="float32", device="cpu"
    )
    assert given["optimizer"].get("params", {}).get("torch_adam") == torch_adam


def test_a_cpu_does_not_compile_what_only_inference_uses(written):
    from deepspeed.comm.torch import build_shm_op

    config = TrainConfig(deepspeed=written({}))
    distributed.engine_config(config, precision="float32", device="cpu")
    assert build_shm_op() is None


# The settings beside it


def test_an_unknown_optimizer_names_those_that_are_near(tmp_path):
    job = train_jobs.job(tmp_path / "run", optimizer="adamw_troch")
    with pytest.raises(ConfigError, match=r"'adamw_troch'.*near are adamw_torch"):
        train.fit(job)


def test_an_optimizer_is_taken_by_its_name(tmp_path):
    job = train_jobs.job(tmp_path / "run", optimizer="sgd", max_steps=2)
    train.fit(job)
    assert train_jobs.read(job.out / "run.json")["must_stay"]["optimizer"] == "sgd"
    again = train_jobs.with_train(job, resume=True, max_steps=4, optimizer="adamw_torch")
    with pytest.raises(ConfigError, match="optimizer was 'sgd' and is now 'adamw_torch'"):
        train.fit(again)


def test_checkpoints_of_the_model_alone_hold_no_optimizer_and_are_not_gone_on_from(tmp_path):
    job = train_jobs.job(tmp_path / "run", save_only_model=True, save_steps=1)
    train.fit(job)
    (_, newest) = folder.whole_checkpoints(job.out)[-1]
    assert (newest / "adapter_model.safetensors").exists()
    assert not (newest / "optimizer.pt").exists()
    changed = {"resume": True, "max_steps": 9, "save_only_model": False}
    with pytest.raises(ConfigError, match="save_only_model was on"):
        train.fit(train_jobs.with_train(job, **changed))
    with pytest.raises(ConfigError, match="resume and save_only_model"):
        TrainConfig(resume=True, save_only_model=True)


def test_an_empty_name_is_refused():
    with pytest.raises(ConfigError, match="must not be empty"):
        TrainConfig(deepspeed="")


def test_deepspeed_has_masters_of_its_own(written):
    loaded = train_jobs.loaded(dtype="bfloat16")
    kept = replace(loaded, config=replace(loaded.config, dtype="bfloat16"))
    config = TrainConfig(method="full")
    assert arguments.compute_dtype(config, kept) == "float32"
    engine = replace(config, deepspeed=written({}))
    assert arguments.compute_dtype(engine, kept) == "bfloat16"


def test_a_run_goes_on_only_with_the_same_stage(tmp_path, written):
    job = train_jobs.job(tmp_path, deepspeed=written({}))
    run = record.of(job, job.loaded, processes=2, packed=True)
    other = train_jobs.job(tmp_path, deepspeed=written({"zero_optimization": {"stage": 3}}))
    now = record.of(other, other.loaded, processes=2, packed=True)
    with pytest.raises(ConfigError, match="ZeRO stage of deepspeed was 2 and is now 3"):
        folder.check_same(tmp_path, run, now["must_stay"])


def test_a_gradient_that_the_engine_found_to_be_no_number_stops_the_run():
    engine = SimpleNamespace(get_global_grad_norm=lambda: float("inf"))
    accelerator = SimpleNamespace(deepspeed_engine_wrapped=engine)
    with pytest.raises(TrainError, match="step 5: the gradient is inf"):
        trainer.check_engine(accelerator, 5)
