from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from agent_finetune.errors import ConfigError
from modelscope_agent_train import effect_words, effects, plan
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.plan import Machine

CPU = Machine(gpu=False, flash_attn=False)
GPU = Machine(gpu=True, flash_attn=True, processes=2)
OTHER = {
    "model_type": "qwen3-4b",
    "model_id_or_path": "mine",
    "model_revision": "v2",
    "trust_remote_code": True,
    "sft_type": "full",
    "dtype": "fp32",
    "device": "cpu",
    "quantization_bit": 8,
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": False,
    "use_flash_attn": True,
    "seed": 1,
    "dataset": "other.jsonl",
    "dataset_test_ratio": 0.5,
    "format": "msagent",
    "on_bad_row": "stop",
    "max_length": 99,
    "output_dir": "elsewhere",
    "truncation": "drop",
    "lora_target_modules": ("q_proj",),
    "lora_rank": 4,
    "lora_alpha": 4,
    "lora_dropout_p": 0.5,
    "use_dora": True,
    "gradient_checkpoint": False,
    "batch_size": 3,
    "num_train_epochs": 3,
    "max_steps": 3,
    "optim": "adafactor",
    "learning_rate": 0.5,
    "weight_decay": 0.5,
    "gradient_accumulation_steps": 3,
    "max_grad_norm": 3.0,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.5,
    "pack": False,
    "eval_steps": 3,
    "save_steps": 3,
    "save_total_limit": 3,
    "save_only_model": True,
    "logging_steps": 3,
    "deepspeed": "ds.json",
}
"""Another value for each flag that sets something in the kernel's run."""
BESIDE = {
    "hub": "where the model is looked up, before the run",
    "local_files_only": "as hub",
    "dataset_seed": "an argument of sampling and splitting",
    "dataset_sample": "an argument of sampling",
    "split_by": "an argument of splitting",
    "legacy_format": "another reader and chat template",
    "ignore_args_error": "the parser",
    "resume_from_ckpt": "the run's folder",
    "ddp_backend": "how processes talk",
    "evaluate": "after the run",
    "evaluate_sample": "after the run",
    "max_new_tokens": "after the run",
    "push_to_hub": "after the run",
    "hub_model_id": "after the run",
    "hub_private_repo": "after the run",
    "hub_strategy": "after the run",
    "hub_token": "after the run",
    "bnb_4bit_comp_dtype": "only checked against dtype",
    "prompt": "nothing",
    "skip_memory_metrics": "nothing",
    "fsdp": "refused",
    "fsdp_config": "refused",
}
NAMES = [one.name for one in fields(SftArguments)]


def facts(machine=CPU, **given):
    arguments = replace(SftArguments(model_type="llama2-7b", dataset="rows.jsonl"), **given)
    chosen = plan.chosen_model(arguments)
    out = Path(arguments.output_dir) / "v0"
    run = plan.run_config(arguments, chosen, machine, out=out, resume=False)
    return effect_words.Facts(arguments=arguments, chosen=chosen, machine=machine, run=run)


def effect(name, machine=CPU, **given):
    (found,) = [one for one in effects.of(facts(machine, **given), [name]) if one.flag == name]
    return found


def test_every_flag_has_an_effect_to_tell():
    assert set(effect_words.TOLD) == set(NAMES)


def test_every_flag_is_in_the_run_or_is_known_to_act_beside_it():
    assert set(OTHER) | set(BESIDE) == set(NAMES)
    assert not set(OTHER) & set(BESIDE)


@pytest.mark.parametrize("name", OTHER)
def test_a_flag_changes_the_run(name):
    assert asdict(facts(**{name: OTHER[name]}).run) != asdict(facts().run)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_is_short(name):
    given = {} if name in ("fsdp", "fsdp_config") else {name: OTHER.get(name)}
    given = {key: value for key, value in given.items() if value is not None}
    told = effect(name, **given).told
    assert told
    assert len(told) < 130
    assert "\n" not in told


def test_only_what_was_given_is_told_and_what_results_hang_on():
    found = effects.of(facts(), ["lora_rank", "seed"])
    assert [one.flag for one in found if one.given] == ["seed", "lora_rank"]
    assert {one.flag for one in found if not one.given} == set(effects.ALWAYS)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("prompt", {"prompt": "Say"}),
        ("skip_memory_metrics", {"skip_memory_metrics": False}),
        ("bnb_4bit_quant_type", {"bnb_4bit_quant_type": "fp4"}),
        ("bnb_4bit_use_double_quant", {"quantization_bit": 8}),
        ("lora_rank", {"sft_type": "full"}),
        ("lora_target_modules", {"sft_type": "full"}),
        ("eval_steps", {"dataset_test_ratio": 0}),
        ("evaluate_sample", {"dataset_test_ratio": 0}),
        ("num_train_epochs", {"max_steps": 3}),
        ("hub_model_id", {"hub_model_id": "me/mine"}),
        ("ddp_backend", {"ddp_backend": "nccl"}),
    ],
)
def test_a_flag_that_does_nothing_is_named(name, given):
    found = effect(name, **given)
    assert found.nothing
    assert f"--{name}" in effects.table([found])
    assert "NO EFFECT" in effects.table([found])


@pytest.mark.parametrize(
    ("machine", "given", "attention", "told"),
    [
        (CPU, True, "sdpa", "no GPU: SDPA of torch is used"),
        (Machine(gpu=True, flash_attn=False), True, "sdpa", "flash-attn is not installed: SDPA"),
        (GPU, True, "flash_attention_2", "flash-attn"),
        (GPU, False, "sdpa", "SDPA of torch"),
        (GPU, None, "auto", "SDPA where the model has it"),
    ],
)
def test_flash_attention_is_sdpa_where_it_is_missing(machine, given, attention, told):
    made = facts(machine, use_flash_attn=given)
    assert made.run.model.attention == attention
    assert told in effect("use_flash_attn", machine, use_flash_attn=given).told


def test_rows_of_a_step_are_counted_over_all_processes():
    told = effect("batch_size", GPU, batch_size=2, gradient_accumulation_steps=4).told
    assert told == "16 rows per optimizer step, over 2 processes"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fsdp": "full_shard"}, "--fsdp 'full_shard': FSDP is not offered; --deepspeed"),
        ({"fsdp_config": "f.json"}, "--fsdp_config 'f.json': FSDP is not offered"),
        ({"dtype": "fp16"}, "--dtype fp16 needs a GPU"),
        ({"sft_type": "full", "quantization_bit": 4}, "cannot be trained whole"),
        (
            {"quantization_bit": 4, "bnb_4bit_comp_dtype": "bf16", "dtype": "fp32"},
            "give --dtype bf16",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(given, told):
    with pytest.raises(ConfigError, match=told):
        facts(**given)


def test_all_is_every_linear_layer():
    assert facts(lora_target_modules=("ALL",)).run.lora.targets == ("all-linear",)
    assert facts().run.lora.targets == ("q_proj", "k_proj", "v_proj")


def test_data_must_be_named_and_the_samples_are_told():
    with pytest.raises(ConfigError, match=r"no data: give --dataset .*msagent-sample"):
        facts(dataset=None)


def test_a_token_is_never_shown():
    found = effect("hub_token", hub_token="secret-word", push_to_hub=True, hub_model_id="a/b")
    assert "secret-word" not in effects.table([found])


def test_columns_are_aligned_and_defaults_stand_in_brackets():
    lines = effects.table(effects.of(facts(), ["seed"]), ignored=["--odd"]).splitlines()
    assert len({line.index("  ") for line in lines[:1]}) == 1
    assert any(line.startswith("--max_length") and "(1024)" in line for line in lines)
    assert lines[-1].split()[:2] == ["unknown", "--odd"]


def test_arguments_made_in_python_count_as_given_where_they_are_no_defaults():
    assert effects.given_in(SftArguments(seed=7, lora_rank=8)) == {"seed"}
