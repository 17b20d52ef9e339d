"""Modules: where each is imported from, who brought it, and files that two have brought."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from packaging.utils import canonicalize_name

from agent_finetune.contracts import Finding
from agent_finetune.doctor.packages import There

Claims: TypeAlias = Mapping[Path, Mapping[str, Mapping[str, str]]]
"""Folder of packages, then file in it, then `name version` of who brought it: the file's digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """A top-level module of a host."""

    name: str
    location: Path | None
    """The folder or file that it would be imported from; None where it is not installed."""
    owners: tuple[str, ...]
    """`name version` of the distributions that brought it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Files that several distributions brought in different words, so that the last one won."""

    module: str
    owners: tuple[str, ...]
    """`name version` of each."""
    files: int
    intact: Mapping[str, int]
    """How many of them are as each owner brought them."""


def location_of(module: str) -> Path | None:
    """What a top-level module would be imported from, found without importing it.

    A folder without code, as an uninstall may leave it behind, is none.
    """
    try:
        spec = find_spec(module)
    except ValueError:  # somebody put a module of that name together by hand
        return None
    if spec is None or spec.origin is None:
        return None
    folders = spec.submodule_search_locations
    return Path(folders[0]) if folders else Path(spec.origin)


def claims(there: There) -> Claims:
    """Who brought which file, read from each distribution's own list."""
    found: dict[Path, dict[str, dict[str, str]]] = {}
    for distribution in there.values():
        root, owner = found.setdefault(distribution.root, {}), distribution.called
        for line in csv.reader(distribution.record.splitlines()):
            if len(line) > 1 and line[1] and not line[0].startswith(("..", "/")):
                root.setdefault(line[0], {})[owner] = line[1]
    return found


def examine(name: str, claimed: Claims, there: There) -> Module:
    """Where a module is, and who brought it there."""
    location = location_of(name)
    owners: set[str] = set()
    if location is not None:
        files = claimed.get(location.parent.resolve(), {})
        mine = [path for path in files if path.split("/", 1)[0] in (name, location.name)]
        owners = set(chain.from_iterable(files[path] for path in mine))
        owners |= {
            each.called
            for each in there.values()
            if each.source is not None and location.resolve().is_relative_to(each.source.resolve())
        }
    return Module(name=name, location=location, owners=tuple(sorted(owners)))


def overlaps(claimed: Claims, watched: Collection[str]) -> tuple[Overlap, ...]:
    """Files that two distributions brought with different contents, by module.

    Args:
        claimed: Who brought what.
        watched: Canonical names of distributions that matter here; others may do as they please.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[Path, Mapping[str, str]]]] = {}
    for root, files in claimed.items():
        for path, brought in files.items():
            if len(set(brought.values())) > 1:  # the same text twice harms nobody
                key = (path.split("/", 1)[0].removesuffix(".py"), tuple(sorted(brought)))
                groups.setdefault(key, []).append((root / path, brought))
    return tuple(
        Overlap(
            module=module,
            owners=owners,
            files=len(files),
            intact={
                owner: sum(_is_intact(path, brought[owner]) for path, brought in files)
                for owner in owners
            },
        )
        for (module, owners), files in sorted(groups.items())
        if any(_canonical(owner) in watched for owner in owners)
    )


def _canonical(owner: str) -> str:
    return canonicalize_name(owner.rpartition(" ")[0])


def _is_intact(path: Path, digest: str) -> bool:
    """Whether a file has the digest that its owner's list says, `algorithm=base64`."""
    algorithm, _, wanted = digest.partition("=")
    if algorithm not in hashlib.algorithms_guaranteed or not path.is_file():
        return False
    found = hashlib.new(algorithm, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(found).decode().rstrip("=") == wanted


def findings(modules: Collection[Module], found: Collection[Overlap]) -> Iterator[Finding]:
    """Modules that no distribution brought, and those that several wrote over each other."""
    for module in modules:
        if module.location is not None and not module.owners:
            yield Finding(
                what=f"the module {module.name} comes from {module.location}",
                why="no installed distribution owns it, and it hides any that would",
                mend=f"rename or remove {module.location}, unless you put it there on purpose",
                broken=False,
            )
    for overlap in found:
        names = [owner.rpartition(" ")[0] for owner in overlap.owners]
        intact = ", ".join(
            f"{count} as {owner} has them" for owner, count in overlap.intact.items()
        )
        yield Finding(
            what=f"{' and '.join(overlap.owners)} overwrote each other's files",
            why=f"{overlap.files} files of {overlap.module} have several owners: {intact}",
            mend=(
                f"pip uninstall {' '.join(names)}, remove the folder {overlap.module} if it stays, "
                "and install the one you want"
            ),
            broken=True,
        )
