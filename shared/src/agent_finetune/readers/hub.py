"""Datasets of the hub as rows, through the `datasets` library; no code of theirs is ever run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import DataError
from agent_finetune.readers.arrow import table_rows
from agent_finetune.records import Row

if TYPE_CHECKING:
    from agent_finetune.contracts import Settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
"""`dataset` or `owner/dataset`, and `:config` where the dataset has several."""

_FAR = ("hf://", "https://")
"""Where a dataset's files may lie; its card could name any file of this machine."""
_SECONDS = 10.0
_TOO_MANY, _ITS_OWN_TROUBLE = 429, 500


def hub_rows(name: str, split: str, settings: Settings) -> tuple[Row, ...]:
    """The rows of one split, named `id[split]:row`.

    Raises:
        DataError: No such id, config or split; gated or private without a token that may see it;
            no network, or a connection that broke off; its card names files that are not its own.
    """
    dataset_id, _, config = name.partition(":")
    _refuse_builder(dataset_id)
    token = settings.hub_token.reveal() if settings.hub_token else None
    why = None if settings.offline else _why_unreachable(dataset_id, token)
    try:
        with _network(not settings.offline and why is None):
            dataset = _load(dataset_id, config or None, split, token)
    except DataError:
        raise
    except Exception as error:  # whatever one of its many readers raises means the same to the user
        said = explain(name, split, error, offline=settings.offline, why=why)
        hidden = token is not None and token in f"{_chain(error)}"
        raise DataError(said.replace(token, "***") if token else said) from (
            None if hidden else error
        )
    table = dataset.with_format("arrow")[:]
    if not table.num_rows:
        raise DataError(f"{name}[{split}]: the split holds no rows")
    return tuple(table_rows(table, f"{name}[{split}]"))


def _load(dataset_id: str, config: str | None, split: str, token: str | None) -> Any:
    from datasets import load_dataset_builder

    builder = load_dataset_builder(dataset_id, config, token=token)
    for files in (builder.config.data_files or {}).values():
        for file in files:
            if not str(file).rpartition("::")[2].startswith(_FAR):
                raise DataError(
                    f"{dataset_id}: its card names the file {str(file)!r}, which is not of the "
                    "dataset; nothing was read. Download the files you want, and give their folder"
                )
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _refuse_builder(dataset_id: str) -> None:
    """Refuse what `datasets` would take for a kind of file, of which it reads all that is here.

    One of the kinds is pickle.
    """
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if dataset_id in _PACKAGED_DATASETS_MODULES:
        raise DataError(
            f"{dataset_id}: a kind of file and no dataset; give a file, a folder or owner/dataset"
        )


def _why_unreachable(dataset_id: str, token: str | None) -> str | None:
    """Ask the hub once, without the retries of a download, so that a dead one is told at once.

    None when it answers; what it answers, a download tells.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(dataset_id, token=token, timeout=_SECONDS)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == _TOO_MANY:
            wait = error.response.headers.get("Retry-After", "some")
            return f"it was asked too often (429), run it again in {wait} seconds"
        return f"it has trouble of its own ({status})" if status >= _ITS_OWN_TROUBLE else None
    except (HTTPError, OSError) as error:
        return _first_line(error)
    return None


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep `datasets` to its cache where `.env` says so: it reads only the environment itself."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def explain(
    name: str, split: str, error: Exception, *, offline: bool, why: str | None = None
) -> str:
    """One line on why a hub dataset cannot be had, and what to do.

    Args:
        name: What the user typed.
        split: The split that was wanted.
        error: What `datasets` raised.
        offline: Whether the user forbade the network.
        why: Why the hub could not be asked, where it could not.
    """
    from datasets.exceptions import DatasetNotFoundError
    from httpx import TransportError

    reason = _first_line(error)
    place = f"{name}: no such file or folder here, and as a hub id"
    if isinstance(error, DatasetNotFoundError):
        if "gated" in reason:  # the library has one class for both
            return (
                f"{name}: the dataset is gated; accept its terms on its page, then put a token in "
                "HF_TOKEN or .env"
            )
        return f"{place} it does not exist, or is private (then put a token in HF_TOKEN or .env)"
    if isinstance(error, ConnectionError):
        if offline:
            return f"{place} it is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
        told = f" ({why})" if why else ""
        return f"{place} it cannot be fetched: no connection to the hub{told}, and not in the cache"
    if isinstance(error, TransportError) or "Consistency check failed" in reason:
        return f"{name}: a download broke off and was thrown away; run it again: {reason}"
    if "Dataset scripts" in reason:
        return (
            f"{name}: it comes as a Python script, and code of a dataset is never run; take its "
            f"parquet form, or download the data and give the file: {reason}"
        )
    return f"{name}: split {split!r} cannot be read: {_first_line(_chain(error)[-1])}"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it, the first cause last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
