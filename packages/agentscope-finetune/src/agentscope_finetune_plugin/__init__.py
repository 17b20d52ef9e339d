"""The hooks that agentscope-finetune answers.

They stand beside the package, because importing that registers a credential with AgentScope, and
the command line loads every plugin without importing a host.
"""

from __future__ import annotations

from agent_finetune import hookimpl
from agent_finetune.contracts import Diagnosis, Engine, Reading, Source

HOST = "agentscope"


@hookimpl
def finetune_read_examples(source: Source, format: str) -> Reading | None:
    """Read saved AgentScope conversations, by the name `agentscope` or where they are plain."""
    from agent_finetune.readers import convert
    from agentscope_finetune import records, states

    if format in ("auto", records.FORMAT) and states.is_storage(source.path):
        return states.read_storage(source)
    if format == records.FORMAT or (format == "auto" and records.is_agentscope(source.rows)):
        return Reading(format=records.FORMAT, items=convert(source.rows, records.read_row))
    return None


@hookimpl
def finetune_connect_host(host: str, agent: object, engine: Engine) -> object | None:
    """Let a live AgentScope agent speak through an engine; answer its new chat model."""
    if host != HOST:
        return None
    from agentscope_finetune.model import connect

    return connect(agent, engine)


@hookimpl
def finetune_diagnose() -> Diagnosis:
    """Say what of AgentScope is here, and what stands in its way."""
    from agentscope_finetune_plugin import diagnosis

    return diagnosis.diagnose()
