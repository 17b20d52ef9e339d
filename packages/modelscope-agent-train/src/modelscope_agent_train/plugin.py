"""The hooks that this plugin answers. Importing it imports no torch and no ModelScope."""

from __future__ import annotations

from agent_finetune import hookimpl
from agent_finetune.contracts import Reading, Source


@hookimpl
def finetune_read_examples(source: Source, format: str) -> Reading | None:
    """Read MSAgent-Bench rows, by the name `msagent` or where their tags show."""
    from agent_finetune.readers import convert
    from modelscope_agent_train import records

    if format == records.FORMAT or (format == "auto" and records.is_msagent(source.rows)):
        return Reading(format=records.FORMAT, items=convert(source.rows, records.read_row))
    return None
