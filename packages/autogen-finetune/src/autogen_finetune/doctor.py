"""`agent-finetune doctor`: which AutoGens are installed, and what stands in their way.

Nothing is guessed: every line is what a metadata file, an import or a folder says.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path
from typing import TypeAlias

from packaging.version import Version

from autogen_finetune.hosts import (
    HOSTS,
    Host,
    installed_version,
    is_installed,
    is_proxy,
    location_of,
)

HELP = "Say which AutoGens are installed, and what stands in their way."
CACHE = ".cache"
"""Folder in which AutoGen 0.2 to 0.14 keeps answers, one folder for each seed in it."""
CACHING_UNASKED = Version("0.3")
"""Classic AutoGen below this caches with seed 41 where a config says nothing."""

Claims: TypeAlias = dict[str, dict[tuple[str, str], PackagePath]]
"""Files of a module, each with the names and versions of those that brought it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A distribution that brings a module."""

    name: str
    version: str
    tested: bool
    """Whether our tests run on it, or on versions around it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """A generation of AutoGen, as it is installed here."""

    module: str
    title: str
    installed: bool
    owners: tuple[Owner, ...]
    version: str | None
    """What the module says of itself."""
    failure: str | None
    """Why it cannot be imported, or is not what it should be."""

    @property
    def works(self) -> bool:
        """Whether it is there, is imported, and is one that our tests run on."""
        known = any(owner.tested for owner in self.owners)
        return self.installed and self.failure is None and known


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Files that several distributions brought, so that the last one won."""

    module: str
    owners: tuple[str, ...]
    files: int
    intact: dict[str, int]
    """How many of them are as each distribution brought them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that was found."""

    modules: tuple[Module, ...]
    overlaps: tuple[Overlap, ...]
    cached: dict[str, int]
    """Seeds of answers that classic AutoGen keeps in this folder, each with its bytes."""
    advice: tuple[str, ...]

    @property
    def fine(self) -> bool:
        """Whether an AutoGen works here, and none that is installed is broken."""
        broken = any(found.failure for found in self.modules)
        return any(found.works for found in self.modules) and not broken and not self.overlaps


def main(arguments: Sequence[str]) -> int:
    """Print the report; 0 where all is fine, 1 where something is to be done."""
    parser = argparse.ArgumentParser(prog="agent-finetune doctor", description=HELP)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args(arguments).json
    report = examine()
    if as_json:
        print(json.dumps({"fine": report.fine, **asdict(report)}, indent=2))
    else:
        print(as_text(report))
    return 0 if report.fine else 1


def examine(folder: Path | None = None) -> Report:
    """Look at what is installed, and at the cache in a folder; None is the current one."""
    installed = list(distributions())
    claims = {module: claims_of(module, installed) for module in HOSTS}
    modules = tuple(_module(host, claims[host.module]) for host in HOSTS.values())
    overlaps = tuple(found for module in HOSTS if (found := overlap_of(module, claims[module])))
    cached = cached_answers(folder or Path.cwd())
    return Report(
        modules=modules,
        overlaps=overlaps,
        cached=cached,
        advice=tuple(_advice(modules, overlaps, cached)),
    )


def claims_of(module: str, installed: Iterable[Distribution]) -> Claims:
    """The Python files of a module where it is imported from, each with who brought it."""
    location = location_of(module)
    claims: Claims = defaultdict(dict)
    for distribution in installed:
        if location is None or Path(str(distribution.locate_file(module))) != location:
            continue  # another folder of the path has it too, and is not looked at
        for file in distribution.files or ():
            if file.parts[0] == module and file.suffix == ".py":
                name, version = distribution.metadata["Name"], distribution.version
                claims[str(file)][name, version] = file
    return claims


def _module(host: Host, claims: Claims) -> Module:
    owners = sorted({owner for brought in claims.values() for owner in brought})
    installed = is_installed(host.module)
    version, failure = _imported(host.module) if installed else (None, None)
    return Module(
        module=host.module,
        title=host.title,
        installed=installed,
        owners=tuple(Owner(name=n, version=v, tested=host.is_tested(n, v)) for n, v in owners),
        version=version,
        failure=failure,
    )


def _imported(module: str) -> tuple[str | None, str | None]:
    """What a module says its version is, and why it cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hosts warn while they are imported
            imported = importlib.import_module(module)
    except Exception as error:  # whatever it is, that is what the user is told
        return None, f"the import fails: {type(error).__name__}: {error}"
    members = vars(imported)
    version = members.get("__version__")
    if module == "autogen" and "ConversableAgent" not in members:
        return version, "it has no ConversableAgent, so it is not classic AutoGen"
    return version, None


def overlap_of(module: str, claims: Claims) -> Overlap | None:
    """What several distributions brought; None where each file has one owner."""
    shared = [brought for brought in claims.values() if len(brought) > 1]
    if not shared:
        return None
    owners = sorted({owner for brought in shared for owner in brought})
    intact = {
        f"{name} {version}": sum(
            _is_intact(brought[name, version]) for brought in shared if (name, version) in brought
        )
        for name, version in owners
    }
    return Overlap(module=module, owners=tuple(intact), files=len(shared), intact=intact)


def _is_intact(file: PackagePath) -> bool:
    """Whether a file has the digest that its distribution's RECORD says."""
    path = Path(str(file.locate()))
    if file.hash is None or file.hash.mode != "sha256" or not path.is_file():
        return False
    digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
    return digest.rstrip("=") == file.hash.value


def cached_answers(folder: Path) -> dict[str, int]:
    """Seeds under which classic AutoGen keeps answers in a folder, and how many bytes."""
    return {
        database.parent.name: sum(f.stat().st_size for f in database.parent.rglob("*"))
        for database in sorted((folder / CACHE).glob("*/cache.db"))
    }


def _advice(
    modules: Sequence[Module], overlaps: Sequence[Overlap], cached: dict[str, int]
) -> Iterable[str]:
    classic = next(found for found in modules if found.module == "autogen")
    pyautogen = installed_version("pyautogen")
    if pyautogen is not None and is_proxy("pyautogen", pyautogen) and not classic.installed:
        yield (
            f"pyautogen {pyautogen} only stands for autogen-agentchat. Use "
            "autogen_finetune.agentchat, or get the classic API in its place: "
            'pip uninstall pyautogen, then pip install "ag2<1"'
        )
    if not any(found.installed for found in modules):
        ways = "; ".join(f"{host.title}: {host.install}" for host in HOSTS.values())
        yield f"no AutoGen is installed. {ways}"
    for found in modules:
        yield from _advice_on(found)
    for overlap in overlaps:
        yield (
            f"{' and '.join(overlap.owners)} overwrote each other's files. Uninstall all of them, "
            f"remove the folder {overlap.module} if it stays, and install the one you want"
        )
    if classic.version is not None and Version(classic.version) < CACHING_UNASKED:
        yield (
            f"classic AutoGen {classic.version} caches answers unless a config says "
            "cache_seed=None; llm_config(...) of this package does"
        )
    if cached:
        yield (
            f"answers are cached in ./{CACHE} (seeds {', '.join(cached)}). HFModelClient renews "
            "those that its model would not give any more; those of other clients outlive an update"
        )


def _advice_on(found: Module) -> Iterable[str]:
    if found.installed and found.failure is not None:
        yield f"{found.module}: {found.failure}. Install it again: {HOSTS[found.module].install}"
    elif found.installed and not found.works:
        ranges = ", ".join(f"{name} {spec}" for name, spec in HOSTS[found.module].tested.items())
        yield f"{found.module}: our tests run on {ranges}; this one may work, and nobody looked"


def as_text(report: Report) -> str:
    """The report for people: a line for each module, and then what is to be done."""
    lines = [_line(found) for found in report.modules]
    for overlap in report.overlaps:
        intact = ", ".join(f"{count} as {name} has them" for name, count in overlap.intact.items())
        lines.append(f"{overlap.module}: {overlap.files} files have several owners: {intact}")
    for seed, size in report.cached.items():
        lines.append(f"cache: ./{CACHE}/{seed}, {size} bytes")
    return "\n".join([*lines, *(f"- {each}" for each in report.advice)])


def _line(found: Module) -> str:
    if not found.installed:
        return f"{found.module}: not installed ({found.title})"
    owners = ", ".join(f"{owner.name} {owner.version}" for owner in found.owners)
    state = "works" if found.works else "broken" if found.failure else "not tested"
    serves = f"; for it: {HOSTS[found.module].serves}" if found.works else ""
    return f"{found.module}: {found.title}, {owners or 'of no distribution'}: {state}{serves}"
