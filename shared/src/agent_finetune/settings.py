"""The one place that reads environment and `.env`; only command line and host plugins call it.

A plugin whose host has settings of its own reads them with `sources`, `first` and `flag`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dotenv import dotenv_values

from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import ConfigError

TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")
_YES = ("1", "on", "yes", "true")
_NO = ("0", "off", "no", "false")

Sources = Sequence[Mapping[str, str | None]]


def read_settings(env_file: Path | None = None) -> Settings:
    """Read the environment and a `.env` file; the environment wins.

    Known names are HF_TOKEN (or HUGGING_FACE_HUB_TOKEN or HUGGINGFACE_TOKEN), HF_HUB_OFFLINE and
    AGENT_FINETUNE_CACHE.
    An empty value counts as not set. Nothing is written back into the environment.

    Args:
        env_file: The file to read; None reads `.env` in the current folder, if there is one.

    Raises:
        ConfigError: `env_file` does not exist or is not UTF-8 text, or a value is not legal.
    """
    found = sources(env_file)
    token = first(found, *TOKEN_NAMES)
    cache = first(found, "AGENT_FINETUNE_CACHE")
    default = Settings()
    return Settings(
        hub_token=Secret(token) if token else None,
        offline=flag("HF_HUB_OFFLINE", first(found, "HF_HUB_OFFLINE")),
        cache_dir=Path(cache).expanduser().absolute() if cache else default.cache_dir,
    )


def sources(env_file: Path | None = None) -> Sources:
    """The environment, then a `.env` file: who is asked first wins.

    Raises:
        ConfigError: `env_file` does not exist or is not UTF-8 text.
    """
    return [os.environ, _read_env_file(env_file)]


def _read_env_file(env_file: Path | None) -> Mapping[str, str | None]:
    path = env_file or Path(".env")
    if not path.is_file():
        if env_file is None:
            return {}
        raise ConfigError(
            f"env file {str(env_file)!r} does not exist; give a file of NAME=value lines"
        )
    try:
        # A token is taken letter by letter: "$" in it must not start a substitution.
        return dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def first(sources: Sources, *names: str) -> str | None:
    """The first value that is not empty; every name is tried in one source before the next."""
    for source in sources:
        for name in names:
            value = (source.get(name) or "").strip()
            if value:
                return value
    return None


def flag(name: str, value: str | None) -> bool:
    """A switch as people write it; unset is off.

    Raises:
        ConfigError: It is none of the legal words.
    """
    if value is None or value.lower() in _NO:
        return False
    if value.lower() in _YES:
        return True
    raise ConfigError(f"{name} is {value!r}; legal values are {', '.join(_YES + _NO)}")
