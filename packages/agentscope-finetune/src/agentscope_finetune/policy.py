"""Which models the credentials of this process may reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent_finetune.config import ModelConfig
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.models import SHIPPED
from agent_finetune.models.adapter_folders import ADAPTER_CONFIG, base_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What models that are built with a credential may be."""

    roots: tuple[Path, ...] = ()
    """Folders under which local models and adapters must lie, symlinks resolved."""
    trust_remote_code: bool = False
    """Whether a credential may ask for code that comes with a model to be run."""


_policy = Policy()


def allow_models(*, roots: Sequence[Path | str] = (), trust_remote_code: bool = False) -> None:
    """Set what credentials may reach in this process; it replaces what was set before.

    Until this is called, a credential reaches hub ids and shipped models, and no local path. A
    model that is built without a credential is the program's own, and not held to this.

    Args:
        roots: Folders under which local models and adapters may lie.
        trust_remote_code: Whether credentials may have code run that comes with a model.

    Raises:
        ConfigError: A root is no folder.
    """
    global _policy
    resolved = tuple(Path(root).expanduser().resolve() for root in roots)
    for root, path in zip(roots, resolved, strict=True):
        if not path.is_dir():
            raise ConfigError(f"roots has {str(root)!r}, which is no folder")
    _policy = Policy(roots=resolved, trust_remote_code=trust_remote_code)


def allowed() -> Policy:
    """What credentials may reach now."""
    return _policy


def check(config: ModelConfig) -> ModelConfig:
    """Refuse what a credential may not reach: model, adapter, and the base an adapter names.

    A path that is not there is refused in the same words as one that is, so that nobody can find
    out what is on this disk.

    Returns:
        The same with its paths resolved, so that a link that changes later leads nowhere else.

    Raises:
        ConfigError: A local path lies under no root, or code would be run.
    """
    if config.trust_remote_code and not _policy.trust_remote_code:
        raise ConfigError(
            "trust_remote_code is True; here a credential may not have a model's code run: turn "
            "it off, or have the operator call allow_models(trust_remote_code=True)"
        )
    model = _reached("model", config.model)
    adapter = None if config.adapter is None else _reached("adapter", config.adapter)
    for folder in (model, adapter):
        if folder is not None and folder not in SHIPPED:
            _check_base(Path(folder))
    return replace(config, model=model, adapter=adapter)


def _check_base(folder: Path) -> None:
    if not (folder / ADAPTER_CONFIG).is_file():
        return
    try:
        base = str(base_of(folder)["model"])
    except ModelError:  # names none, or cannot be read: loading says so
        return
    _reached(f"base of adapter {str(folder)!r}", base)


def _reached(what: str, name: str) -> str:
    """A name that a credential may reach; a path resolved."""
    if name in SHIPPED or not _is_local(name):
        return name
    path = Path(name).expanduser().resolve()
    if any(path.is_relative_to(root) for root in _policy.roots):
        return str(path)
    roots = ", ".join(map(str, _policy.roots)) or "none"
    raise ConfigError(
        f"{what} is {name!r}; a credential reaches hub ids, {', '.join(SHIPPED)}, and folders "
        f"under the roots that the operator gave to allow_models: {roots}"
    )


def _is_local(name: str) -> bool:
    """Whether a name means, or could come to mean, a file on this disk and no hub id."""
    return name.count("/") != 1 or name.startswith((".", "~", "/")) or Path(name).exists()
