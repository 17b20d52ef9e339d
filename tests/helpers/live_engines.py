"""Live engines on tiny models, for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from agent_finetune import adapters, plugins
from agent_finetune.config import AdapterConfig, ModelConfig
from agent_finetune.contracts import EngineConfig, LoadedModel, Request, Settings
from agent_finetune.engine import registry
from agent_finetune.engine.local import LocalEngine
from agent_finetune.records import Message


def config_of(folder: Path, *, adapter: Path | None = None) -> ModelConfig:
    name = None if adapter is None else str(adapter)
    return ModelConfig(model=str(folder), device="cpu", dtype="float32", adapter=name)


def open_engine(folder: Path, *, adapter: Path | None = None, **options) -> LocalEngine:
    return LocalEngine(
        EngineConfig(model=config_of(folder, adapter=adapter), **options), Settings()
    )


def load(folder: Path, *, adapter: Path | None = None) -> LoadedModel:
    return adapters.open_model(config_of(folder, adapter=adapter), Settings())


def make_adapter(model: Path, folder: Path, *, seed: int, rank: int = 4) -> Path:
    """An adapter that changes answers: both of its matrices are random."""
    loaded = plugins.load_model(config_of(model), Settings())
    changed = adapters.attach(loaded, AdapterConfig(rank=rank), seed=seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name, weight in changed.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    folder.mkdir(parents=True)
    adapters.save(changed, loaded.tokenizer, folder)
    return folder


def ask(text: str, **options) -> Request:
    return Request(messages=[Message(role="user", text=text)], **{"max_new_tokens": 12, **options})


def plain_ids(loaded: LoadedModel, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """What Transformers' own `generate` says behind a prompt, greedily: the reference."""
    ids = torch.tensor([prompt])
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt) :].tolist())


def close_all() -> None:
    """End every worker; what it held is loaded anew when it is asked again."""
    registry.close_all()
