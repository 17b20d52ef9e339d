"""The kernel's own answers, through the same door as every plugin's and asked last.

Bodies import what they need when called, so that loading this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import (
    Batch,
    Engine,
    EngineConfig,
    LoadedModel,
    Reading,
    ResolvedModel,
    Settings,
    Source,
    TrainJob,
    TrainResult,
)
from agent_finetune.hookspecs import hookimpl
from agent_finetune.records import Tokens


@hookimpl(trylast=True)
def finetune_collate_batch(rows: Sequence[Tokens], pad_id: int, packed: bool) -> Batch:
    """Lay rows end to end where the model can tell them apart, else pad them."""
    from agent_finetune import collate

    return collate.pack(rows) if packed else collate.pad(rows, pad_id=pad_id)


@hookimpl(trylast=True)
def finetune_train_adapter(job: TrainJob) -> TrainResult:
    """Supervised fine-tuning over TRL."""
    from agent_finetune import train

    return train.fit(job)


@hookimpl(trylast=True)
def finetune_read_examples(source: Source, format: str) -> Reading:
    """Read recordings, and the formats that are common to all hosts."""
    from agent_finetune.readers import formats
    from agent_finetune.readers.sources import is_database

    if is_database(source.path):
        from agent_finetune.recordings import reading

        return reading.read_source(source, format)
    return formats.read_source(source, format)


@hookimpl(trylast=True)
def finetune_resolve_model(name: str, revision: str | None, settings: Settings) -> ResolvedModel:
    """Hub ids, folders, GGUF files and the models that come in a wheel."""
    from agent_finetune import models

    return models.resolve(name, revision, settings)


@hookimpl(trylast=True)
def finetune_load_model(
    config: ModelConfig, resolved: ResolvedModel, settings: Settings
) -> LoadedModel:
    """Load through Transformers."""
    from agent_finetune import models

    return models.load_base(config, resolved, settings)


@hookimpl(trylast=True)
def finetune_open_engine(config: EngineConfig, settings: Settings) -> Engine:
    """A model that lives in this process."""
    from agent_finetune.engine.local import LocalEngine

    return LocalEngine(config, settings)


@hookimpl(trylast=True)
def finetune_redact_record(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Keys, tokens, passwords and e-mail addresses, in every string."""
    from agent_finetune.recordings import redaction

    return redaction.redact_record(record)
