"""What the verbs have in common: flags made of the config classes, and the TOML file under them."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, Group, Parameter
from cyclopts.config import Dict

from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.errors import ConfigError

RUN_KEYS = frozenset(
    spec.name
    for config in (ModelConfig, DataConfig, AdapterConfig, TrainConfig, RunConfig)
    for spec in fields(config)
) - {"lora", "train"}
"""Everything a run file may set. All verbs read the same file, each what concerns it."""

MODEL, DATA, ADAPTER, TRAIN, RESULT, OUTPUT = (
    Group(name, sort_key=place)
    for place, name in enumerate(("Model", "Data", "Adapter", "Training", "Result", "Output"))
)

# One flag for each field, of the field's name; the string under the field is its help.
ModelFlags = Annotated[ModelConfig, Parameter(name="*", group=MODEL)]
DataFlags = Annotated[DataConfig, Parameter(name="*", group=DATA)]
AdapterFlags = Annotated[AdapterConfig, Parameter(name="*", group=ADAPTER)]
TrainFlags = Annotated[TrainConfig, Parameter(name="*", group=TRAIN)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """How a verb takes its settings and gives its answer."""

    config: Path | None = None
    """TOML file with flags of the same names; a flag given here wins over the file."""
    json: bool = False
    """Print the result as one JSON object on stdout."""

    def answer(self, values: Mapping[str, Any], text: str) -> int:
        """Print the result, for a program or for a person; answer exit code 0."""
        print(json.dumps(values, ensure_ascii=False, default=str) if self.json else text)
        return 0


OutputFlags = Annotated[Output, Parameter(name="*", group=OUTPUT, negative_bool=())]
NO_OUTPUT = Output()


def log(line: str) -> None:
    """Tell the user what happens, on stderr."""
    print(line, file=sys.stderr, flush=True)


def read_run_file(path: Path, own_keys: frozenset[str]) -> dict[str, Any]:
    """Read a flat TOML file of flags; dashes and underscores are the same.

    Args:
        path: The file.
        own_keys: Keys of the verb at hand; what a run file sets for other verbs is left out.

    Raises:
        ConfigError: The file cannot be read, or has a key that no verb knows.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no TOML, too many digits
        raise ConfigError(f"{path}: {error}") from error
    values = {key.replace("-", "_"): value for key, value in content.items()}
    known = RUN_KEYS | own_keys
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{path}: unknown key {key!r:.200}; keys are {', '.join(sorted(known))}"
            )
    return {key: value for key, value in values.items() if key in own_keys}


def apply_run_file(app: App, verbs: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Put the values of `--config FILE` under those given as flags. Called by cyclopts."""
    given = arguments.get("--config", None)
    if given is None or not given.tokens:
        return
    path = Path(given.tokens[-1].value)
    # `--planner.epochs` is the key epochs of the table planner.
    flags = (argument.name.removeprefix("--").partition(".")[0] for argument in arguments)
    names = {flag.replace("-", "_") for flag in flags}
    values = read_run_file(path, frozenset(names - {"*", "config"}))
    Dict(values, source=str(path), use_commands_as_keys=False)(app, verbs, arguments)
