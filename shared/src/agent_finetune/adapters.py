"""Low-rank adapters on disk and on a model: attach, open, save, merge, digest.

PEFT does the work. What is added here: targets that match nothing are an error, the weights in
training are float32 masters, an adapter's folder holds the tokenizer and chat template it was
trained with, and it names a base that can be loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, Conv1D

from agent_finetune import plugins
from agent_finetune.artifacts import new_folder
from agent_finetune.config import AdapterConfig, Dtype, ModelConfig, Quantization
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.models.adapter_folders import (
    base_of,
    check_weights,
    own_tokenizer,
    read_config,
    unchanging,
    with_base,
)
from agent_finetune.models.adapter_folders import digest as digest  # weights are not needed for it
from agent_finetune.models.foreign import is_panic
from agent_finetune.models.one_at_a_time import one_at_a_time
from agent_finetune.models.quiet import bars_on_a_terminal
from agent_finetune.models.quiet import quiet as loading_quietly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALL_LINEAR = "all-linear"


def attach(loaded: LoadedModel, config: AdapterConfig, *, seed: int = 0) -> PeftModel:
    """Put a new LoRA adapter on a base model and freeze the rest.

    The adapter starts as no change at all (one of its two matrices is zero) and is held in
    float32 whatever the base is held in: steps of a small learning rate vanish in bfloat16.

    Args:
        loaded: A base without an adapter; it is changed in place.
        config: Rank, scale, dropout and targets.
        seed: Seed of the random matrix. The global generator is left as it was.

    Raises:
        ConfigError: A target matches no linear layer, or is the output head.
        ModelError: DoRA is asked for, and the base is held in 8 bits.
    """
    _check_targets(loaded.model, config.targets)
    if config.dora:
        check_dora(loaded.config.quantization, loaded.resolved.name)
    everything = ALL_LINEAR in config.targets
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        # PEFT takes any number; a whole one is written as such, for readers that want an int.
        lora_alpha=cast("int", _plain_number(config.alpha)),
        lora_dropout=config.dropout,
        target_modules=ALL_LINEAR if everything else list(config.targets),
        use_rslora=config.rslora,
        use_dora=config.dora,
        revision=loaded.resolved.revision,
    )
    with one_at_a_time, quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(loaded.model, lora)
    model.peft_config["default"].base_model_name_or_path = _loadable_name(loaded.resolved)
    return model


def open_model(config: ModelConfig, settings: Settings, *, trainable: bool = False) -> LoadedModel:
    """Load a base through the hooks, and `config.adapter` on top of it when one is named.

    An adapter's folder may also stand in for the model itself: its base is then the one it names.

    Args:
        config: What to load.
        settings: Cache, token and offline switch.
        trainable: Whether the adapter will go on training.

    Returns:
        The model in evaluation mode. The tokenizer, chat template included, is the adapter's own
        when its folder holds one.

    Raises:
        ModelError: The base or the adapter cannot be had, or the two do not fit.
    """
    config = with_base(config)
    loaded = plugins.load_model(config, settings)
    if config.adapter is None:
        return loaded
    folder = Path(config.adapter)
    with unchanging(folder):
        return _on_top(loaded, folder, config, trainable=trainable)


def _on_top(
    loaded: LoadedModel, folder: Path, config: ModelConfig, *, trainable: bool
) -> LoadedModel:
    """A base with the adapter of a folder on it."""
    described = read_config(folder)
    if described.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: a {described.get('peft_type')!r} adapter; only LORA is known")
    check_weights(folder)
    if described.get("use_dora"):
        check_dora(loaded.config.quantization, str(folder))
    try:
        with one_at_a_time, quiet():
            model = PeftModel.from_pretrained(loaded.model, str(folder), is_trainable=trainable)
    except BaseException as error:  # PEFT has no list of what a damaged file makes it raise
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ModelError(
            f"{folder}: this adapter does not fit {config.model!r}; it was made for "
            f"{described.get('base_model_name_or_path')!r}: {' '.join(str(error).split())[:300]}"
        ) from error
    return replace(
        loaded,
        model=model.eval(),
        tokenizer=own_tokenizer(folder, config) or loaded.tokenizer,
        config=replace(loaded.config, adapter=str(folder)),
    )


def save(
    model: Any, tokenizer: Any, folder: Path, *, weights: Mapping[str, Any] | None = None
) -> None:
    """Write an adapter and the tokenizer that goes with it into a folder, in PEFT's format.

    Args:
        model: `peft.PeftModel`.
        tokenizer: Its chat template is the one that serving must use.
        folder: Made when missing; write into `artifacts.new_folder` to have it whole or not at all.
        weights: Its weights by name, where the model holds only a part of them.
    """
    # Left to itself, PEFT asks a hub whether the base's vocabulary is the model's; embeddings are
    # no targets of ours, so there is nothing to ask.
    given = {} if weights is None else {"state_dict": dict(weights)}
    model.save_pretrained(str(folder), save_embedding_layers=False, **given)
    # PEFT's model card is a form that nobody has filled in; run.json says what was trained.
    (folder / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(str(folder))


def merge(adapter: Path, out: Path, settings: Settings, *, dtype: Dtype = "auto") -> Path:
    """Add an adapter into its base and write a model folder that plain Transformers loads.

    The base is taken as its files are, also for an adapter that was trained on it in 4 or 8 bits;
    where the files themselves are quantized, it is unpacked first. So the result is not quantized.

    Args:
        adapter: An adapter's folder; its base is loaded by the name it carries.
        out: The new model folder.
        settings: Cache, token and offline switch.
        dtype: Number format of the merged weights; auto is the format that the base is stored in.

    Raises:
        ModelError: The base or the adapter cannot be had, or the two do not fit.
        ConfigError: `out` is there already.
    """
    if out.exists():
        raise ConfigError(f"{out}: already there, and nothing is overwritten; give another folder")
    base = base_of(adapter)
    resolved = plugins.resolve_model(base["model"], base["revision"], settings)
    config = ModelConfig(
        **base,
        adapter=str(adapter),
        device="cpu",
        dtype=_stored_dtype(resolved) if dtype == "auto" else dtype,
    )
    loaded = plugins.load_model(config, settings)
    unpacked = loaded.config.quantization != "none"
    if unpacked:
        loaded = replace(loaded, model=_unpacked(loaded.model))
    with unchanging(adapter):
        loaded = _on_top(loaded, adapter, config, trainable=False)
    merged = loaded.model.merge_and_unload(safe_merge=True)
    with new_folder(out) as folder, bars_on_a_terminal():
        # What was packed cannot be written in the layout that it was read in.
        merged.save_pretrained(str(folder), save_original_format=not unpacked)
        loaded.tokenizer.save_pretrained(str(folder))
    return out


def check_dora(quantization: Quantization, where: str) -> None:
    """Refuse DoRA on a base in 8 bits: its weights cannot be read back while it computes (PEFT).

    Raises:
        ModelError: It is one.
    """
    if quantization == "8bit":
        raise ModelError(f"{where}: DoRA on a base in 8 bits is not known; use 4bit or none")


def _unpacked(model: Any) -> Any:
    """A model that was stored quantized, with ordinary weights."""
    with loading_quietly():
        return model.dequantize()


def float32_masters(model: Any) -> None:
    """Hold every weight that trains in float32; autocast still computes in a shorter format."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def base_model(model: Any) -> Any:
    """The `transformers.PreTrainedModel` itself, under an adapter or not."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what PEFT, TRL and Transformers warn each other of: names that will go away."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`.*` is deprecated and will be removed", FutureWarning)
        yield


def _check_targets(model: Any, targets: Iterable[str]) -> None:
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }
    known = sorted({name.rpartition(".")[2] for name in linear})
    for target in targets:
        if target == ALL_LINEAR or any(f".{name}".endswith(f".{target}") for name in linear):
            continue
        raise ConfigError(
            f"targets names {target!r}, and no layer that can carry an adapter is called so; "
            f"legal are {', '.join(known)} and {ALL_LINEAR}"
        )


def _plain_number(value: float) -> float:
    return int(value) if value == int(value) else value


def _loadable_name(resolved: ResolvedModel) -> str:
    """What the user typed; a folder or file by its full path, so that it loads from anywhere."""
    path = Path(resolved.name).expanduser()
    return str(path.resolve()) if path.exists() else resolved.name


def _stored_dtype(resolved: ResolvedModel) -> Dtype:
    """The number format of the base's files; float32 when they are quantized or do not say."""
    if resolved.gguf_file is not None:
        return "float32"
    config = AutoConfig.from_pretrained(resolved.location, revision=resolved.revision)
    name = str(config.dtype).removeprefix("torch.")
    return cast("Dtype", name) if name in get_args(Dtype) else "float32"
