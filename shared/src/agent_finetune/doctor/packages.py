"""Distributions: which there are, and whether they are what our metadata and theirs ask for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions, entry_points
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from agent_finetune.contracts import Finding
from agent_finetune.hookspecs import PROJECT

KERNEL = "agent-finetune"


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """A distribution that is installed; `importlib.metadata` parses anew at every question."""

    name: str
    version: str
    extras: tuple[str, ...]
    requires: tuple[Requirement, ...]
    root: Path
    """The folder of packages that it lies in, links resolved."""
    record: str
    """Its list of files, CSV lines of path, digest and size; empty where there is none."""
    source: Path | None
    """The source folder of an editable installation; None for any other."""

    @property
    def called(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


There: TypeAlias = Mapping[str, Installed]
"""Distributions by canonical name; of two of one name, the one that Python finds first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A distribution that we ask for, or one of ours."""

    name: str
    version: str | None
    """None where it is not installed."""
    wanted: tuple[str, ...]
    """Ranges that our packages ask for; of several, which only extras have, one is enough."""
    extra: str | None
    """The extra that asks for it; None where it is always needed, and for ours."""
    fits: bool
    """Whether it is within its range; for what an extra asks for, also where it is missing."""
    editable: bool


def installed() -> There:
    """What is installed on Python's path."""
    found: dict[str, Installed] = {}
    for each in distributions():
        metadata = each.metadata
        if "Name" not in metadata or "Version" not in metadata:
            continue  # what an interrupted uninstall leaves
        name, version = metadata["Name"], metadata["Version"]
        if canonicalize_name(name) not in found:
            found[canonicalize_name(name)] = Installed(
                name=name,
                version=version,
                extras=tuple(metadata.get_all("Provides-Extra") or ()),
                requires=tuple(_parsed(each.requires or ())),
                root=Path(str(each.locate_file(""))).resolve(),
                record=each.read_text("RECORD") or "",
                source=_source(each),
            )
    return found


def _parsed(lines: Iterable[str]) -> Iterator[Requirement]:
    for line in lines:
        with suppress(InvalidRequirement):  # old packages have lines that pip refuses today
            yield Requirement(line)


def _source(distribution: Distribution) -> Path | None:
    text = distribution.read_text("direct_url.json")
    origin = json.loads(text) if text else {}
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(origin["url"]).path))


def ours(there: There) -> tuple[str, ...]:
    """The kernel and the distributions of its plugins, by canonical name, the kernel first."""
    plugins = {
        canonicalize_name(entry.dist.name)
        for entry in entry_points(group=PROJECT)
        if entry.dist is not None
    }
    return tuple(name for name in (KERNEL, *sorted(plugins - {KERNEL})) if name in there)


def packages(there: There) -> tuple[Package, ...]:
    """Ours, then all that they ask for, in the order in which they ask."""
    own = ours(there)
    asked: dict[str, list[tuple[Requirement, str | None]]] = {}
    for name in own:
        for requirement, extra in _requirements(there[name], there[name].extras):
            asked.setdefault(canonicalize_name(requirement.name), []).append((requirement, extra))
    found = [_own(there[name]) for name in own]
    return (*found, *(_wanted(name, asked[name], there) for name in asked if name not in own))


def _own(distribution: Installed) -> Package:
    return Package(
        name=distribution.name,
        version=distribution.version,
        wanted=(),
        extra=None,
        fits=True,
        editable=distribution.source is not None,
    )


def _wanted(name: str, asked: Iterable[tuple[Requirement, str | None]], there: There) -> Package:
    always = [requirement for requirement, extra in asked if extra is None]
    optional = [requirement for requirement, extra in asked if extra is not None]
    version = there[name].version if name in there else None
    if always:
        fits = version is not None and all(_holds(each, version) for each in always)
    else:
        fits = version is None or any(_holds(each, version) for each in optional)
    extras = [extra for _, extra in asked if extra is not None]
    return Package(
        name=name,
        version=version,
        wanted=_ranges([always] if always else [[each] for each in optional]),
        extra=None if always else extras[0],
        fits=fits,
        editable=name in there and there[name].source is not None,
    )


def _requirements(
    distribution: Installed, extras: Iterable[str] = ()
) -> Iterator[tuple[Requirement, str | None]]:
    """What a distribution always asks for here, and with these extras, each with its extra."""
    for requirement in distribution.requires:
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, None
        else:
            yield from (
                (requirement, extra) for extra in extras if marker.evaluate({"extra": extra})
            )


def _ranges(groups: Iterable[Iterable[Requirement]]) -> tuple[str, ...]:
    """The range that each group makes together, its lower bound first."""
    found = (sorted({str(part) for one in group for part in one.specifier}) for group in groups)
    return tuple(dict.fromkeys(",".join(reversed(parts)) for parts in found))


def _holds(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def needed(there: There) -> dict[str, set[str]]:
    """Canonical names of all that is installed and that our packages need, directly or not.

    With each come the extras that are asked of it. What our own extras ask for is among it, but
    not in its extras: nobody can see whether they were asked for.
    """
    mine = ours(there)
    found = {name: set(there[name].extras) for name in mine}
    queue = list(found)
    while queue:
        name = queue.pop()
        own = name in mine
        for requirement, extra in _requirements(there[name], found[name]):
            other = canonicalize_name(requirement.name)
            extras = set() if own and extra else set(requirement.extras)
            if other in there and not (other in found and extras <= found[other]):
                found[other] = found.get(other, set()) | extras
                queue.append(other)
    return found


def findings(
    there: There, listed: Iterable[Package], left_out: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """What is missing, outside its range, or of another version than a neighbour asks for.

    Args:
        there: What is installed.
        listed: Of `packages`.
        left_out: Canonical names of distributions that a plugin judges itself.
    """
    for package in listed:
        if not package.fits and package.name not in left_out:
            yield _misfit(package)
    asked = {package.name for package in listed}
    mine = ours(there)
    for name, extras in sorted(needed(there).items()):
        if name not in mine:
            yield from _neighbours(there[name], extras, there, asked)


def _misfit(package: Package) -> Finding:
    found = "is not installed" if package.version is None else f"is {package.version}"
    legal = " or ".join(each or "any version" for each in package.wanted)
    what = f"{package.name} {found}; our packages ask for {legal}"
    of = f"the extra {package.extra!r} needs it" if package.extra else "it is always needed"
    return Finding(
        what=what,
        why=of,
        mend=f"pip install '{package.name}{package.wanted[0]}'",
        broken=True,
    )


def _neighbours(
    distribution: Installed, extras: set[str], there: There, asked: set[str]
) -> Iterator[Finding]:
    """Requirements of another's that what is installed does not meet."""
    for requirement, _ in _requirements(distribution, sorted(extras)):
        other = canonicalize_name(requirement.name)
        if other not in there and other not in asked:
            yield Finding(
                what=f"{distribution.called} asks for {requirement.name}, not installed",
                why="it was installed without what it needs, or that was removed since",
                mend=f"pip install '{requirement.name}{requirement.specifier}'",
                broken=True,
            )
        elif other in there and not _holds(requirement, there[other].version):
            yield Finding(
                what=(
                    f"{distribution.called} asks for {requirement.name}"
                    f"{requirement.specifier}, installed is {there[other].version}"
                ),
                why="another package may have wanted it so; it may still work, nobody looked",
                mend=f"pip install '{requirement.name}{requirement.specifier}', then pip check",
                broken=False,
            )
