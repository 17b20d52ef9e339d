"""The hooks that this plugin answers. Importing this module imports no torch and no AutoGen."""

from __future__ import annotations

from agent_finetune import hookimpl
from agent_finetune.contracts import Reading, Source


@hookimpl
def finetune_read_examples(source: Source, format: str) -> Reading | None:
    """Read saved AutoGen threads, by the name `autogen` or where only AutoGen writes so."""
    from agent_finetune.readers import convert
    from autogen_finetune import records

    if format == records.FORMAT or (format == "auto" and records.is_autogen(source.rows)):
        threads = records.threads(source.rows)
        return Reading(format=records.FORMAT, items=convert(threads, records.read_thread))
    return None
