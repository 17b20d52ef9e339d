"""Models and data sets by name: this disk, ModelScope's cache, its hub, and then Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from agent_finetune import models
from agent_finetune.contracts import ResolvedModel, Settings
from agent_finetune.errors import ConfigError, DataError, FinetuneError, ModelError
from modelscope_agent_train import hub_cache, hub_client
from modelscope_agent_train.hub_cache import DEFAULT_REVISION, Repo
from modelscope_agent_train.hub_client import HubError
from modelscope_agent_train.hub_settings import HubSettings as HubSettings
from modelscope_agent_train.hub_settings import read_hub_settings as read_hub_settings

Hub = Literal["auto", "modelscope", "huggingface", "local"]
"""Where an id is looked up: ModelScope and then Hugging Face, one of them, or this disk alone."""

PREFIX = "modelscope:"
"""Before an id: it is ModelScope's, whatever else is called so."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")


def resolve(
    name: str,
    revision: str | None = None,
    *,
    settings: Settings,
    hub: Hub = "auto",
    local_files_only: bool = False,
    exact: bool = True,
    hf_id: str | None = None,
    trust_remote_code: bool = False,
    hub_settings: HubSettings | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ResolvedModel:
    """Turn a model's name into a place to load from, and fetch what is not here.

    Tried in this order: a folder, file or shipped model, ModelScope's cache, ModelScope's hub, and
    then the cache and the hub of Hugging Face. A model in a cache is taken as it is: its hub is not
    asked whether it has a newer one.

    Args:
        name: `owner/name`, `modelscope:owner/name`, a folder, a GGUF file or a shipped model.
        revision: Branch, tag or commit; None is the newest.
        settings: Hugging Face's token, and whether there is a network.
        hub: Where an id is looked up.
        local_files_only: Ask no hub.
        exact: Off, the revision is a suggestion: without network another one in the cache will do,
            and Hugging Face, whose revisions are others, is asked for its newest.
        hf_id: What Hugging Face calls the model, where it is another name.
        trust_remote_code: Fetch Python files that come with the model, too.
        hub_settings: ModelScope's token, sites and cache; None reads them.
        say: Told, in a line, what is fetched and what is taken instead.

    Returns:
        A folder, or an id that Transformers fetches from Hugging Face.

    Raises:
        ModelError: Nothing of this name, or it cannot be had; each place says why.
        ConfigError: `hub` is none of the legal ones.
    """
    id = _modelscope_id(name, hub)
    if id is None:
        return models.resolve(name, revision, settings)
    if name.startswith(PREFIX):
        hub = "local" if hub == "local" else "modelscope"
    place = hub_settings or read_hub_settings()
    offline = local_files_only or hub == "local" or settings.offline or place.offline
    repo = Repo(kind="model", id=id, revision=revision, code=trust_remote_code)
    tried: list[str] = []
    if hub != "huggingface":
        folder = _of_modelscope(repo, place, tried, offline=offline, exact=exact, say=say)
        if folder is not None:
            return ResolvedModel(name=name, location=str(folder))
        if hub == "modelscope" or name.startswith(PREFIX):
            raise ModelError(_nowhere("model", name, tried))
    at_hf = hf_id or id
    hf_revision = None if not exact or revision == DEFAULT_REVISION else revision
    try:
        found = models.resolve(at_hf, hf_revision, replace(settings, offline=offline))
    except ModelError as error:
        said = str(error).removeprefix(f"model {at_hf!r}: ")
        raise ModelError(_nowhere("model", name, [*tried, f"Hugging Face: {said}"])) from error
    return found


def cached_model(name: str, revision: str | None) -> ResolvedModel | None:
    """A model that lies whole in ModelScope's cache, under its plain id; no hub is asked."""
    if not _ID.fullmatch(name) or Path(name).expanduser().exists():
        return None
    place = read_hub_settings()
    folder = hub_cache.find(Repo(kind="model", id=name, revision=revision), place.cache_dir)
    return None if folder is None else ResolvedModel(name=name, location=str(folder))


def download_dataset(
    name: str,
    revision: str | None = None,
    *,
    settings: Settings,
    hub: Hub = "auto",
    local_files_only: bool = False,
    hub_settings: HubSettings | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """The folder of a data set, fetched when it is not here; looked for as `resolve` does.

    Only json, jsonl, csv and parquet files are fetched: no archives, no pickles, no code.

    Raises:
        DataError: Nothing of this name, or it cannot be had; each place says why.
        ConfigError: `hub` is none of the legal ones.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    id = _modelscope_id(name, hub)
    if id is None:
        raise DataError(f"data set {name!r}: no such folder, and no id of a hub (owner/name)")
    place = hub_settings or read_hub_settings()
    offline = local_files_only or hub == "local" or settings.offline or place.offline
    tried: list[str] = []
    if hub != "huggingface":
        repo = Repo(kind="dataset", id=id, revision=revision)
        folder = _of_modelscope(repo, place, tried, offline=offline, exact=True, say=say)
        if folder is not None:
            return folder
        if hub == "modelscope" or name.startswith(PREFIX):
            raise DataError(_nowhere("data set", name, tried))
    hf_revision = None if revision == DEFAULT_REVISION else revision
    try:
        return _of_hugging_face(id, hf_revision, settings, offline=offline)
    except DataError as error:
        raise DataError(_nowhere("data set", name, [*tried, f"Hugging Face: {error}"])) from error


def _modelscope_id(name: str, hub: str) -> str | None:
    """The id that a name may be on a hub; None when it is something on this disk."""
    if hub not in get_args(Hub):
        raise ConfigError(f"hub is {hub!r}; legal values are {', '.join(get_args(Hub))}")
    id = name.removeprefix(PREFIX)
    if not _ID.fullmatch(id):
        if id != name:
            raise ConfigError(f"{name!r}: after {PREFIX!r} stands an id of ModelScope, owner/name")
        return None
    if id == name and Path(name).expanduser().exists():
        return None
    return id


def _of_modelscope(
    repo: Repo,
    place: HubSettings,
    tried: list[str],
    *,
    offline: bool,
    exact: bool,
    say: Callable[[str], None],
) -> Path | None:
    """The folder, or None with the reason added to `tried`.

    Raises:
        FinetuneError: ModelScope has it and does not give it: no other hub will do.
    """
    here = hub_cache.find(repo, place.cache_dir)
    if here is not None:
        return here
    try:
        if not offline:
            return hub_client.fetch(repo, place, say)
    except HubError as error:
        if error.why == "refused":
            raise _error(repo, f"{repo.kind} {repo.id!r}: {error}") from error
        tried.append(f"ModelScope: {error}")
        if error.why == "absent":
            return None
    if not exact and repo.revision is not None:
        newest = replace(repo, revision=None)
        other = hub_cache.find(newest, place.cache_dir)
        if other is not None:
            say(f"{repo.kind} {repo.id}: revision {repo.revision} is not here, taken is {other}")
            return other
    what = hub_cache.describe(repo, place.cache_dir)
    tried.append(f"ModelScope's cache: {what}" + (" (no hub is asked: offline)" * offline))
    return None


def _of_hugging_face(id: str, revision: str | None, settings: Settings, *, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            id,
            repo_type="dataset",
            revision=revision,
            token=models.hub.token(settings),
            local_files_only=offline,
            allow_patterns=["*.json", "*.jsonl", "*.csv", "*.parquet", "*.md"],
        )
    except LocalEntryNotFoundError as error:
        why = "offline" if offline else "no connection"
        raise DataError(f"not in the cache, and not fetched ({why})") from error
    except (HfHubHTTPError, OSError) as error:
        raise DataError(models.hub.first_line(error)) from error
    return Path(folder)


def _error(repo: Repo, message: str) -> FinetuneError:
    return ModelError(message) if repo.kind == "model" else DataError(message)


def _nowhere(what: str, name: str, tried: list[str]) -> str:
    return f"{what} {name!r} cannot be had. " + ". ".join(line.rstrip(".") for line in tried)
