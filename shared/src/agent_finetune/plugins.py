"""The plugin manager, behind typed functions; nobody else touches pluggy.

Plugins are found through the entry-point group `agent_finetune`. The kernel's own answers
(`agent_finetune.defaults`) come through the same door and are asked last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from operator import itemgetter
from typing import Any, cast

import pluggy

from agent_finetune import hookspecs
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import (
    Batch,
    Command,
    Diagnosis,
    Engine,
    EngineConfig,
    LoadedModel,
    Reading,
    ResolvedModel,
    Settings,
    Source,
    TrainJob,
    TrainResult,
)
from agent_finetune.errors import ConfigError, DataError, ModelError, PluginError
from agent_finetune.records import Tokens

_USUAL = (ImportError, AttributeError, ValueError, pluggy.PluginValidationError)
"""What a plugin that does not load raises, as a rule; it says enough without its type."""


@cache
def _manager() -> pluggy.PluginManager:
    manager, failures = _registered()
    for failure in failures.values():
        raise failure
    return manager


@cache
def _registered() -> tuple[pluggy.PluginManager, dict[str, PluginError]]:
    """The plugins that load, and by name why the others do not."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    failures = {}
    # Not pluggy's own loader: its errors do not say which plugin it was. Sorted, so that who is
    # asked before whom does not hang on the order of installation.
    for entry in sorted(entry_points(group=hookspecs.PROJECT)):
        try:
            manager.register(entry.load(), entry.name)
            manager.check_pending()
        except Exception as error:  # a stranger's module may raise anything; whose it is, matters
            if manager.has_plugin(entry.name):
                manager.unregister(name=entry.name)
            said = str(error) if isinstance(error, _USUAL) else f"{type(error).__name__}: {error}"
            failure = PluginError(
                f"plugin {entry.name!r} ({entry.value}) does not load: {said}; uninstall or "
                "update it"
            )
            failure.__cause__ = error
            failures[entry.name] = failure
    return manager, failures


def plugin_hooks() -> dict[str, tuple[str, ...]]:
    """Who answers what: plugin name to the hooks it implements, in the order they are asked."""
    manager = _manager()
    order = list(vars(hookspecs))
    found = []
    for name, plugin in reversed(manager.list_name_plugin()):
        callers = manager.get_hookcallers(plugin) or []
        marks = [i for c in callers for i in c.get_hookimpls() if i.plugin is plugin]
        hooks = tuple(sorted((caller.name for caller in callers), key=order.index))
        last = all(mark.trylast for mark in marks)
        found.append((last, not any(mark.tryfirst for mark in marks), name, hooks))
    found.sort(key=itemgetter(0, 1))
    return {name: hooks for _, _, name, hooks in found}


@contextmanager
def registered(plugin: object, name: str) -> Iterator[None]:
    """Hold a plugin registered for the length of a block, as tests and notebooks need.

    Raises:
        PluginError: It implements a hook that does not exist, or with a wrong argument.
    """
    manager = _manager()
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        raise PluginError(f"plugin {name!r}: {error}") from error
    try:
        yield
    finally:
        manager.unregister(name=name)


def resolve_model(name: str, revision: str | None, settings: Settings) -> ResolvedModel:
    """Turn a model's name into a place to load from.

    Raises:
        ModelError: No plugin knows the name, or it cannot be had.
    """
    answer = _manager().hook.finetune_resolve_model(name=name, revision=revision, settings=settings)
    if answer is None:
        raise ModelError(f"no plugin can resolve the model {name!r}")
    return cast("ResolvedModel", answer)


def load_model(config: ModelConfig, settings: Settings) -> LoadedModel:
    """Load weights and tokenizer of `config.model`.

    Raises:
        ModelError: It cannot be found, is not a model, or this device cannot hold it so.
    """
    resolved = resolve_model(config.model, config.revision, settings)
    answer = _manager().hook.finetune_load_model(
        config=config, resolved=resolved, settings=settings
    )
    if answer is None:
        raise ModelError(f"no plugin can load the model {config.model!r}")
    return cast("LoadedModel", answer)


def read_examples(source: Source, format: str) -> Reading:
    """Find the reader of a source.

    Raises:
        DataError: No reader knows the format, or none recognises the rows.
    """
    answer = _manager().hook.finetune_read_examples(source=source, format=format)
    if answer is None:
        raise DataError(f"{source.name}: no reader knows format {format!r}")
    return cast("Reading", answer)


def collate_batch(rows: Sequence[Tokens], *, pad_id: int, packed: bool) -> Batch:
    """Make one batch of rows."""
    answer = _manager().hook.finetune_collate_batch(rows=rows, pad_id=pad_id, packed=packed)
    return cast("Batch", answer)


def train_adapter(job: TrainJob) -> TrainResult:
    """Train, and write what the run leaves behind."""
    return cast("TrainResult", _manager().hook.finetune_train_adapter(job=job))


def open_engine(config: EngineConfig, settings: Settings) -> Engine:
    """Open a live engine: a light handle, whose model is loaded when it is first needed."""
    return cast("Engine", _manager().hook.finetune_open_engine(config=config, settings=settings))


def connect_host(host: str, agent: object, engine: Engine) -> object:
    """Put an engine behind a live agent.

    Raises:
        ConfigError: No installed plugin knows the host.
    """
    answer = _manager().hook.finetune_connect_host(host=host, agent=agent, engine=engine)
    if answer is None:
        known = ", ".join(name for name in plugin_hooks() if name != "kernel") or "none"
        raise ConfigError(f"no plugin connects host {host!r}; installed plugins are {known}")
    return cast("object", answer)


def redact_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Pass a record through every plugin's redaction, in turn, each seeing what the last left."""
    manager = _manager()
    for name, _ in manager.list_name_plugin():
        others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
        caller = manager.subset_hook_caller("finetune_redact_record", others)
        for cleaned in caller(record=record):
            record = cleaned
    return record


def commands() -> tuple[Command, ...]:
    """The verbs that plugins add to `agent-finetune`.

    Raises:
        PluginError: Two plugins add the same verb.
    """
    found: dict[str, Command] = {}
    for answer in _manager().hook.finetune_add_commands():
        for command in answer:
            if command.name in found:
                raise PluginError(f"two plugins add the command {command.name!r}")
            found[command.name] = command
    return tuple(found.values())


def failures() -> Mapping[str, PluginError]:
    """Plugins that do not load, by name, each with the error that every other function raises."""
    return _registered()[1]


def diagnose(settings: Settings) -> Mapping[str, Diagnosis | Exception]:
    """What each plugin that loads says of itself and its host, or the error that it raised.

    Plugins that do not answer are left out; those that do not load are in `failures`.
    """
    manager, _ = _registered()
    found: dict[str, Diagnosis | Exception] = {}
    for name, _plugin in manager.list_name_plugin():
        others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
        caller = manager.subset_hook_caller("finetune_diagnose", others)
        try:
            found.update((name, answer) for answer in caller(settings=settings))
        except Exception as error:  # the doctor tells it, and goes on with the next plugin
            found[name] = error
    return found
