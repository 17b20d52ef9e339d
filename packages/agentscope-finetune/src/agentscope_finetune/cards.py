"""Cards of models: the well-known small ones, and what lies under the roots of the policy."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from agent_finetune import models
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import FinetuneError
from agent_finetune.models.adapter_folders import ADAPTER_CONFIG, base_of
from agentscope_finetune import policy

if TYPE_CHECKING:
    from agentscope.model import ModelCard

KNOWN = Path(__file__).parent / "_models"
"""Cards of models that are reached by name."""

_LOG = logging.getLogger(__name__)
_DEPTH = 5
"""Folders below a root that are looked into: STORE/NAME/versions/0001/adapter is found."""
_MOST = 2000
"""Folders of a root that are looked into."""
_FRESH = 5.0
"""Seconds for which what was found is answered again: a service asks at each turn of a chat."""
_THINKS = ("enable_thinking", "<think>")
"""What a chat template holds whose model thinks."""


@dataclass(frozen=True, slots=True)
class _Found:
    roots: tuple[Path, ...]
    time: float
    descriptions: tuple[dict[str, Any], ...]


_found = _Found((), 0.0, ())


def local(load: Callable[[str], list[ModelCard]]) -> list[ModelCard]:
    """Cards of checkpoints, adapters, GGUF files and trained runs under the policy's roots.

    The name of a card is a path that `model=` takes. What cannot be described is logged.

    Args:
        load: The host's own reader of a folder of YAML cards.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, description in enumerate(_descriptions()):
            text = yaml.safe_dump(description)
            (Path(folder) / f"{number}.yaml").write_text(text, encoding="utf-8")
        return load(folder)


def _descriptions() -> tuple[dict[str, Any], ...]:
    global _found
    roots = policy.allowed().roots
    now = time.monotonic()
    if _found.roots != roots or now - _found.time > _FRESH:
        paths = dict.fromkeys(path for root in roots for path in _models_in(root))
        made = [_described(path) for path in paths]
        _found = _Found(roots, now, tuple(card for card in made if card is not None))
    return _found.descriptions


def _models_in(root: Path) -> Iterator[Path]:
    """Folders and files that `model=` takes, down to `_DEPTH`; links are not followed."""
    for seen, (place, folders, files) in enumerate(os.walk(root)):
        if seen == _MOST:
            _LOG.warning("%s: more than %d folders; the others are not listed", root, _MOST)
            return
        path = Path(place)
        yield from (path / name for name in sorted(files) if name.endswith(".gguf"))
        if ADAPTER_CONFIG in files or "config.json" in files:
            yield path
            folders.clear()
        deep = len(path.relative_to(root).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if _looked_into(name))


def _looked_into(name: str) -> bool:
    return not name.startswith(".") and name != "checkpoints"


def _described(path: Path) -> dict[str, Any] | None:
    """What a card says of a model; None where it is none that can be had."""
    config = ModelConfig(model=str(path))
    try:
        policy.check(config)
        base = base_of(path)["model"] if (path / ADAPTER_CONFIG).is_file() else None
        context = models.context_length(config, Settings())
    except (FinetuneError, OSError) as error:
        _LOG.warning("%s is not listed: %s", path, error)
        return None
    if context is None:
        _LOG.warning("%s is not listed: nothing there says how long its context is", path)
        return None
    thinks = any(_thinks(Path(place)) for place in (str(path), base) if place is not None)
    return {
        "name": str(path),
        "label": _label(path) + (f" on {Path(str(base)).name}" if base else ""),
        "status": "active",
        "input_types": ["text/plain"],
        "output_types": ["text/plain", *(["application/x-thinking"] if thinks else [])],
        "context_size": context,
        "output_size": context,
    }


def _label(path: Path) -> str:
    """The path below its root; of a trained run, the run's."""
    run = path.parent if (path.parent / "run.json").is_file() else path
    for root in policy.allowed().roots:
        if run.is_relative_to(root) and run != root:
            return run.relative_to(root).as_posix()
    return run.name


def _thinks(folder: Path) -> bool:
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if any(word in text for word in _THINKS):
            return True
    return False
