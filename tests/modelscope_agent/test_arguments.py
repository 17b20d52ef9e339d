import pytest

from agent_finetune.errors import ConfigError
from modelscope_agent_train.arguments import InferArguments, SftArguments
from modelscope_agent_train.flags import parse

COMMAND = (
    "--model_type modelscope-agent-7b --sft_type lora --output_dir runs "
    "--dataset damo/MSAgent-Bench --dataset_sample 20000 --dataset_test_ratio 0.02 "
    "--max_length 2048 --dtype bf16 --lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.1 "
    "--batch_size 1 --learning_rate 1e-4 --gradient_accumulation_steps 16 --eval_steps 50 "
    "--save_steps 50 --save_total_limit 2 --logging_steps 20 --use_flash_attn true"
)

OF_2023 = {
    "sft_type": "lora",
    "output_dir": "runs",
    "ddp_backend": None,
    "seed": 42,
    "resume_from_ckpt": None,
    "ignore_args_error": False,
    "dataset_seed": 42,
    "dataset_sample": 20000,
    "dataset_test_ratio": 0.01,
    "max_length": 1024,
    "quantization_bit": None,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout_p": 0.1,
    "gradient_checkpoint": True,
    "batch_size": 1,
    "num_train_epochs": 1,
    "optim": "adamw_torch",
    "learning_rate": None,
    "weight_decay": 0.01,
    "gradient_accumulation_steps": 16,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "eval_steps": 50,
    "save_steps": None,
    "save_total_limit": 2,
    "logging_steps": 5,
    "skip_memory_metrics": True,
    "push_to_hub": False,
    "hub_model_id": None,
    "hub_private_repo": True,
    "hub_token": None,
    "fsdp": None,
    "fsdp_config": None,
    "deepspeed": None,
    "use_flash_attn": None,
}
"""Flags whose defaults are those of 2023."""
CHANGED = {
    "model_type": None,  # was qwen-7b, which does not load any more
    "dtype": "auto",  # was fp16, which needs a GPU
    "dataset": None,  # was alpaca, and anything that was no file became MSAgent-Bench
    "prompt": None,  # was a text that nothing read
    "bnb_4bit_comp_dtype": "auto",  # was fp16 beside any dtype
    "lora_target_modules": (),  # was None; both mean the model type's
    "save_only_model": False,  # was None, and passed on to nobody
    "hub_strategy": "end",  # was every_save
}


def read(*words, kind=SftArguments):
    return parse(kind, words, prog="llm_sft.py")


def test_the_documented_command_is_read_as_it_stands():
    parsed = read(*COMMAND.split())
    arguments = parsed.arguments
    assert arguments.model_type == "modelscope-agent-7b"
    assert arguments.dataset == "damo/MSAgent-Bench"
    assert arguments.dataset_test_ratio == 0.02
    assert arguments.learning_rate == 1e-4
    assert arguments.lora_alpha == 32
    assert arguments.use_flash_attn is True
    assert len(parsed.given) == COMMAND.count("--")
    assert parsed.ignored == ()


@pytest.mark.parametrize("name", OF_2023)
def test_a_flag_of_2023_is_there_with_its_default(name):
    assert getattr(SftArguments(), name) == OF_2023[name]


@pytest.mark.parametrize("name", CHANGED)
def test_a_default_that_changed_since_2023_is_known(name):
    assert getattr(SftArguments(), name) == CHANGED[name]


def test_the_flags_of_inference_of_2023_are_there():
    listed = (
        "model_type sft_type ckpt_dir eval_human seed dtype dataset dataset_test_size prompt "
        "max_length quantization_bit bnb_4bit_comp_dtype max_new_tokens do_sample temperature "
        "top_k top_p"
    )
    names = listed.split()
    values = {"eval_human": "true", "seed": "1", "do_sample": "true", "quantization_bit": "4"}
    values |= {"dataset_test_size": "0.5", "max_length": "9", "max_new_tokens": "9"}
    values |= {"temperature": "1", "top_k": "1", "top_p": "1", "dtype": "bf16"}
    values |= {"bnb_4bit_comp_dtype": "bf16", "sft_type": "lora"}
    words = [word for name in names for word in (f"--{name}", values.get(name, "x"))]
    parsed = read(*words, kind=InferArguments)
    assert len(parsed.given) == len(names)


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("False", False), ("1", True), ("no", False), ("ON", True)]
)
def test_a_switch_takes_a_word(word, value):
    assert read("--gradient_checkpoint", word).arguments.gradient_checkpoint is value


def test_a_switch_without_a_word_is_true():
    assert read("--push_to_hub", "--seed", "1").arguments.push_to_hub is True


def test_a_switch_takes_no_other_word():
    with pytest.raises(ConfigError, match=r"--push_to_hub: 'maybe' is neither true nor false"):
        read("--push_to_hub", "maybe")


def test_flash_attention_may_be_left_to_the_machine():
    assert read("--use_flash_attn", "auto").arguments.use_flash_attn is None


def test_a_typo_is_an_error_that_names_the_nearest_flag():
    with pytest.raises(ConfigError, match=r"no flag --lora_rnak; did you mean --lora_rank\?"):
        read("--lora_rnak", "8")


def test_an_abbreviation_is_not_taken_for_a_flag():
    with pytest.raises(ConfigError, match="no flag --lora_r;"):
        read("--lora_r", "8")


def test_a_word_that_belongs_to_no_flag_is_an_error():
    with pytest.raises(ConfigError, match="'extra' belongs to no flag"):
        read("--seed", "1", "extra")


def test_unknown_flags_are_left_out_where_that_was_asked_for():
    parsed = read("--unheard_of", "3", "--ignore_args_error", "true", "--seed", "7")
    assert parsed.arguments.seed == 7
    assert parsed.ignored == ("--unheard_of", "3")


def test_the_name_of_2023_is_an_alias():
    parsed = read("--dataset_test_size", "0.3")
    assert parsed.arguments.dataset_test_ratio == 0.3
    assert parsed.given == ("dataset_test_ratio",)


def test_dashes_and_equal_signs_are_taken():
    arguments = read("--model-type=qwen-7b", "--output-dir=a-b").arguments
    assert (arguments.model_type, arguments.output_dir) == ("qwen-7b", "a-b")


def test_all_rows_are_asked_for_with_minus_one():
    assert read("--dataset_sample", "-1").arguments.dataset_sample == -1


@pytest.mark.parametrize("words", [["q_proj", "v_proj"], ["q_proj,v_proj"]])
def test_a_list_is_written_with_spaces_or_commas(words):
    targets = read("--lora_target_modules", *words, "--seed", "1").arguments.lora_target_modules
    assert targets == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sft_type", "lorra"], "--sft_type.*'lorra'; legal are lora, full"),
        (["--dtype", "int8"], "--dtype.*legal are auto, bf16, fp16, fp32"),
        (["--quantization_bit", "3"], "--quantization_bit is 3; legal are 4 and 8"),
        (["--dataset_sample", "0"], "--dataset_sample is 0; legal are -1"),
        (["--dataset_test_ratio", "1"], r"must lie in \[0, 0.9\]"),
        (["--evaluate_sample", "0"], "--evaluate_sample is 0"),
        (["--lora_rank", "many"], "--lora_rank: invalid int value: 'many'"),
    ],
)
def test_a_value_that_is_not_legal_is_an_error(words, told):
    with pytest.raises(ConfigError, match=told):
        read(*words)


def test_learning_rate_and_checkpoints_are_those_of_2023():
    lora, full = SftArguments(eval_steps=10), SftArguments(eval_steps=10, sft_type="full")
    assert (lora.peak_learning_rate, full.peak_learning_rate) == (1e-4, 1e-5)
    assert (lora.checkpoint_steps, full.checkpoint_steps) == (10, 40)
    assert SftArguments(save_steps=7, sft_type="full").checkpoint_steps == 7


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as left:
        read("--help")
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in (*OF_2023, *CHANGED, "dataset_test_size"))
