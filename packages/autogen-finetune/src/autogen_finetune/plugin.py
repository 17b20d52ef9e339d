"""The hooks that this plugin answers. Importing this module imports no torch and no AutoGen."""

from __future__ import annotations

from agent_finetune import hookimpl
from agent_finetune.contracts import Diagnosis, Engine, Reading, Source


@hookimpl
def finetune_read_examples(source: Source, format: str) -> Reading | None:
    """Read saved conversations, by the name `autogen` or where only AutoGen writes so."""
    from agent_finetune.readers import convert
    from autogen_finetune import records

    if format == records.FORMAT or (format == "auto" and records.is_autogen(source.rows)):
        threads = records.threads(source.rows)
        return Reading(format=records.FORMAT, items=convert(threads, records.read_thread))
    return None


@hookimpl
def finetune_connect_host(host: str, agent: object, engine: Engine) -> object | None:
    """Let a live agent speak through an engine; answer its new client, or its config in AG2 1.x."""
    from autogen_finetune import connecting

    connect = connecting.HOSTS.get(host)
    return None if connect is None else connect(agent, engine)


@hookimpl
def finetune_diagnose() -> Diagnosis:
    """Say which AutoGens are installed, and what stands in their way."""
    from autogen_finetune import diagnosis

    return diagnosis.diagnose()
