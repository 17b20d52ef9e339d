"""The workers of this process: one for each model, number format, quantization and device.

Light until a worker is looked for: whoever makes a handle does not wait for torch.
"""

from __future__ import annotations

import atexit
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Settings
from agent_finetune.models import SHIPPED

if TYPE_CHECKING:
    from agent_finetune.engine.worker import Worker


@dataclass(frozen=True, slots=True)
class Key:
    """What two engines have to agree on to share weights; nothing in it is `auto`."""

    location: str
    file: str | None
    revision: str | None
    dtype: str
    held_as: str
    device: str
    attention: str


_lock = threading.Lock()
_workers: dict[Key, Worker] = {}
_known: dict[ModelConfig, Key] = {}
"""What was typed, to what it turned out to be; finding out may ask a hub."""


def known(config: EngineConfig) -> Worker | None:
    """The worker of a config that was found before, held; None when finding it takes time."""
    with _lock:
        key = _known.get(_typed(config.model))
        if key is None:
            return None
        _workers[key].hold()
        return _workers[key]


def find(config: EngineConfig, settings: Settings) -> Worker:
    """The worker of a config, held; made when there is none, and nothing is loaded yet.

    Raises:
        ModelError: The model's name means nothing, or the device does not exist.
    """
    from agent_finetune.models import hardware
    from agent_finetune.models.quiet import quiet

    with quiet():
        from agent_finetune.engine.worker import Worker

    typed = _typed(config.model)
    resolved = plugins.resolve_model(typed.model, typed.revision, settings)
    device = hardware.pick_device(typed.device)
    key = Key(
        location=resolved.location,
        file=resolved.gguf_file,
        revision=resolved.revision,
        dtype=str(hardware.pick_dtype(typed.dtype, device)),
        held_as=typed.held_as,
        device=str(device),
        attention=typed.attention,
    )
    with _lock:
        if key not in _workers:
            if not _workers:
                atexit.register(close_all)
            _workers[key] = Worker(config, lambda: plugins.load_model(typed, settings))
        _known[typed] = key
        _workers[key].hold()
        return _workers[key]


def close_all() -> None:
    """End every worker, and give their memory back; engines that are still held start them anew."""
    with _lock:
        workers = list(_workers.values())
    for worker in workers:
        worker.close()


def _typed(config: ModelConfig) -> ModelConfig:
    """A config as a key: without the adapter, and with a path that means the same anywhere."""
    path = Path(config.model).expanduser()
    is_path = config.model not in SHIPPED and path.exists()
    name = str(path.resolve()) if is_path else config.model
    return replace(config, model=name, adapter=None)
