"""`model_configs.json` of AgentScope 2024, its entries of model_type "huggingface"."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, FinetuneError
from agent_finetune.readers.strictjson import decoder, why
from agentscope_finetune.fine_tune_config import FineTuneConfig, read_fine_tune_config
from agentscope_finetune.parameters import REPLY_LENGTH
from agentscope_finetune.values2024 import device, mapping, text, unknown, whole, wrong

if TYPE_CHECKING:
    from agentscope_finetune.model import TransformersChatModel

MODEL_TYPE = "huggingface"
_KEYS = (
    "model_type",
    "config_name",
    "pretrained_model_name_or_path",
    "model_id",
    "local_model_path",
    "max_length",
    "device",
    "data_path",
    "output_dir",
    "fine_tune_config",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One entry of a `model_configs.json`."""

    name: str
    """Its `config_name`."""
    pretrained: str | None
    """`pretrained_model_name_or_path`, or `model_id`."""
    local: str | None
    """`local_model_path`: model, adapter, run or output folder of 2024."""
    device: str
    max_new_tokens: int
    """Most tokens of a reply (`max_length`)."""
    data_path: str | None
    """What 2024 trained on as soon as the model was made."""
    output_dir: str | None
    fine_tune_config: Mapping[str, Any] | None
    """As it stands in the file."""
    asked: FineTuneConfig
    """What `fine_tune_config` says."""

    def model(self, settings: Settings | None = None) -> TransformersChatModel:
        """The chat model that it names. Nothing is loaded, and nothing is trained.

        Only where `local_model_path` is an output folder of 2024 may this take its time; see
        `folders2024.open_folder_2024`.

        Raises:
            ModelError: There is nothing usable at `local_model_path`.
        """
        from agent_finetune.settings import read_settings
        from agentscope_finetune.model import TransformersChatModel
        from agentscope_finetune.runs import find_model

        found = find_model(self.pretrained, self.local, settings or read_settings())
        found = replace(found, **{"device": self.device, **self.asked.model})
        return TransformersChatModel(
            model=found.model,
            adapter=found.adapter,
            revision=found.revision,
            device=found.device,
            dtype=found.dtype,
            quantization=found.quantization,
            parameters=TransformersChatModel.Parameters(max_tokens=self.max_new_tokens),
            settings=settings,
        )


def load_model_configs(
    path: Path | str, *, settings: Settings | None = None
) -> dict[str, TransformersChatModel]:
    """Chat models of a `model_configs.json`, by `config_name`. Nothing is loaded or trained.

    In 2024 an entry with `data_path` was trained when its model was made. A model alone is not
    trained here: an agent is, by `FineTuneAgent(model_config_name=..., model_configs=path)` or by
    `agent.fine_tune(...)`.

    Args:
        path: JSON, a list of entries or one entry.
        settings: Token, cache and offline switch; None reads the environment and `.env`.

    Raises:
        ConfigError: The file cannot be read, or an entry is not legal; file and line are named.
        ModelError: There is nothing usable at a `local_model_path`.
    """
    entries = read_model_configs(path)
    for entry in entries.values():
        if entry.data_path is not None:
            _log.info(
                "%s: data_path of %r is not trained on by a model alone; an agent is fine-tuned",
                path,
                entry.name,
            )
    return {name: entry.model(settings) for name, entry in entries.items()}


def read_model_configs(path: Path | str) -> dict[str, ModelEntry]:
    """Entries of a `model_configs.json`, by `config_name`.

    Raises:
        ConfigError: As `load_model_configs`.
    """
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    found = list(_objects(str(path), content))
    _refuse_others(path, found)
    entries: dict[str, ModelEntry] = {}
    for line, given in found:
        try:
            entry = _entry(given)
            if entry.name in entries:
                raise wrong("config_name", entry.name, "a name that no other entry has")
        except FinetuneError as error:
            name = given.get("config_name")
            raise ConfigError(f"{path}:{line}: entry {name!r}: {error}") from error
        entries[entry.name] = entry
    return entries


def _objects(path: str, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Entries, each with the line on which it begins."""
    try:
        whole_file = json.loads(content)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: {why(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: {why(error)}") from error
    # The file is JSON, so its entries can be walked; the strict decoder then refuses the rest.
    place = content.index("[") + 1 if isinstance(whole_file, list) else 0
    for _ in whole_file if isinstance(whole_file, list) else [whole_file]:
        place += len(content[place:]) - len(content[place:].lstrip(" \t\r\n,"))
        line = content.count("\n", 0, place) + 1
        try:
            value, place = decoder.raw_decode(content, place)
        except ValueError as error:
            raise ConfigError(f"{path}:{line}: in the entry that begins here, {why(error)}") from (
                error
            )
        if not isinstance(value, dict):
            raise ConfigError(f"{path}:{line}: {value!r}; legal is an object per model")
        yield line, value


def _refuse_others(path: Path | str, found: list[tuple[int, Mapping[str, Any]]]) -> None:
    others = [
        f"line {line} {given.get('config_name')!r} ({given.get('model_type')!r})"
        for line, given in found
        if given.get("model_type") != MODEL_TYPE
    ]
    if others:
        raise ConfigError(
            f"{path}: only entries of model_type {MODEL_TYPE!r} are read here, and these are of "
            f"another: {', '.join(others)}; AgentScope 2 makes other providers' models by their "
            "own classes, so take them out of this file"
        )


def _entry(given: Mapping[str, Any]) -> ModelEntry:
    for key in given:
        if key not in _KEYS:
            raise unknown(key, _KEYS, "key of an entry")
    said = {key: value for key, value in given.items() if value is not None}
    if "config_name" not in said:
        raise ConfigError(f"no key 'config_name'; keys are {', '.join(map(repr, given))}")
    names = {
        key: text(key, said[key])
        for key in ("pretrained_model_name_or_path", "model_id", "local_model_path")
        if key in said
    }
    if not names:
        raise ConfigError("names no model; give pretrained_model_name_or_path or local_model_path")
    pretrained = names.get("pretrained_model_name_or_path", names.get("model_id"))
    if names.get("model_id", pretrained) != pretrained:
        raise wrong("model_id", names["model_id"], "left out beside pretrained_model_name_or_path")
    config = said.get("fine_tune_config")
    asked = read_fine_tune_config(None if config is None else mapping("fine_tune_config", config))
    return ModelEntry(
        name=text("config_name", said["config_name"]),
        pretrained=pretrained,
        local=names.get("local_model_path"),
        device=device("device", said.get("device", "auto")),
        max_new_tokens=whole(least=1)(
            "max_length", said.get("max_length", asked.max_new_tokens or REPLY_LENGTH)
        ),
        data_path=text("data_path", said["data_path"]) if "data_path" in said else None,
        output_dir=text("output_dir", said["output_dir"]) if "output_dir" in said else None,
        fine_tune_config=config,
        asked=asked,
    )
