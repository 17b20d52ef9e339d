"""Every hook there is. A plugin implements those it can answer; None means "not mine".

A plugin is a module with functions of these names, marked with `hookimpl`, and one entry point in
the group `agent_finetune`. Values go in, a value comes out. Hooks marked firstresult stop at the
first answer; plugins are asked before the kernel, which answers last. Import torch and the host
inside the function body: every command loads every plugin module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import (
    Batch,
    Command,
    Diagnosis,
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
from agent_finetune.records import Tokens

PROJECT = "agent_finetune"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def finetune_resolve_model(
    name: str, revision: str | None, settings: Settings
) -> ResolvedModel | None:
    """Turn a model's name into a place to load from. Called once before every load.

    Raise `ModelError` only for a name that is surely yours and cannot be had.
    """


@hookspec(firstresult=True)
def finetune_load_model(
    config: ModelConfig, resolved: ResolvedModel, settings: Settings
) -> LoadedModel | None:
    """Load weights and tokenizer. Called after `finetune_resolve_model`; not on `--help`."""


@hookspec(firstresult=True)
def finetune_read_examples(source: Source, format: str) -> Reading | None:
    """Read a source into Examples.

    `format` is a name the user gave, or `auto`. With a name that is not yours, answer None. With
    `auto`, answer only when the first rows can be nothing but your format. A row that does not
    read becomes a `BadRow` in its place; the caller stops or goes on, and counts.
    """


@hookspec(firstresult=True)
def finetune_collate_batch(rows: Sequence[Tokens], pad_id: int, packed: bool) -> Batch | None:
    """Make one batch of rows. Called for every step, so be quick."""


@hookspec(firstresult=True)
def finetune_train_adapter(job: TrainJob) -> TrainResult | None:
    """Train, and write what the run leaves behind into `job.out`, whole or not at all."""


@hookspec(firstresult=True)
def finetune_open_engine(config: EngineConfig, settings: Settings) -> Engine | None:
    """Open a live engine: a light handle that loads nothing yet.

    Called for every handle, so be quick; handles that serve the same weights share them.
    """


@hookspec(firstresult=True)
def finetune_connect_host(host: str, agent: object, engine: Engine) -> object | None:
    """Put an engine behind a live agent of a host; answer the host's own model object."""


@hookspec
def finetune_redact_record(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Remove secrets from a record before it is written. Every plugin is asked, in turn.

    Answer the whole record, cleaned; None leaves it as it is.
    """


@hookspec
def finetune_add_commands() -> Sequence[Command] | None:
    """Add verbs to `agent-finetune`. A verb of the kernel cannot be replaced."""


@hookspec
def finetune_diagnose(settings: Settings) -> Diagnosis | None:
    """Say for `agent-finetune doctor` what works here and what does not. Every plugin is asked.

    Read metadata and folders, and import neither torch nor the host: it may be what is broken.
    """
