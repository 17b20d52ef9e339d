"""The adapters of the roles, attached to one engine: a role is a name, and no weights are moved."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent_finetune.errors import ConfigError
from agent_finetune.roles.prompts import ROLES, Part
from agentscope_finetune.threads import aside

if TYPE_CHECKING:
    from agent_finetune.contracts import Engine


class Voices:
    """Which adapter each role speaks through. Making it reads nothing but the folders' names.

    Args:
        folders: An adapter folder by its role; a role without one speaks as the model itself.

    Raises:
        ConfigError: There is no adapter in a folder, or another part than a role is given.
    """

    def __init__(self, folders: Mapping[Part, Path | str]) -> None:
        self._names: dict[Part, str] = {}
        for part, folder in folders.items():
            if part not in ROLES:
                raise ConfigError(f"part is {part!r}; legal are {', '.join(ROLES)}")
            path = Path(folder).expanduser().resolve()
            if not (path / "adapter_config.json").is_file():
                raise ConfigError(f"{part}: no adapter in {folder}; adapter_config.json is missing")
            # The name by which the engine knows an adapter of this folder anyway.
            self._names[part] = str(path)
        self._attached: weakref.WeakKeyDictionary[Engine, set[str]] = weakref.WeakKeyDictionary()

    @property
    def names(self) -> Mapping[Part, str]:
        """The name of each role's adapter."""
        return dict(self._names)

    async def name(self, engine: Engine, part: Part) -> str | None:
        """The name that a request of this role gives; attached with its first words.

        Raises:
            ModelError: It is no adapter for what the engine serves.
        """
        name = self._names.get(part)
        if name is None:
            return None
        attached = self._attached.setdefault(engine, set())
        if name not in attached:
            await aside(lambda: engine.attach(name, Path(name)))
            attached.add(name)
        return name
