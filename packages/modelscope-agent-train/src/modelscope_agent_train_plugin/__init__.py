"""The hooks that modelscope-agent-train answers.

They stand beside the package, because importing that registers a trainer with ModelScope, and the
command line loads every plugin without importing a host.
"""

from __future__ import annotations

from agent_finetune import hookimpl
from agent_finetune.contracts import Reading, Source


@hookimpl
def finetune_read_examples(source: Source, format: str) -> Reading | None:
    """Read the data sets that ModelScope's agents learn from, by name or by their rows."""
    from modelscope_agent_train import formats

    return formats.read_source(source, format)
