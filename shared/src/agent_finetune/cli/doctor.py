"""The verb `doctor`: what is here, and what of it would not work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from agent_finetune.cli.options import NO_OUTPUT, RESULT, OutputFlags
from agent_finetune.cli.table import table
from agent_finetune.contracts import Finding, Settings
from agent_finetune.errors import FinetuneError
from agent_finetune.settings import Sources, read_settings, sources

if TYPE_CHECKING:
    from agent_finetune.doctor import Report
    from agent_finetune.doctor.device import Gpu
    from agent_finetune.doctor.packages import Package

SHOWN = frozenset(
    (
        *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors"),
        *("tokenizers", "huggingface-hub", "bitsandbytes", "gguf", "deepspeed"),
    )
)
"""Packages that have a line of their own even where all is well with them."""


def doctor(
    *,
    out: Annotated[Path, Parameter(group=RESULT)] = Path("runs"),
    imports: Annotated[bool, Parameter(group=RESULT, negative_bool=())] = False,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Say what is installed, what this machine has, and what would not work and why.

    Exit code 0 where nothing is broken, 1 where something that is installed would not work.

    Args:
        out: The folder that a run would be written into.
        imports: Import every library and host too, each in a process of its own: slower, and what
            metadata does not show is found.
    """
    from agent_finetune.doctor import examine

    settings = Settings()
    found: Sources = [{}]
    refused = []
    try:
        found = sources()
        settings = read_settings()
    except FinetuneError as error:  # every other verb ends here; this one tells it with the rest
        refused.append(
            Finding(
                what="every verb refuses this environment",
                why=str(error),
                mend="correct the value, in the environment or in .env",
                broken=True,
            )
        )
    report = examine(settings, found, out=out, import_all=imports, refused=refused)
    output.answer({"works": report.works, **asdict(report)}, as_text(report))
    return 0 if report.works else 1


def as_text(report: Report) -> str:
    """The report for people: tables, and then what is to be done."""
    return "\n\n".join(_sections(report))


def _sections(report: Report) -> Iterator[str]:
    yield _machine(report)
    yield _packages(report)
    yield table(
        ("FOLDER", "SIZE", "FREE", "PATH"),
        [
            (
                place.title,
                "not there yet" if place.bytes is None else _size(place.bytes, place.whole),
                _size(place.free),
                place.path,
            )
            for place in report.places
        ],
        empty="",
    )
    if report.modules:
        yield table(
            ("MODULE", "OWNER", "PATH"),
            [
                (module.name, ", ".join(module.owners) or None, module.location or "not installed")
                for module in report.modules
            ],
            empty="",
        )
    for title, facts in report.plugins.items():
        yield "\n".join([title, *(f"  {name}: {value}" for name, value in facts.items())])
    if report.imports:
        yield table(
            ("IMPORTED", "SECONDS", "RESULT"),
            [
                (each.name, f"{each.seconds:.1f}", each.failure or "works")
                for each in report.imports
            ],
            empty="",
        )
    yield "\n".join(
        ["Environment", *(f"  {name}: {value}" for name, value in report.environment.items())]
    )
    yield _findings(report)


def _machine(report: Report) -> str:
    here, torch = report.machine, report.torch
    rows = [
        ("Python", report.python),
        ("processor", f"{here.processor}, {here.cores} cores, {' '.join(here.flags) or 'no AVX2'}"),
        ("memory", f"{_size(here.free)} free of {_size(here.memory)}"),
    ]
    if here.driver is not None:
        rows.append(("NVIDIA driver", here.driver))
    if torch is None:
        rows.append(("torch", "cannot be used"))
    else:
        rows += [
            ("torch", f"{torch.version}, built for {torch.build}"),
            *((f"GPU {number}", _gpu(gpu)) for number, gpu in enumerate(torch.gpus)),
            ("auto means", f"device {torch.device}, dtype {torch.dtype}"),
            ("attention", torch.attention),
        ]
    return table(("MACHINE", ""), rows, empty="")


def _gpu(gpu: Gpu) -> str:
    free = "unknown" if gpu.free is None else _size(gpu.free)
    return f"{gpu.name}, {free} free of {_size(gpu.total)}, capability {gpu.capability}"


def _packages(report: Report) -> str:
    shown = [
        package
        for package in report.packages
        if not package.wanted or package.name in SHOWN or not package.fits
    ]
    rows = [
        (
            package.name,
            package.version or "not installed",
            " or ".join(package.wanted) or None,
            package.extra,
            _state(package),
        )
        for package in shown
    ]
    rest = sum(package.version is not None for package in report.packages) - sum(
        package.version is not None for package in shown
    )
    lines = table(("PACKAGE", "VERSION", "RANGE", "EXTRA", ""), rows, empty="")
    return f"{lines}\nand {rest} more that are within their ranges"


def _state(package: Package) -> str:
    if not package.fits:
        return "outside"
    return "editable" if package.editable else ""


def _size(count: int, whole: bool = True) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    told = f"{size:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
    return told if whole else f"over {told}"


def _findings(report: Report) -> str:
    if not report.findings:
        return "Nothing is broken."
    lines = []
    for finding in report.findings:
        lines += [
            f"{'BROKEN' if finding.broken else 'note'}: {finding.what}",
            f"  why: {finding.why}",
            f"  mend: {finding.mend}",
        ]
    broken = sum(finding.broken for finding in report.findings)
    lines.append(f"{broken} broken" if broken else "Nothing is broken.")
    return "\n".join(lines)
