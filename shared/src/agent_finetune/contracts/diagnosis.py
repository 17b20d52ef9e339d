"""What `agent-finetune doctor` is told by a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that does not work, or not as one may expect. No secret stands in it."""

    what: str
    """What does not work, in one line."""
    why: str
    mend: str
    """The command or the change that mends it."""
    broken: bool
    """Whether something that is installed would not work; else it is good to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What a plugin says of itself and its host, without importing the host."""

    title: str
    """Name of the host."""
    modules: tuple[str, ...] = ()
    """Top-level modules of the host; the doctor says who owns each, and where owners overlap."""
    speaks_for: tuple[str, ...] = ()
    """Distributions whose versions the plugin judges itself, as where an extra's range is not all
    that works."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What holds here, by name."""
    caches: Mapping[str, Path] = field(default_factory=dict)
    """Folders that the host fills, by name; the doctor measures them."""
    findings: tuple[Finding, ...] = ()
