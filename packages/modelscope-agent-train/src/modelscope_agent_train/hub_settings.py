"""What the environment and `.env` say about ModelScope's hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent_finetune.contracts import Secret
from agent_finetune.settings import first, flag, sources

SITES = ("https://modelscope.cn", "https://www.modelscope.ai")
"""The hub's two sites; they do not hold the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSettings:
    """Where ModelScope's hub is, who asks, and where its downloads lie."""

    token: Secret | None = None
    """None lets ModelScope's own client use the one of `modelscope login`, if any."""
    sites: tuple[str, ...] = SITES
    """Asked in turn for a repository, until one has it."""
    cache_dir: Path = field(default_factory=lambda: Path.home() / ".cache" / "modelscope")
    home: Path = field(default_factory=lambda: Path.home() / ".modelscope")
    """Where `modelscope login` keeps what it was given."""
    offline: bool = False


def read_hub_settings(env_file: Path | None = None) -> HubSettings:
    """Read what ModelScope's own client reads, from the environment and then from a `.env` file.

    Known names are MODELSCOPE_API_TOKEN, MODELSCOPE_ENDPOINT (or the older MODELSCOPE_DOMAIN),
    MODELSCOPE_PREFER_AI_SITE, MODELSCOPE_CACHE, MODELSCOPE_HOME and, since ModelScope has no switch
    for it, AGENT_TRAIN_OFFLINE; HF_HUB_OFFLINE counts too. An empty value counts as not set.

    Raises:
        ConfigError: `env_file` does not exist, or a switch has no legal value.
    """
    found = sources(env_file)
    token = first(found, "MODELSCOPE_API_TOKEN")
    site = first(found, "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN")
    cache, home = first(found, "MODELSCOPE_CACHE"), first(found, "MODELSCOPE_HOME")
    switches = ("AGENT_TRAIN_OFFLINE", "HF_HUB_OFFLINE", "MODELSCOPE_PREFER_AI_SITE")
    offline, hf_offline, prefer_ai = (flag(name, first(found, name)) for name in switches)
    default = HubSettings()
    return HubSettings(
        token=Secret(token) if token else None,
        sites=(_url(site),) if site else SITES[::-1] if prefer_ai else SITES,
        cache_dir=Path(cache).expanduser().absolute() if cache else default.cache_dir,
        home=Path(home).expanduser().absolute() if home else default.home,
        offline=offline or hf_offline,
    )


def _url(site: str) -> str:
    named = site.lower().startswith(("http://", "https://"))
    return (site if named else f"https://{site}").rstrip("/")
