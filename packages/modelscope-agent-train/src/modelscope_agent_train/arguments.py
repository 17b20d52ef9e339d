"""Every flag of the training and the inference script: those of 2023, and today's.

Names and meanings are those of `SftArguments` and `InferArguments` of 2023; where a default is
another one, or a flag cannot mean what it meant, `effects` says so at each run.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent_finetune.errors import ConfigError
from modelscope_agent_train.flags import flag

DTYPES = ("auto", "bf16", "fp16", "fp32")
HUBS = ("auto", "modelscope", "huggingface", "local")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
HUB_STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


@dataclass(frozen=True, kw_only=True)
class CommonArguments:
    """Which model and which data: what both scripts take."""

    model_type: str | None = flag(None, "name of a known model; a wrong one lists them")
    model_id_or_path: str | None = flag(
        None, "hub id, folder or GGUF file, instead of the id that model_type names"
    )
    model_revision: str | None = flag(None, "branch, tag or commit of the hub id")
    hub: str = flag("auto", "where ids are looked up", choices=HUBS)
    local_files_only: bool = flag(False, "ask no hub; take what is on this disk")
    trust_remote_code: bool = flag(False, "run Python code that comes with the model")
    sft_type: str = flag(
        "lora",
        "an adapter, or every weight",
        choices=("lora", "full"),
        aliases=["tuner_type"],
    )
    dtype: str = flag("auto", "number format of weights and products", choices=DTYPES)
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    quantization_bit: int | None = flag(None, "4 or 8: hold the frozen weights in so many bits")
    bnb_4bit_comp_dtype: str = flag(
        "auto", "number format of products with 4-bit weights", choices=DTYPES
    )
    bnb_4bit_quant_type: str = flag("nf4", "kind of 4 bits", choices=("nf4", "fp4"))
    bnb_4bit_use_double_quant: bool = flag(True, "hold the scales of 4 bits in 8 bits")
    use_flash_attn: bool | None = flag(None, "true, false or auto; SDPA where it is missing")
    seed: int = flag(42, "seed of the shuffle, the adapter's start and dropout")
    dataset: str | None = flag(
        None, "file, folder, hub id (id#N takes N rows) or shipped sample; several with commas"
    )
    dataset_seed: int = flag(42, "seed of the sample and of the split")
    dataset_sample: int = flag(20000, "rows drawn from all data sets together; -1 takes all")
    dataset_test_ratio: float = flag(
        0.01, "share of the rows held out", aliases=["dataset_test_size"]
    )
    split_by: str = flag(
        "rows",
        "hold out rows, as in 2023, or tools, so that no held-out tool is trained",
        choices=("rows", "tools"),
    )
    format: str = flag("auto", "name of the data's format; auto finds it")
    on_bad_row: str = flag("skip", "skip and count rows that do not read", choices=("skip", "stop"))
    prompt: str | None = flag(None, "the text before a question in 2023; never used by the script")
    max_length: int = flag(1024, "most tokens of a row")
    legacy_format: bool = flag(False, "the text form of 2023 instead of the model's chat template")
    ignore_args_error: bool = flag(False, "leave out flags that do not exist, and say which")

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse a value that is out of range.

        Raises:
            ConfigError: One is; the flag is named.
        """
        if self.quantization_bit not in (None, 4, 8):
            raise ConfigError(f"--quantization_bit is {self.quantization_bit!r}; legal are 4 and 8")
        if self.dataset_sample != -1 and self.dataset_sample < 1:
            raise ConfigError(
                f"--dataset_sample is {self.dataset_sample!r}; legal are -1 for all, or 1 and more"
            )
        if not 0 <= self.dataset_test_ratio <= 1:
            raise ConfigError(
                f"--dataset_test_ratio is {self.dataset_test_ratio!r}; it must lie in [0, 1]"
            )


@dataclass(frozen=True, kw_only=True)
class SftArguments(CommonArguments):
    """Fine-tune a model on agent data, with the flags of ModelScope-Agent's llm_sft.py."""

    output_dir: str = flag("runs", "the run goes into output_dir/model_type/vN-time")
    resume_from_ckpt: str | None = flag(
        None, "checkpoint or run folder to go on from; true or last takes the newest run's"
    )
    ddp_backend: str | None = flag(
        None, "how processes talk under torchrun", choices=("nccl", "gloo", "mpi", "ccl")
    )
    truncation: str = flag(
        "trim",
        "rows over max_length: trim the oldest turns (system and tools stay), drop, or error",
        choices=("trim", "drop", "error"),
    )
    lora_target_modules: tuple[str, ...] = flag(
        (), "layers that get an adapter; ALL is every linear one; unset, the model_type's"
    )
    lora_rank: int = flag(8, "rank of the adapter")
    lora_alpha: float = flag(32, "scale of the adapter; the update is multiplied by alpha / rank")
    lora_dropout_p: float = flag(0.1, "share of the adapter's inputs that are zeroed in training")
    use_dora: bool = flag(False, "also learn how long each column of a weight is (DoRA)")
    gradient_checkpoint: bool = flag(True, "compute activations twice to hold fewer of them")
    batch_size: int = flag(1, "rows per forward pass and process")
    num_train_epochs: float = flag(1, "passes over the data")
    max_steps: int | None = flag(None, "optimizer steps to stop after")
    optim: str = flag("adamw_torch", "optimizer, by its name in Transformers")
    learning_rate: float | None = flag(None, "peak step size; unset, 1e-4 for lora, 1e-5 for full")
    weight_decay: float = flag(0.01, "decoupled weight decay")
    gradient_accumulation_steps: int = flag(16, "forward passes per optimizer step")
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm")
    lr_scheduler_type: str = flag("cosine", "how the learning rate falls", choices=SCHEDULES)
    warmup_ratio: float = flag(0.1, "share of the steps over which the learning rate rises")
    pack: bool = flag(True, "lay the rows of a batch end to end instead of padding them")
    eval_steps: int = flag(50, "steps between measurements of the held-out loss")
    save_steps: int | None = flag(
        None, "steps between checkpoints; unset, eval_steps, and four times that for full"
    )
    save_total_limit: int = flag(2, "newest checkpoints kept")
    save_only_model: bool = flag(False, "leave optimizer states out of checkpoints")
    logging_steps: int = flag(5, "steps between lines of history.jsonl")
    skip_memory_metrics: bool = flag(True, "always true: memory is not measured")
    push_to_hub: bool = flag(False, "send the result to a repository on ModelScope")
    hub_model_id: str | None = flag(None, "id of that repository, owner/name")
    hub_private_repo: bool = flag(True, "make it private when it is made")
    hub_strategy: str = flag(
        "end", "of 2023; the result is sent once, at the end", choices=HUB_STRATEGIES
    )
    hub_token: str | None = flag(None, "token; better MODELSCOPE_API_TOKEN or .env")
    fsdp: str | None = flag(None, "not offered; --deepspeed with a stage 3 file does that")
    fsdp_config: str | None = flag(None, "not offered, as fsdp")
    deepspeed: str | None = flag(None, "DeepSpeed's JSON file; run under torchrun")
    evaluate: bool = flag(True, "measure tool calls on the held-out data at the end")
    evaluate_sample: int = flag(100, "held-out examples measured at the end; -1 takes all")
    max_new_tokens: int = flag(512, "most tokens of an answer in that measurement")

    def check(self) -> None:
        super().check()
        if self.dataset_test_ratio > 0.9:
            raise ConfigError(
                f"--dataset_test_ratio is {self.dataset_test_ratio!r}; it must lie in [0, 0.9], or "
                "nothing is left to train on"
            )
        if self.evaluate_sample != -1 and self.evaluate_sample < 1:
            raise ConfigError(
                f"--evaluate_sample is {self.evaluate_sample!r}; legal are -1 for all, or 1 and "
                "more; --evaluate false measures nothing"
            )

    @property
    def peak_learning_rate(self) -> float:
        """As in 2023: 1e-4 for an adapter, 1e-5 for every weight."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-4 if self.sft_type == "lora" else 1e-5

    @property
    def checkpoint_steps(self) -> int:
        """As in 2023: as often as it is measured, full training a quarter of that."""
        if self.save_steps is not None:
            return self.save_steps
        return self.eval_steps if self.sft_type == "lora" else 4 * self.eval_steps


@dataclass(frozen=True, kw_only=True)
class InferArguments(CommonArguments):
    """Let a model answer: one prompt, a file of rows, or in a conversation."""

    ckpt_dir: str | None = flag(
        None, "run folder, adapter or merged weights; unset, the model as it is"
    )
    query: str | None = flag(None, "one question; without it and without a file, a conversation")
    input: str | None = flag(None, "file of rows to answer, in any format that is read")
    output: str | None = flag(None, "jsonl file for the answers; unset, they are printed")
    system: str | None = flag(None, "system message")
    tools: str | None = flag(None, "json file with a list of tools to offer")
    max_new_tokens: int = flag(512, "most tokens of an answer")
    do_sample: bool = flag(False, "draw tokens instead of taking the likeliest")
    temperature: float = flag(0.9, "with do_sample: below 1 sharpens")
    top_k: int = flag(10, "with do_sample: likeliest tokens drawn from")
    top_p: float = flag(0.8, "with do_sample: likeliest share drawn from")
    stream: bool = flag(True, "show the answer while it comes")
    eval_human: bool = flag(False, "of 2023, where it did nothing: a conversation is the default")
