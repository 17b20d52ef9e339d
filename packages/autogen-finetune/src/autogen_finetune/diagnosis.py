"""What `agent-finetune doctor` is told of AutoGen: which ones are here, and what is in their way.

Nothing of AutoGen is imported: every line is what metadata or a folder says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from agent_finetune.contracts import Diagnosis, Finding
from agent_finetune.doctor import modules, packages
from autogen_finetune.hosts import HOSTS, Host, installed_version, is_proxy

PARTS = ("autogen_agentchat", "autogen_ext")
"""Modules beside those of `HOSTS`."""
DISTRIBUTIONS = ("pyautogen", "autogen", "ag2", "autogen-core", "autogen-agentchat", "autogen-ext")
CACHE = ".cache"
"""Folder in which AutoGen 0.2 to 0.14 keeps answers, one folder for each seed in it."""
CACHING_UNASKED = Version("0.3")
"""Classic AutoGen below this caches with seed 41 where a config says nothing."""
_CLASSIC_AGENT = Path("agentchat", "conversable_agent.py")
"""What every classic AutoGen has, and nothing else that is called so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A generation of AutoGen that is installed."""

    host: Host
    location: Path
    owners: Mapping[str, str]
    """Names of the distributions that brought it, and their versions."""

    @property
    def is_tested(self) -> bool:
        """Whether our tests run on it, or on versions around it."""
        return any(self.host.is_tested(*owner) for owner in self.owners.items())

    @property
    def is_broken(self) -> bool:
        """Whether it is not what its name says."""
        classic = self.host.module == "autogen"
        return classic and not (self.location / _CLASSIC_AGENT).is_file()


def diagnose(folder: Path | None = None) -> Diagnosis:
    """Look at what is installed, and at the cache in a folder; None is the current one."""
    found = _found()
    cached = cached_answers(folder or Path.cwd())
    return Diagnosis(
        title="AutoGen",
        modules=(*HOSTS, *PARTS),
        speaks_for=DISTRIBUTIONS,
        facts=_facts(found, cached),
        findings=tuple(_findings(found, cached)),
    )


def _found() -> list[Found]:
    there = packages.installed()
    claimed = modules.claims(there)
    found = []
    for host in HOSTS.values():
        module = modules.examine(host.module, claimed, there)
        if module.location is not None:
            owners = dict(owner.rsplit(" ", 1) for owner in module.owners)
            found.append(Found(host=host, location=module.location, owners=owners))
    return found


def cached_answers(folder: Path) -> dict[str, int]:
    """Seeds under which classic AutoGen keeps answers in a folder, and how many bytes."""
    return {
        database.parent.name: sum(f.stat().st_size for f in database.parent.rglob("*"))
        for database in sorted((folder / CACHE).glob("*/cache.db"))
    }


def _facts(found: list[Found], cached: Mapping[str, int]) -> dict[str, str]:
    there = {each.host.module: each for each in found}
    facts = {}
    for module, host in HOSTS.items():
        each = there.get(module)
        if each is None:
            facts[host.title] = "not installed"
        elif each.is_broken:
            facts[host.title] = "broken"
        else:
            state = "tested" if each.is_tested else "not tested"
            facts[host.title] = f"{state}; for it: {host.serves}"
    if cached:
        told = ", ".join(f"{seed} ({size} bytes)" for seed, size in cached.items())
        facts["answers cached here"] = f"in {CACHE}, seeds {told}"
    return facts


def _findings(found: list[Found], cached: Mapping[str, int]) -> Iterator[Finding]:
    if not found:
        yield from _nothing()
    for each in found:
        yield from _on(each)
        yield from _unasked(each)
    if cached:
        yield Finding(
            what=f"answers are cached in {CACHE}, seeds {', '.join(cached)}",
            why="HFModelClient renews those that its model would not give any more; those of "
            "other clients outlive an update",
            mend=f"remove the folder {CACHE} after an update, or cache_seed=None",
            broken=False,
        )


def _nothing() -> Iterator[Finding]:
    ways = "; ".join(f"{host.title}: {host.install}" for host in HOSTS.values())
    pyautogen = installed_version("pyautogen")
    if pyautogen is not None and is_proxy("pyautogen", pyautogen):
        yield Finding(
            what=f"pyautogen {pyautogen} brings no module autogen",
            why="it only stands for autogen-agentchat",
            mend="use autogen_finetune.agentchat, or get the classic API in its place: pip "
            'uninstall pyautogen, then pip install "ag2<1"',
            broken=False,
        )
    yield Finding(
        what="no AutoGen is installed", why="no AutoGen needs another", mend=ways, broken=False
    )


def _on(found: Found) -> Iterator[Finding]:
    host = found.host
    if found.is_broken:
        yield Finding(
            what=f"the module {host.module} is not {host.title}",
            why=f"{found.location} has no {_CLASSIC_AGENT}",
            mend=f"{host.install}, once what is there is removed",
            broken=True,
        )
    elif found.owners and not found.is_tested:
        here = ", ".join(f"{name} {version}" for name, version in found.owners.items())
        ranges = ", ".join(f"{name} {spec}" for name, spec in host.tested.items())
        yield Finding(
            what=f"{host.title} is of {here}, and nobody looked whether that works",
            why=f"our tests run on {ranges}",
            mend=host.install,
            broken=False,
        )


def _unasked(found: Found) -> Iterator[Finding]:
    version = next(iter(found.owners.values()), None)
    if found.host.module != "autogen" or version is None or Version(version) >= CACHING_UNASKED:
        return
    yield Finding(
        what=f"classic AutoGen {version} caches answers that nobody asked it to cache",
        why="so it does unless a config says cache_seed=None",
        mend="make configs by llm_config(...) of autogen_finetune, which says it",
        broken=False,
    )
