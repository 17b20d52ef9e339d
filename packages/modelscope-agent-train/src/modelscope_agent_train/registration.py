"""What ModelScope finds under which name, put there and taken away again.

ModelScope looks a name up in its AST index first, imports the module that the index names, and then
expects the class in a registry. So a name costs one entry in the index until somebody builds it.
The entries are made when ModelScope itself is imported: importing this package imports neither
ModelScope (a second and a half, with torch) nor torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_INDEX_MODULE = "modelscope.utils.import_utils"
"""Where ModelScope holds its index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One name in one of ModelScope's registries, and the class of ours that it stands for."""

    registry: str
    """Name of the registry's object, also the first part of the index's key."""
    holder: str
    """Module that the registry's object is in."""
    group: str
    name: str
    module: str
    """Module of ours; it calls `loaded` when it has been imported."""
    cls: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Of ModelScope's index."""
        return (self.registry, self.group, self.name)


def _entry(registry: str, name: str, place: str, group: str = "default") -> Entry:
    holders = {
        "TRAINERS": "modelscope.trainers.builder",
        "HOOKS": "modelscope.trainers.hooks.builder",
        "METRICS": "modelscope.metrics.builder",
        "PREPROCESSORS": "modelscope.preprocessors.builder",
        "CUSTOM_DATASETS": "modelscope.msdatasets.dataset_cls.custom_datasets.builder",
    }
    module, _, cls = place.partition(":")
    return Entry(
        registry=registry,
        holder=holders[registry],
        group=group,
        name=name,
        module=f"modelscope_agent_train.{module}",
        cls=cls,
    )


NEW = (
    _entry("TRAINERS", "agent-sft", "native.trainer:AgentTrainer"),
    _entry("HOOKS", "AgentDeepspeedHook", "repair.deepspeed_hook:DeepspeedHook"),
    _entry("METRICS", "agent-ppl", "metrics:PerplexityMetric"),
    _entry("METRICS", "agent-tool-metric", "metrics:ToolMetric"),
    _entry("PREPROCESSORS", "msagent-preprocessor", "preprocessor:AgentPreprocessor", "nlp"),
    _entry("CUSTOM_DATASETS", "agent-sft", "native.data:AgentDataset", "chat"),
    _entry("CUSTOM_DATASETS", "agent-sft", "native.data:AgentDataset", "text-generation"),
)
"""Names that ModelScope does not have."""

REPAIRED = (
    _entry("TRAINERS", "trainer", "repair.trainer:RepairedTrainer"),
    _entry("HOOKS", "DeepspeedHook", "repair.deepspeed_hook:DeepspeedHook"),
    _entry("METRICS", "ppl", "metrics:StockPerplexity"),
)
"""Names of ModelScope's own that `register(repair_stock=True)` takes over."""

_MISSING = object()
_active: list[Entry] = []
_index_before: dict[tuple[str, str, str], Any] = {}
_classes_before: dict[tuple[str, str, str], Any] = {}


def register(*, repair_stock: bool = False) -> None:
    """Give ModelScope our names; twice is once.

    Args:
        repair_stock: Take over the names `trainer`, `DeepspeedHook` and `ppl` as well, so that
            ModelScope's own trainer does what it promises. `unregister` gives them back.
    """
    for entry in (*NEW, *(REPAIRED if repair_stock else ())):
        if entry not in _active:
            _active.append(entry)
    if _INDEX_MODULE in sys.modules:
        _enter()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def unregister() -> None:
    """Put ModelScope's index and registries back as they were; twice is once."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Waiting)]
    if _INDEX_MODULE in sys.modules:
        index = _index()
        for entry in _active:
            _put_back(index, entry.key, _index_before.pop(entry.key, _MISSING))
            if entry.key in _classes_before:
                _put_back(_group(entry), entry.name, _classes_before.pop(entry.key))
    _active.clear()


def loaded(module: str) -> None:
    """Put the classes of a module of ours into ModelScope's registries, where they are wanted."""
    for entry in _active:
        if entry.module == module:
            _fill(entry, sys.modules[module])


def _enter() -> None:
    index = _index()
    for entry in _active:
        if entry.key not in _index_before:
            _index_before[entry.key] = index.get(entry.key, _MISSING)
        ours = sys.modules.get(entry.module)
        index[entry.key] = {"filepath": "", "imports": [], "module": entry.module}
        if ours is not None and hasattr(ours, entry.cls):  # else `loaded` is yet to come
            _fill(entry, ours)


def _fill(entry: Entry, module: ModuleType) -> None:
    group = _group(entry)
    if entry.key not in _classes_before:
        _classes_before[entry.key] = group.get(entry.name, _MISSING)
    group[entry.name] = getattr(module, entry.cls)


def _index() -> dict[tuple[str, str, str], Any]:
    from modelscope.utils.ast_utils import INDEX_KEY
    from modelscope.utils.import_utils import LazyImportModule

    index: dict[tuple[str, str, str], Any] = LazyImportModule.get_ast_index()[INDEX_KEY]
    return index


def _group(entry: Entry) -> dict[str, Any]:
    """The names of a registry's group; a registry refuses a name it has, and cannot forget one."""
    registry = getattr(importlib.import_module(entry.holder), entry.registry)
    group: dict[str, Any] = registry.modules.setdefault(entry.group, {})
    return group


def _put_back(names: dict[Any, Any], name: Any, before: Any) -> None:
    if before is _MISSING:
        names.pop(name, None)
    else:
        names[name] = before


class _Waiting(MetaPathFinder):
    """Sees ModelScope being imported, makes the entries when it is, and is gone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _INDEX_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Entering(spec.loader)
        return spec


class _Entering(Loader):
    """A module's own loader, and our entries after it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _enter()
