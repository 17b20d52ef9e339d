"""`build_trainer` as ModelScope has it, for scripts that change nothing but the import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelscope_agent_train.registration import register

OURS = ("agent-sft", "trainer", None)
"""Names that mean `agent-sft` here; `trainer` is ModelScope's default."""


def build_trainer(
    name: str | None = "agent-sft", default_args: Mapping[str, Any] | None = None
) -> Any:
    """Build a trainer by name.

    `agent-sft`, and ModelScope's default name, are built here: ModelScope's own function asks its
    hub about every id, even one that lies in the cache, and changes `default_args`. Any other name
    goes to it.

    Raises:
        FinetuneError: Something the user must change; the message says what.
    """
    register()
    arguments = dict(default_args or {})
    if name in OURS:
        from modelscope_agent_train.native.trainer import AgentTrainer

        return AgentTrainer(**arguments)
    from modelscope.trainers.builder import build_trainer as build

    return build(name, arguments)
