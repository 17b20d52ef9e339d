"""`adapters`: which versions of an adapter there are, and which one is in use."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cyclopts import App

from agent_finetune.cli.options import NO_OUTPUT, OutputFlags
from agent_finetune.cli.table import table
from agent_finetune.errors import ConfigError
from agent_finetune.versions import VersionInfo, Versions

adapters = App(
    name="adapters",
    help="List, show and change the versions of adapters; running engines follow.",
    version_flags=[],
)


@adapters.command(name="list")
def list_versions(store: Path, name: str | None = None, *, output: OutputFlags = NO_OUTPUT) -> int:
    """List the adapters of a store, or the versions of one of them.

    Args:
        store: Folder of all adapters.
        name: An adapter, to see its versions.
    """
    if name is not None:
        infos = _known(store, name).list()
        text = table(
            ("version", "in use", "created", "trained from", "revision"),
            [_line(info) for info in infos],
            empty=f"{name}: no versions",
        )
        return output.answer({"name": name, "versions": [asdict(info) for info in infos]}, text)
    found = [_summary(Versions(store, name)) for name in Versions.names(store)]
    text = table(
        ("adapter", "in use", "versions"),
        [tuple(item.values()) for item in found],
        empty=f"{store}: no adapters",
    )
    return output.answer({"adapters": found}, text)


@adapters.command
def show(
    store: Path, name: str, number: int | None = None, *, output: OutputFlags = NO_OUTPUT
) -> int:
    """Show all that is known of a version: metrics, and what it was trained on.

    Args:
        store: Folder of all adapters.
        name: The adapter.
        number: The version; the one in use when not given.
    """
    versions = _known(store, name)
    number = versions.current() if number is None else number
    if number is None:
        raise ConfigError(f"{versions.folder}: no version is in use; give a number")
    info = versions.info(number)
    folder = versions.adapter_dir(number)
    used = ", in use" if info.current else ""
    facts = json.dumps(dict(info.facts), indent=2, ensure_ascii=False)
    return output.answer(
        {"name": name, **asdict(info), "adapter": folder},
        f"{name}: version {number}{used}\n{folder}\n{facts}",
    )


@adapters.command
def use(store: Path, name: str, number: int, *, output: OutputFlags = NO_OUTPUT) -> int:
    """Put a version to use.

    Args:
        store: Folder of all adapters.
        name: The adapter.
        number: The version.
    """
    versions = _known(store, name)
    before = versions.current()
    versions.use(number)
    return _changed(output, name, before, number)


@adapters.command
def rollback(store: Path, name: str, *, output: OutputFlags = NO_OUTPUT) -> int:
    """Go back to the version that was in use before; again goes back further.

    Args:
        store: Folder of all adapters.
        name: The adapter.
    """
    versions = _known(store, name)
    before = versions.current()
    return _changed(output, name, before, versions.rollback())


def _known(store: Path, name: str) -> Versions:
    versions = Versions(store, name)
    names = Versions.names(store)
    if name not in names:
        raise ConfigError(f"{store}: no adapter {name!r}; there are {', '.join(names) or 'none'}")
    return versions


def _summary(versions: Versions) -> dict[str, Any]:
    count = len(versions.list())
    return {"name": versions.name, "current": versions.current(), "versions": count}


def _line(info: VersionInfo) -> tuple[object, ...]:
    parent = "base" if info.parent is None else info.parent
    used = "*" if info.current else ""
    return info.number, used, info.created, parent, info.facts.get("revision")


def _changed(output: OutputFlags, name: str, before: int | None, now: int) -> int:
    was = "none was before" if before is None else f"it was {before} before"
    return output.answer(
        {"name": name, "before": before, "current": now}, f"{name}: version {now} is in use, {was}"
    )
