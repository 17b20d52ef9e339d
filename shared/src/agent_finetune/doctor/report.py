"""All of it put together."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from agent_finetune import plugins
from agent_finetune.contracts import Diagnosis, Finding, Settings
from agent_finetune.doctor import compilers, device, environment, modules, packages, places, probe
from agent_finetune.doctor.device import Machine, Torch
from agent_finetune.doctor.modules import Module, Overlap
from agent_finetune.doctor.packages import Package
from agent_finetune.doctor.places import Place
from agent_finetune.doctor.probe import Outcome
from agent_finetune.settings import Sources

LIBRARIES = ("transformers", "peft", "trl.trainer.sft_trainer", "datasets", "accelerate")
"""What training imports, in the order in which it is tried."""
OPTIONAL = ("bitsandbytes", "gguf", "deepspeed")
_PATIENCE = 300.0
"""Seconds to wait for what is imported in one process; a cold disk takes its time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that was found."""

    python: str
    packages: tuple[Package, ...]
    torch: Torch | None
    """None where it cannot be used."""
    machine: Machine
    places: tuple[Place, ...]
    modules: tuple[Module, ...]
    overlaps: tuple[Overlap, ...]
    imports: tuple[Outcome, ...]
    """Of each library and host, where they were asked for."""
    plugins: Mapping[str, Mapping[str, str]]
    """What each plugin says of its host, by the host's title."""
    environment: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether nothing that is installed is broken."""
        return not any(finding.broken for finding in self.findings)


def examine(
    settings: Settings,
    sources: Sources,
    *,
    out: Path,
    import_all: bool = False,
    refused: Sequence[Finding] = (),
) -> Report:
    """Look at everything. Takes seconds; with `import_all` up to minutes.

    Args:
        settings: Where our cache is.
        sources: The environment and `.env`, of `settings.sources`.
        out: The folder that a run would be written into.
        import_all: Import each library and each host too, in processes of their own.
        refused: What was found before, while the settings were read.
    """
    there = packages.installed()
    diagnoses, broken_plugins = _ask_plugins(settings)
    listed = packages.packages(there)
    speaks_for = {canonicalize_name(each) for found in diagnoses for each in found.speaks_for}
    here = device.machine()
    torch = device.ask_torch()
    claimed = modules.claims(there)
    hosts = tuple(
        modules.examine(name, claimed, there) for found in diagnoses for name in found.modules
    )
    overlapping = modules.overlaps(claimed, {*packages.needed(there), *speaks_for})
    found_places = tuple(_places(settings, out, diagnoses))
    imported = tuple(_imports(there, hosts)) if import_all and torch.answer else ()
    findings = [
        *refused,
        *device.findings(here, torch, sources[0].get(environment.VISIBLE)),
        *packages.findings(there, listed, frozenset(speaks_for)),
        *broken_plugins,
        *modules.findings(hosts, overlapping),
        *(_not_imported(outcome) for outcome in imported if outcome.failure is not None),
        *(finding for found in diagnoses for finding in found.findings),
        *compilers.findings(there),
        *places.findings(found_places),
    ]
    return Report(
        python=f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        packages=listed,
        torch=torch.answer,
        machine=here,
        places=found_places,
        modules=hosts,
        overlaps=overlapping,
        imports=imported,
        plugins={found.title: found.facts for found in diagnoses},
        environment=environment.switches(sources, logged_in=places.logged_in()),
        findings=tuple(sorted(findings, key=lambda finding: not finding.broken)),
    )


def _ask_plugins(settings: Settings) -> tuple[list[Diagnosis], list[Finding]]:
    diagnoses: list[Diagnosis] = []
    broken = [
        Finding(
            what=str(error).partition("; ")[0],
            why="every verb of agent-finetune but this one asks the plugins, and ends there",
            mend="update its distribution, or pip uninstall it",
            broken=True,
        )
        for error in plugins.failures().values()
    ]
    for name, answer in plugins.diagnose(settings).items():
        if isinstance(answer, Diagnosis):
            diagnoses.append(answer)
        else:
            broken.append(
                Finding(
                    what=f"plugin {name!r} cannot say what works",
                    why=f"{type(answer).__name__}: {answer}",
                    mend="what is found below may be the reason; else tell its authors",
                    broken=True,
                )
            )
    return diagnoses, broken


def _places(settings: Settings, out: Path, diagnoses: Sequence[Diagnosis]) -> Iterator[Place]:
    yield places.examine("runs", out)
    yield places.examine("our cache", settings.cache_dir)
    hub = places.hub_cache()
    if hub is not None:
        yield places.examine("hub cache", hub)
    for found in diagnoses:
        for title, path in found.caches.items():
            yield places.examine(title, path)


def _imports(there: packages.There, hosts: Sequence[Module]) -> Iterator[Outcome]:
    names = [*LIBRARIES, *(name for name in OPTIONAL if name in there)]
    steps = [(name, probe.Import(name)) for name in names]
    yield from probe.run(steps, seconds=_PATIENCE)
    for host in hosts:
        if host.location is not None:
            yield from probe.run([(host.name, probe.Import(host.name))], seconds=_PATIENCE)


def _not_imported(outcome: Outcome) -> Finding:
    return Finding(
        what=f"{outcome.name} cannot be imported",
        why=str(outcome.failure),
        mend=f"pip install --force-reinstall --no-deps {outcome.name.partition('.')[0]}",
        broken=True,
    )
