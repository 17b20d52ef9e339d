"""Datasets of the hub as rows, through the `datasets` library; no code of theirs is ever run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent_finetune.errors import DataError
from agent_finetune.readers.arrow import table_rows
from agent_finetune.records import Row

if TYPE_CHECKING:
    from agent_finetune.contracts import Settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
"""`dataset` or `owner/dataset`, and `:config` where the dataset has several."""


def hub_rows(name: str, split: str, settings: Settings) -> tuple[Row, ...]:
    """The rows of one split, named `id[split]:row`.

    Raises:
        DataError: No such id, config or split; gated or private without a token that may see it;
            no network.
    """
    from datasets import DownloadConfig, load_dataset

    dataset_id, _, config = name.partition(":")
    token = settings.hub_token.reveal() if settings.hub_token else None
    try:
        dataset = load_dataset(
            dataset_id,
            config or None,
            split=split,
            token=token,
            download_config=DownloadConfig(local_files_only=settings.offline, token=token),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(explain(name, split, error)) from error
    table = dataset.with_format("arrow")[:]
    if not table.num_rows:
        raise DataError(f"{name}[{split}]: the split holds no rows")
    return tuple(table_rows(table, f"{name}[{split}]"))


def explain(name: str, split: str, error: Exception) -> str:
    """One line on why a hub dataset cannot be had, and what to do.

    The libraries wrap one error in another, so the chain of causes is searched.
    """
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and isinstance(
        cause, Exception
    ):
        causes.append(cause)
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    place = f"{name}: no such file or folder here, and as a hub id"
    if any(isinstance(c, GatedRepoError) for c in causes) or "gated" in first:
        return (
            f"{name}: the dataset is gated; accept its terms on its page, then put a token in "
            "HF_TOKEN or .env"
        )
    if any(isinstance(c, OfflineModeIsEnabled) for c in causes):
        return f"{place} it is not in the cache while HF_HUB_OFFLINE is set"
    if isinstance(error, DatasetNotFoundError):
        return f"{place} it does not exist, or is private (then put a token in HF_TOKEN or .env)"
    if any(isinstance(c, ConnectionError) for c in causes):
        return f"{place} it cannot be fetched: no connection to the hub, and not in the cache"
    return f"{place} split {split!r} cannot be read: {first}"
