"""The hooks that modelscope-agent-train answers.

They stand beside the package, because importing that registers a trainer with ModelScope, and the
command line loads every plugin without importing a host.
"""

from __future__ import annotations

from agent_finetune import hookimpl
from agent_finetune.contracts import Diagnosis, Reading, ResolvedModel, Settings, Source


@hookimpl
def finetune_read_examples(source: Source, format: str) -> Reading | None:
    """Read the data sets that ModelScope's agents learn from, by name or by their rows."""
    from modelscope_agent_train import formats, legacy

    return legacy.read_source(source, format) or formats.read_source(source, format)


@hookimpl
def finetune_resolve_model(
    name: str, revision: str | None, settings: Settings
) -> ResolvedModel | None:
    """Models of ModelScope: `modelscope:owner/name`, and a plain id that its cache holds whole.

    No other plain id is answered, so that nobody who means Hugging Face is sent to another hub.
    """
    from modelscope_agent_train import hub

    if name.startswith(hub.PREFIX):
        return hub.resolve(name, revision, settings=settings)
    return hub.cached_model(name, revision)


@hookimpl
def finetune_diagnose() -> Diagnosis:
    """Say which ModelScope is here, where its hub and cache are."""
    from modelscope_agent_train_plugin import diagnosis

    return diagnosis.diagnose()
