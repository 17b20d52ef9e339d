"""What stands beside trained weights, so that others find and load them; and sending them off.

Weights, tokenizer and chat template are in the folder already, in the formats of PEFT and
Transformers. ModelScope asks for configuration.json, and a hub's page shows README.md.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent_finetune import artifacts
from agent_finetune.contracts import Secret
from agent_finetune.errors import ConfigError, ModelError
from modelscope_agent_train import hub_client
from modelscope_agent_train.hub import PREFIX
from modelscope_agent_train.hub_cache import Repo
from modelscope_agent_train.hub_settings import HubSettings, read_hub_settings

CONFIGURATION: Mapping[str, str] = {"framework": "pytorch", "task": "chat"}
"""configuration.json. It names no model type: with one, ModelScope 1.40 loads a copy of a class of
Transformers that it made in 2023, and without it that of Transformers itself."""

_SHOWN = (
    "sft_type",
    "lora_rank",
    "lora_alpha",
    "lora_dropout_p",
    "use_dora",
    "learning_rate",
    "num_train_epochs",
    "batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "dtype",
    "quantization_bit",
    "seed",
)
_SENT = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model", "*.tiktoken", "*.md")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a folder of trained weights says of itself."""

    folder: Path
    base: str
    """Id of the base, or the path of a folder or file."""
    is_adapter: bool
    run: Mapping[str, Any]
    """run.json beside the folder; empty when there is none."""

    @property
    def base_is_local(self) -> bool:
        """Whether the base is named by a path, which means nothing on another machine."""
        return Path(self.base).is_absolute()

    @property
    def base_is_id(self) -> bool:
        """Whether the base is named by an id that any hub may know."""
        return "/" in self.base and not self.base_is_local and ":" not in self.base

    @property
    def base_name(self) -> str:
        """The base as others may know it: no path of this machine."""
        return Path(self.base).name if self.base_is_local else self.base


def write_card_and_configuration(
    folder: Path,
    *,
    arguments: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Put configuration.json and README.md into a folder of trained weights.

    The card names the base, the data by name, the settings and the figures; no path of this
    machine and no secret is in it. What run.json beside the folder knows is taken from there.

    Args:
        folder: An adapter of PEFT or a model of Transformers.
        arguments: Flags of the run, by name.
        metrics: Figures of its evaluation.

    Raises:
        ConfigError: The folder holds neither.
    """
    trained = read_trained(folder)
    artifacts.write_json(folder / "configuration.json", dict(CONFIGURATION))
    artifacts.write_text(folder / "README.md", _card(trained, arguments or {}, metrics or {}))


def read_trained(folder: Path) -> Trained:
    """What lies in a folder of trained weights.

    Raises:
        ConfigError: Neither an adapter nor a model.
    """
    beside = folder.parent / "run.json"
    run = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        return Trained(folder=folder, base=base, is_adapter=True, run=run)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder}: holds neither adapter_config.json nor config.json; give the folder "
            "`adapter` or `model` of a run"
        )
    name = str(run.get("model", {}).get("name", ""))
    path = Path(name).expanduser()
    base = str(path.resolve()) if name and path.exists() else name
    return Trained(folder=folder, base=base, is_adapter=False, run=run)


def check_push(
    hub_model_id: str | None, *, token: Secret | None = None, settings: HubSettings | None = None
) -> HubSettings:
    """Whether a result can be sent at all; asked before a run, not after it.

    Returns:
        The settings, with the token that is used.

    Raises:
        ConfigError: There is no id or no token.
        ModelError: The hub does not answer, or the token is not one of its own.
    """
    place = settings or read_hub_settings()
    place = replace(place, token=token) if token else place
    if not hub_model_id or hub_model_id.count("/") != 1 or not all(hub_model_id.split("/")):
        raise ConfigError(f"hub_model_id is {hub_model_id!r}; legal is an id, owner/name")
    if place.offline:
        raise ConfigError("push_to_hub is on, and AGENT_TRAIN_OFFLINE or HF_HUB_OFFLINE forbids it")
    if not hub_client.has_token(place):
        raise ConfigError(
            "push_to_hub is on, and there is no token; set MODELSCOPE_API_TOKEN in the environment "
            "or in .env"
        )
    _exists(hub_model_id, place)
    return place


def push(
    folder: Path,
    hub_model_id: str,
    *,
    private: bool = True,
    revision: str = "master",
    message: str = "Trained with modelscope-agent-train",
    token: Secret | None = None,
    settings: HubSettings | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Send trained weights to a repository on ModelScope, which is made when there is none.

    Args:
        folder: An adapter or a model, with its card; weights are safetensors.
        hub_model_id: `owner/name`.
        private: How a new repository is made; one that is there stays as it is.
        revision: Branch that gets a commit.
        message: Of the commit.
        token: Instead of the one in the settings.
        settings: Token and site; None reads them.
        say: Told, in a line, what is sent, and what others will miss.

    Returns:
        Address of the repository.

    Raises:
        ConfigError: No id, no token, or no weights in the folder.
        ModelError: The hub refuses, or breaks off.
    """
    trained = read_trained(folder)
    place = check_push(hub_model_id, token=token, settings=settings)
    site = place.sites[0]
    if trained.is_adapter and trained.base_is_local:
        say(
            f"push: the adapter's base is {trained.base}, a path of this machine; whoever loads "
            "the adapter elsewhere has to name the base"
        )
    say(f"push: {folder} to {site}, {hub_model_id}")
    sending = hub_client.told(place, f"{hub_model_id!r} could not be sent to {site}")
    # ModelScope's client prints a report on stdout; what counts of it is raised.
    with sending, hub_client.quiet(), redirect_stdout(io.StringIO()):
        api = hub_client.client(place, site)
        if not _exists(hub_model_id, place):
            api.create_repo(hub_model_id, "model", visibility="private" if private else "public")
        api.upload_folder(
            hub_model_id,
            "model",
            folder,
            commit_message=message,
            revision=revision,
            allow_patterns=list(_SENT),
            use_cache=False,  # it would lie in the folder
            disable_tqdm=True,
        )
    return f"{site}/models/{hub_model_id}"


def _exists(id: str, place: HubSettings) -> bool:
    """Whether the hub has the repository already."""
    try:
        hub_client.revisions(Repo(kind="model", id=id), place.sites[0], place)
    except hub_client.HubError as error:
        if error.why == "absent":
            return False
        raise ModelError(f"{id!r}: {error}") from error
    return True


def _card(trained: Trained, arguments: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    kind = "a LoRA adapter" if trained.is_adapter else "a model"
    name = trained.base_name or "its base"
    parts = [
        _front_matter(trained),
        f"# {name}, trained to call tools\n",
        f"This is {kind} for {name}, trained with modelscope-agent-train. Only the model's own "
        "turns were learned: its tool calls and its answers; tool results, system and user text "
        "were not.\n",
        _facts(trained, arguments),
        _metrics(metrics),
        _loading(trained),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(trained: Trained) -> str:
    """What both hubs read: ModelScope `frameworks` and `tasks`, Hugging Face the rest."""
    lines = ["frameworks:", "- Pytorch", "tasks:", "- text-generation"]
    lines.append(f"library_name: {'peft' if trained.is_adapter else 'transformers'}")
    lines.append("pipeline_tag: text-generation")
    base = trained.base.removeprefix(PREFIX)
    if "/" in base and not trained.base_is_local:
        relation = "adapter" if trained.is_adapter else "finetune"
        lines += ["base_model:", f"- {base}", f"base_model_relation: {relation}"]
    lines += ["tags:", "- agent", "- tool-calling"]
    return "\n".join(["---", *lines, "---", ""])


def _facts(trained: Trained, arguments: Mapping[str, Any]) -> str:
    rows = [("base", trained.base_name)] if trained.base else []
    if (data := _data_names(arguments.get("dataset"))) is not None:
        rows.append(("data", data))
    counts = trained.run.get("data", {}).get("train", {})
    if counts:
        said = f"{counts['examples']} examples, {counts['trained_tokens']} tokens learned"
        rows.append(("learned from", said))
    if trained.run.get("status") == "finished":
        rows.append(("steps", f"{trained.run['steps']}, loss {trained.run['loss']:.4f} at the end"))
    rows += [(key, str(arguments[key])) for key in _SHOWN if arguments.get(key) is not None]
    return _table("Training", rows)


def _data_names(dataset: object) -> str | None:
    """Data by name; of a file only the last part of its path."""
    if not isinstance(dataset, str) or not dataset:
        return None
    names = [name.strip() for name in dataset.split(",")]
    return ", ".join(
        Path(name).name if Path(name.partition("#")[0]).expanduser().exists() else name
        for name in names
    )


def _metrics(metrics: Mapping[str, float]) -> str:
    return _table("Measured on held-out data", [(k, f"{v:.4g}") for k, v in metrics.items()])


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in rows]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _loading(trained: Trained) -> str:
    if trained.is_adapter and trained.base_is_id:
        imports, load = "peft import AutoPeftModelForCausalLM", ""
        model = "AutoPeftModelForCausalLM.from_pretrained(folder)"
    elif trained.is_adapter:
        imports = "peft import PeftModel\nfrom transformers import AutoModelForCausalLM"
        load = f'base = "..."  # the folder where you have {trained.base_name}\n'
        model = "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)"
    else:
        imports, load = "transformers import AutoModelForCausalLM", ""
        model = "AutoModelForCausalLM.from_pretrained(folder)"
    return (
        "## Load it\n\n"
        f"```python\nfrom {imports}\nfrom transformers import AutoTokenizer\n\n"
        'folder = "."  # where this repository was downloaded to\n'
        f"{load}model = {model}\ntokenizer = AutoTokenizer.from_pretrained(folder)\n```\n\n"
        "ModelScope's `AutoModelForCausalLM` and `AutoTokenizer` do the same. The chat template in "
        "the folder is the one it was trained with; give it the tools as "
        "`tokenizer.apply_chat_template(messages, tools=tools)`.\n"
    )
