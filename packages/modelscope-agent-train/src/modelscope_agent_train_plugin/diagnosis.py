"""What `agent-finetune doctor` is told of ModelScope, read from metadata and settings alone."""

from __future__ import annotations

from pathlib import Path

from agent_finetune.contracts import Diagnosis
from agent_finetune.doctor import packages
from agent_finetune.doctor.environment import shown

_LOGIN = Path("credentials", "cookies")
"""What `modelscope login` leaves, a pickle; that it is there is all that is looked at."""


def diagnose() -> Diagnosis:
    """Look at what is installed, and at what the environment says of the hub.

    Raises:
        ConfigError: A switch of ModelScope's has no legal value.
    """
    from modelscope_agent_train.hub_settings import read_hub_settings
    from modelscope_agent_train.registration import REPAIRED

    settings = read_hub_settings()
    there = packages.installed()
    versions = [there[name].called for name in ("modelscope", "modelscope-hub") if name in there]
    kept = (settings.home / _LOGIN).is_file()
    token = (
        "yes, in MODELSCOPE_API_TOKEN"
        if settings.token
        else "yes, of modelscope login"
        if kept
        else "no"
    )
    return Diagnosis(
        title="ModelScope",
        modules=("modelscope", "modelscope_hub"),
        facts={
            "versions": ", ".join(versions) or "not installed",
            "hub": f"{', '.join(map(shown, settings.sites))}{', offline' * settings.offline}",
            "token for the hub": token,
            "names of its own that do not work": (
                f"{', '.join(entry.name for entry in REPAIRED)}; use agent-sft, or "
                "modelscope_agent_train.register(repair_stock=True)"
            ),
        },
        caches={"ModelScope's cache": settings.cache_dir},
    )
