"""From a model's name and a source of data to a trained adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from agent_finetune.config import ModelConfig, RunConfig
from agent_finetune.records import BadRow, Example, Row, Tokens


class Secret:
    """A string that never shows itself: `repr`, `str` and pickling give nothing away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself; call it only where it is handed to a library."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never pickled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the environment and `.env` say; read once by `agent_finetune.settings`."""

    hub_token: Secret | None = None
    offline: bool = False
    cache_dir: Path = field(default_factory=lambda: Path.home() / ".cache" / "agent-finetune")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """A model name turned into files on this disk, or a hub id that Transformers will fetch."""

    name: str
    """What the user typed."""
    location: str
    """Local folder, or hub id."""
    revision: str | None = None
    gguf_file: str | None = None
    """File name inside `location` when the weights are GGUF."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """Weights and tokenizer, ready to render, train and generate."""

    model: Any
    """`transformers.PreTrainedModel`, or `peft.PeftModel` when an adapter is on it."""
    tokenizer: Any
    """`transformers.PreTrainedTokenizerBase`; its chat template may be an adapter's own."""
    resolved: ResolvedModel
    config: ModelConfig
    device: str
    """`cpu` or `cuda:N`, what auto became."""
    dtype: str
    """`float32`, `bfloat16` or `float16`, what auto became."""
    digest: str
    """sha256 over the base weights' files or the hub commit; `sha256:...` or `commit:...`."""


class Source:
    """A place data comes from. Rows are read once, when first asked for.

    A plugin that reads its own file type looks at `path` and never touches `rows`. It marks its
    hook `tryfirst`, because whoever does ask for the rows of an unknown file type gets an error.
    """

    def __init__(self, name: str, path: Path | None, load: Callable[[], Sequence[Row]]) -> None:
        self.name = name
        """What the user typed."""
        self.path = path
        """The file or folder, or None for a hub dataset."""
        self._load = load

    @cached_property
    def rows(self) -> Sequence[Row]:
        """Every row, as the file holds it.

        Raises:
            DataError: The file is not of a known type or does not parse; file and line are named.
        """
        return self._load()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a reader makes of a source: a format's name, and one item per row, bad ones too."""

    format: str
    items: Iterable[Example | BadRow]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that were read and are nothing to learn from, counted by the reason."""
    digest: str | None = None
    """`sha256:...` of what was read, where the bytes of the source's files do not say it."""


class Batch(TypedDict):
    """Arguments of one forward pass, and the labels; all values are torch tensors or ints.

    Padded: `input_ids`, `attention_mask`, `labels` of shape (B, T).
    Packed: `input_ids`, `position_ids`, `labels` of shape (1, T), and the flash-attention
    arguments of Transformers, `cu_seq_lens_q`, `cu_seq_lens_k` (documents + 1,), int32, and
    `max_length_q`, `max_length_k`.
    """

    input_ids: Any
    labels: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Answers of the base that an adapter is held to while it learns something else."""

    rows: Sequence[Tokens]
    """Prompt and answer; the answer's tokens are the trained ones."""
    weight: float
    """Weight of the divergence from the base, in nats per token, beside the loss."""
    rows_per_step: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """Everything that a trainer needs."""

    config: RunConfig
    loaded: LoadedModel
    train_rows: Sequence[Any]
    """`records.Tokens`, each with at least one trained token; for the objectives dpo and kto
    `records.PairTokens` and `records.VerdictTokens`."""
    eval_rows: Sequence[Any] = ()
    eval_examples: Sequence[Example] = ()
    """Examples whose tool calls are generated and scored at each evaluation."""
    out: Path
    retention: Retention | None = None
    """What a lora run is held to; see `agent_finetune.train.retention`."""
    callbacks: Sequence[Any] = ()
    """`transformers.TrainerCallback`s that act after the run's own."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says besides: data digests and counts, adaptations. JSON, no secrets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a finished run left behind."""

    adapter_dir: Path
    """PEFT folder for `lora`, model folder for `full`."""
    steps: int
    loss: float
    """Mean loss of the last logged step, nats per trained token; dpo and kto have their own."""
    seconds: float
    train_tokens: int
    """Tokens seen in forward passes, padding not counted."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Last evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A verb that a plugin adds to `agent-finetune`."""

    name: str
    help: str
    run: Callable[[Sequence[str]], int]
    """Gets the arguments after the verb, returns the exit code."""
