"""The 2024 example's configurations, and what becomes of each key."""

import copy
import dataclasses
import json
import subprocess
import sys

import pytest

from agent_finetune.config import AdapterConfig, ModelConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from agentscope_finetune import training_fields, weights2024
from agentscope_finetune.example2024 import (
    FineTuneConfig,
    load_model_configs,
    read_fine_tune_config,
    read_model_configs,
)

SCRIPT = {
    "continue_lora_finetuning": False,
    "max_seq_length": 4096,
    "lora_config": {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    },
    "training_args": {"num_train_epochs": 5, "logging_steps": 1},
}
"""What the example's script passed."""

FILE = {
    "lora_config": {"r": 16, "lora_alpha": 32},
    "training_args": {"max_steps": 200, "logging_steps": 1},
    "bnb_config": {
        "load_in_4bit": "True",
        "bnb_4bit_use_double_quant": "True",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "torch.bfloat16",
    },
}
"""What its model_configs.json held, which no release of Transformers could load."""


def arguments(**given):
    return read_fine_tune_config({"training_args": given})


def test_the_script_of_2024_means_what_it_meant():
    found = read_fine_tune_config(SCRIPT)
    assert found.lora == AdapterConfig(rank=16, alpha=32, dropout=0.05)
    assert found.train == TrainConfig(epochs=5, log_steps=1, batch_size=4)
    assert (found.max_length, found.continue_lora, dict(found.model)) == (4096, False, {})


def test_the_file_of_2024_means_what_it_was_meant_to():
    found = read_fine_tune_config(FILE)
    assert found.model == {"quantization": "4bit", "dtype": "bfloat16"}
    assert found.train == TrainConfig(max_steps=200, log_steps=1, batch_size=4)


@pytest.mark.parametrize("nothing", [None, {}])
def test_nothing_given_is_lora_with_the_defaults_of_this_project(nothing):
    assert read_fine_tune_config(nothing) == FineTuneConfig()
    assert FineTuneConfig().train.method == "lora"


def test_an_empty_lora_config_trains_every_weight():
    assert read_fine_tune_config({"lora_config": {}}).train.method == "full"
    assert read_fine_tune_config({"lora_config": None}).train.method == "lora"


def test_every_key_has_its_note_and_the_input_stays_as_it_was():
    given = {**SCRIPT, **FILE, "max_length": 128, "device": "cuda", "output_dir": "out"}
    before = copy.deepcopy(given)
    notes = read_fine_tune_config(given).notes
    assert given == before
    for group in ("lora_config", "training_args"):
        for key in given[group]:
            assert sum(note.startswith(f"{group}.{key}:") for note in notes) == 1
    for key in ("max_seq_length", "max_length", "device", "output_dir", "bnb_config"):
        assert sum(note.startswith(f"{key}:") for note in notes) == 1


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"per_device_train_batch_size": 2}, {"batch_size": 2}),
        ({"gradient_accumulation_steps": "4"}, {"gradient_accumulation": 4}),
        ({"gradient_checkpointing": "True"}, {"gradient_checkpointing": True}),
        ({"learning_rate": "5e-07"}, {"learning_rate": 5e-7}),
        ({"lr_scheduler_type": "cosine"}, {"schedule": "cosine"}),
        ({"warmup_ratio": 0.1}, {"warmup": 0.1}),
        ({"warmup_steps": 0.2}, {"warmup": 0.2}),
        ({"warmup_steps": 0, "warmup_ratio": 0.1}, {"warmup": 0.1}),
        (
            {"weight_decay": 0.01, "max_grad_norm": 0.3},
            {"weight_decay": 0.01, "max_grad_norm": 0.3},
        ),
        ({"seed": 42, "data_seed": 42}, {"seed": 42}),
        ({"data_seed": 7}, {"seed": 7}),
        ({"max_steps": -1}, {}),
        ({"eval_strategy": "steps", "eval_steps": 10}, {"eval_steps": 10}),
        ({"evaluation_strategy": "steps", "logging_steps": 5}, {"eval_steps": 5, "log_steps": 5}),
        ({"eval_strategy": "epoch", "eval_steps": 10}, {}),
        ({"save_strategy": "steps"}, {"save_steps": 500}),
        (
            {"save_steps": 10000, "save_total_limit": 3},
            {"save_steps": 10000, "keep_checkpoints": 3},
        ),
        ({"save_strategy": "epoch", "save_steps": 5}, {}),
        ({"save_strategy": "no"}, {}),
        ({"optim": "paged_adamw_8bit", "report_to": "wandb", "adam_beta1": 0.9}, {}),
        ({"learning_rate": None, "deepspeed": None}, {}),
        ({"packing": False}, {"pack": False}),
    ],
)
def test_training_args_become_fields_of_a_run(given, changes):
    found = arguments(**given)
    assert found.train == TrainConfig(**{"batch_size": 4, **changes})
    told = {note.partition(":")[0].removeprefix("training_args.") for note in found.notes}
    assert told == {name for name, value in given.items() if value is not None}


@pytest.mark.parametrize(("steps", "total"), [(1, 3), (5, 100), (29, 100), (99, 100), (7, 1000)])
def test_warmup_steps_are_counted_exactly(steps, total):
    warmup = arguments(warmup_steps=steps, max_steps=total).train.warmup
    assert int(warmup * total) == steps  # how the kernel counts them


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({"training_args": {"bf16": True}}, {"dtype": "bfloat16"}),
        ({"training_args": {"fp16": "true", "bf16": "False"}}, {"dtype": "float16"}),
        ({"training_args": {"bf16": True}, "lora_config": {}}, {}),
        ({"training_args": {"use_cpu": True}}, {"device": "cpu"}),
        ({"training_args": {"use_cpu": True}, "device": 1}, {"device": "cuda:1"}),
        ({"bnb_config": {}}, {}),
        ({"bnb_config": {"load_in_4bit": "False"}}, {"quantization": "none"}),
        (
            {"bnb_config": {"load_in_8bit": True, "bnb_4bit_compute_dtype": "bfloat16"}},
            {"quantization": "8bit"},
        ),
        (
            {
                "bnb_config": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float16"},
                "training_args": {"bf16": True},
            },
            {"quantization": "4bit", "dtype": "float16"},
        ),
    ],
)
def test_what_the_model_is_held_as(given, model):
    assert read_fine_tune_config(given).model == model


def test_objects_of_torch_transformers_and_peft_are_read_as_their_names():
    torch = pytest.importorskip("torch")
    from peft import TaskType
    from transformers.trainer_utils import SchedulerType

    found = read_fine_tune_config(
        {
            "bnb_config": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16},
            "device": torch.device("cuda:1"),
            "lora_config": {
                "task_type": TaskType.CAUSAL_LM,
                "target_modules": {"v_proj", "q_proj"},
            },
            "training_args": {"lr_scheduler_type": SchedulerType.COSINE},
        }
    )
    assert found.model == {"quantization": "4bit", "dtype": "bfloat16", "device": "cuda:1"}
    assert found.lora.targets == ("q_proj", "v_proj")
    assert found.train.schedule == "cosine"


def test_an_adapter_that_goes_on_training_keeps_its_own_rank():
    found = read_fine_tune_config({"continue_lora_finetuning": "True", "lora_config": {"r": 24}})
    assert found.continue_lora
    assert found.lora == AdapterConfig()
    assert any(note.startswith("lora_config: not used") for note in found.notes)
    assert read_fine_tune_config({"continue_lora_finetuning": True, "lora_config": {}}).train == (
        FineTuneConfig().train
    )


def test_rslora_and_targets():
    found = read_fine_tune_config(
        {"lora_config": {"use_rslora": True, "target_modules": ["q_proj"], "r": 4}}
    )
    assert found.lora == AdapterConfig(rank=4, rslora=True, targets=("q_proj",))


def test_lengths_and_the_folder():
    found = read_fine_tune_config({"max_length": 256, "training_args": {"output_dir": "./"}})
    assert (found.max_new_tokens, found.max_length, found.output_dir) == (256, None, "./")
    both = {"output_dir": "mine", "training_args": {"output_dir": "./", "max_seq_length": 512}}
    assert read_fine_tune_config(both).output_dir == "mine"
    assert read_fine_tune_config(both).max_length == 512
    assert read_fine_tune_config({**both, "max_seq_length": 64}).max_length == 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"fine_tune_config is \[\]; legal is an object or None"),
        ({1: 2}, "its content"),
        ({"lora_confg": {}}, "lora_confg is no key of it; did you mean 'lora_config'"),
        ({"zzz": {}}, "zzz is no key of it; legal are bnb_config, "),
        ({"lora_config": 3}, "lora_config is 3; legal is an object"),
        ({"lora_config": {"rank": 3}}, r"lora_config\.rank is no LoraConfig key"),
        ({"lora_config": {"lora_alfa": 3}}, "did you mean 'lora_alpha'"),
        ({"lora_config": {"r": 0}}, r"lora_config\.r is 0; legal is a whole number of at least 1"),
        ({"lora_config": {"r": True}}, r"lora_config\.r is True"),
        ({"lora_config": {"bias": "all"}}, r"lora_config\.bias is 'all'; legal is only 'none'"),
        ({"lora_config": {"task_type": "SEQ_CLS"}}, "legal is only 'CAUSAL_LM'"),
        ({"lora_config": {"use_dora": "yes"}}, "use_dora is 'yes'; legal is True or False"),
        ({"lora_config": {"modules_to_save": ["lm_head"]}}, "modules_to_save"),
        ({"lora_config": {"target_modules": ".*proj"}}, "'all-linear' or a list of layer names"),
        ({"bnb_config": {"load_in_4bit": "yes"}}, "load_in_4bit is 'yes'; legal is True or False"),
        ({"bnb_config": {"load_in_4bit": True, "load_in_8bit": True}}, "False beside load_in_4bit"),
        ({"bnb_config": {"load_in_4bit": 1}}, "load_in_4bit is 1"),
        ({"bnb_config": {"load_in_2bit": True}}, "load_in_2bit is no BitsAndBytesConfig key"),
        (
            {"bnb_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}},
            "bnb_4bit_quant_type is 'fp4'; legal is nf4",
        ),
        ({"bnb_config": {"bnb_4bit_compute_dtype": "torch.int8"}}, "with or without 'torch.'"),
        ({"bnb_config": {"load_in_4bit": True}, "lora_config": {}}, "cannot be trained"),
        ({"max_seq_length": 2.5}, r"max_seq_length is 2\.5"),
        ({"max_length": "many"}, "max_length is 'many'; legal is a whole number"),
        ({"device": "mps"}, "device is 'mps'; legal is auto, cpu, cuda or cuda:N"),
        ({"output_dir": ""}, "output_dir is ''"),
        ({"continue_lora_finetuning": "maybe"}, "continue_lora_finetuning is 'maybe'"),
    ],
)
def test_a_wrong_key_or_value_is_one_error_that_says_what_is_legal(given, message):
    with pytest.raises(ConfigError, match=message):
        read_fine_tune_config(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learing_rate": 1}, "no field of TrainingArguments; did you mean 'learning_rate'"),
        ({"learning_rate": 0}, r"learning_rate is 0; legal is a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup_ratio": 1.5}, r"a number of at least 0 and at most 0\.99"),
        ({"num_train_epochs": "all"}, "num_train_epochs is 'all'"),
        ({"optim": "sgd"}, "optim is 'sgd'; legal is adamw_torch, "),
        ({"lr_scheduler_type": "polynomial"}, "legal is linear, cosine, constant"),
        ({"warmup_steps": 10}, "without max_steps give warmup_ratio instead"),
        ({"warmup_steps": 10, "max_steps": 10}, "a number below max_steps"),
        ({"logging_steps": 0.1}, r"logging_steps is 0\.1; legal is a whole number"),
        ({"save_strategy": "best"}, "save_strategy is 'best'; legal is no, steps, epoch"),
        ({"eval_strategy": "never"}, "eval_strategy is 'never'"),
        ({"bf16": True, "fp16": True}, "fp16 is True; legal is False beside bf16"),
        ({"seed": 1, "data_seed": 2}, "data_seed is 2; legal is the same as seed, 1"),
        ({"adam_beta2": 0.95}, r"adam_beta2 is 0\.95; legal is only 0\.999"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end is True; legal is only False"),
        ({"push_to_hub": "True"}, "push_to_hub is 'True'; legal is only False"),
        ({"deepspeed": "ds.json"}, "deepspeed is 'ds.json'"),
    ],
)
def test_a_training_argument_that_cannot_be_kept_to_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        arguments(**given)


def test_tokens_of_a_hub_are_never_repeated():
    notes = arguments(hub_token="hf_secret", push_to_hub_token="hf_secret").notes
    assert len(notes) == 2
    assert "hf_secret" not in " ".join(notes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_field_of_the_installed_libraries_is_known():
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig

    fields = {field.name for field in dataclasses.fields(SFTConfig)}
    assert fields <= training_fields.NAMES
    known = {*weights2024.LORA, *weights2024.LORA_FIXED, *weights2024.LORA_UNREAD}
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= {*known, "target_modules"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_defaults_of_the_installed_libraries_are_legal():
    from peft import LoraConfig
    from transformers import TrainingArguments

    defaults = TrainingArguments(output_dir="out", use_cpu=True).to_dict()
    assert arguments(**defaults).train.epochs == 3
    lora = read_fine_tune_config({"lora_config": LoraConfig(task_type="CAUSAL_LM").to_dict()}).lora
    assert (lora.rank, lora.targets) == (8, ("all-linear",))


def test_a_bnb_config_that_transformers_wrote_is_read():
    written = {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": None,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }
    found = read_fine_tune_config({"bnb_config": written})
    assert found.model == {"quantization": "4bit", "dtype": "bfloat16"}


def test_a_configuration_is_read_without_torch():
    code = (
        "import sys; from agentscope_finetune.example2024 import read_fine_tune_config as read; "
        "read({'training_args': {'optim': 'adamw_torch'}}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


EXAMPLE_FILE = """[
    {
        "model_type": "huggingface",
        "config_name": "my_custom_model",
        "pretrained_model_name_or_path": "google/gemma-7b",
        "max_length": 128,
        "device": "cuda",
        "data_path": "GAIR/lima",
        "fine_tune_config": {
            "lora_config": {"r": 16, "lora_alpha": 32},
            "training_args": {"max_steps": 200, "logging_steps": 1},
            "bnb_config": {
                "load_in_4bit": "True",
                "bnb_4bit_use_double_quant": "True",
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": "torch.bfloat16"
            }
        }
    }
]
"""


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "model_configs.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        return path

    return write


def entry(**changes):
    given = {"model_type": "huggingface", "config_name": "m", "model_id": "owner/name", **changes}
    return {key: value for key, value in given.items() if value is not ...}


def test_the_examples_own_file_loads_although_it_never_did_in_2024(write, caplog):
    path = write(EXAMPLE_FILE)
    with caplog.at_level("INFO", logger="agentscope_finetune"):
        models = load_model_configs(path, settings=Settings(offline=True))
    (model,) = models.values()
    assert list(models) == ["my_custom_model"]
    assert model.model_config == ModelConfig(
        model="google/gemma-7b", device="cuda", dtype="bfloat16", quantization="4bit"
    )
    assert model.parameters.max_tokens == 128
    assert "data_path of 'my_custom_model' is not trained on by a model alone" in caplog.text


def test_an_entry_says_what_2024_trained_with(write):
    found = read_model_configs(write(EXAMPLE_FILE))["my_custom_model"]
    assert (found.data_path, found.output_dir, found.local) == ("GAIR/lima", None, None)
    assert found.asked.train.max_steps == 200
    assert found.fine_tune_config["lora_config"] == {"r": 16, "lora_alpha": 32}


def test_one_entry_may_stand_alone_and_a_reply_has_512_tokens_unless_it_says(write):
    (model,) = load_model_configs(write(entry()), settings=Settings()).values()
    assert model.model_config.model == "owner/name"
    assert model.parameters.max_tokens == 512
    inner = entry(fine_tune_config={"max_length": 9})
    assert read_model_configs(write(inner))["m"].max_new_tokens == 9


def test_a_local_path_is_a_model_or_an_adapter_on_its_base(write, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    described = {"base_model_name_or_path": "owner/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    local = entry(model_id=..., local_model_path=str(folder))
    both = entry(config_name="n", local_model_path=str(folder), device="cpu")
    models = load_model_configs(write([local, both]), settings=Settings())
    assert models["m"].model_config == ModelConfig(model="owner/base", adapter=str(folder))
    assert models["n"].model_config == ModelConfig(
        model="owner/name", adapter=str(folder), device="cpu"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[\n{]", r"model_configs\.json:2: not JSON: .* at column 2"),
        ("", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('[{},\n\n {"a": NaN}]', r":3: in the entry that begins here, NaN is not JSON"),
        ('[\n{"a": 1,\n "a": 2}]', r":2: in the entry that begins here, the key 'a' appears twice"),
        ("[\n1]", r":2: 1; legal is an object per model"),
        ("3", r":1: 3; legal is an object per model"),
        (
            [entry(model_type="openai_chat", config_name="gpt"), entry(), entry(model_type=...)],
            r"another: line 2 'gpt' \('openai_chat'\), line \d+ 'm' \(None\); AgentScope 2",
        ),
        ([entry(), entry()], r":7: entry 'm': config_name is 'm'; legal is a name that no other"),
        ([entry(config_name=...)], r":2: entry None: no key 'config_name'; keys are 'model_type'"),
        ([entry(model_id=...)], "names no model; give pretrained_model_name_or_path or local"),
        ([entry(pretrained_model_name_or_path="a/b")], "model_id is 'owner/name'; legal is left"),
        ([entry(max_lenght=3)], "max_lenght is no key of an entry; did you mean 'max_length'"),
        ([entry(max_length=0)], "entry 'm': max_length is 0; legal is a whole number"),
        ([entry(device="tpu")], "device is 'tpu'"),
        ([entry(data_path=3)], "data_path is 3"),
        (
            [entry(fine_tune_config={"lora_config": {"r": 0}})],
            r":2: entry 'm': fine_tune_config: lora_config\.r is 0",
        ),
        ([entry(fine_tune_config=[])], r"fine_tune_config is \[\]; legal is an object"),
    ],
)
def test_a_broken_file_names_file_line_and_entry(write, content, message):
    with pytest.raises(ConfigError, match=message):
        read_model_configs(write(content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.json: cannot be read"):
        load_model_configs(tmp_path / "no.json")
