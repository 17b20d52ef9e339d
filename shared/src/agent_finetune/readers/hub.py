"""Datasets of the hub as rows, through the `datasets` library; no code of theirs is ever run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    from datasets import load_dataset

    dataset_id, _, config = name.partition(":")
    token = settings.hub_token.reveal() if settings.hub_token else None
    try:
        with _network(not settings.offline):
            dataset = load_dataset(dataset_id, config or None, split=split, token=token)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(explain(name, split, error, offline=settings.offline)) from error
    table = dataset.with_format("arrow")[:]
    if not table.num_rows:
        raise DataError(f"{name}[{split}]: the split holds no rows")
    return tuple(table_rows(table, f"{name}[{split}]"))


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


def explain(name: str, split: str, error: Exception, *, offline: bool) -> str:
    """One line on why a hub dataset cannot be had, and what to do."""
    from datasets.exceptions import DatasetNotFoundError

    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
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
        return f"{place} it cannot be fetched: no connection to the hub, and not in the cache"
    return f"{name}: split {split!r} cannot be read: {reason}"
