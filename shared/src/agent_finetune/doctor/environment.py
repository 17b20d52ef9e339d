"""Switches in the environment and `.env` that change what works, secrets as yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from agent_finetune.settings import TOKEN_NAMES, Sources, first

SHOWN = (
    *("AGENT_FINETUNE_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"),
    *("HF_HOME", "HF_HUB_CACHE", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF"),
    *("OMP_NUM_THREADS", "HTTPS_PROXY", "https_proxy"),
)
"""Shown with their values, an address without what stands before its `@`."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
TOKEN = "token for the hub"


def switches(sources: Sources, *, logged_in: bool) -> Mapping[str, str]:
    """Those that are set, and whether there is a token; never its value.

    Args:
        sources: The environment and `.env`, of `settings.sources`.
        logged_in: Whether `hf auth login` has left a token.
    """
    found = {name: shown(value) for name in SHOWN if (value := _given(sources, name)) is not None}
    token = next((name for name in TOKEN_NAMES if first(sources, name)), None)
    told = f"yes, in {token}" if token else "yes, of hf auth login" if logged_in else "no"
    return {**found, TOKEN: told}


def _given(sources: Sources, name: str) -> str | None:
    """As it is set; an empty value means something for CUDA_VISIBLE_DEVICES."""
    return next((value for source in sources if (value := source.get(name)) is not None), None)


def shown(value: str) -> str:
    """A value that may be an address, without the password that may stand in its front or query."""
    if "://" not in value:
        return value.rpartition("@")[2]
    try:
        address = urlsplit(value)
    except ValueError:
        return "not an address"
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
