"""Rows of a trainer: read from whatever a ModelScope script hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelscope.msdatasets.dataset_cls.custom_datasets.torch_custom_dataset import (
    TorchCustomDataset,
)
from modelscope.msdatasets.ms_dataset import MsDataset

from agent_finetune.config import DataConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import Example, Tokens
from agent_finetune.render import Renderer
from agent_finetune.train.job import render
from modelscope_agent_train import sources
from modelscope_agent_train.registration import loaded

IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Rows to train on or to measure on, and the examples that they are of, where these are known.

    Rows that a script has tokenized itself have no examples.
    """

    rows: tuple[Tokens, ...] = ()
    examples: tuple[Example, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For run.json."""


class AgentDataset(TorchCustomDataset):  # type: ignore[misc]
    """`agent-sft` among ModelScope's custom datasets: conversations, each as ids and labels.

    With `preprocessor="msagent-preprocessor"` in a configuration, ModelScope's own trainer trains
    on it; the trainer `agent-sft` needs neither.
    """

    def __init__(
        self,
        datasets: Any,
        mode: str = "train",
        preprocessor: Callable[[Mapping[str, Any]], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Hold rows.

        Args:
            datasets: A name, path, `MsDataset` or list of rows, or several of them in a list.
            mode: `train` or `eval`.
            preprocessor: Makes model inputs of a row.
            kwargs: What ModelScope says besides; not looked at.
        """
        super().__init__(_listed(datasets), mode=mode, preprocessor=preprocessor, **kwargs)

    def prepare_dataset(self, datasets: Sequence[Mapping[str, Any]]) -> Any:
        """The rows as they are; the base class would take a list for several datasets."""
        return datasets


def read(
    given: Any,
    renderer: Callable[[], Renderer],
    config: DataConfig,
    settings: Settings,
    *,
    limit: int,
    preprocessor: Callable[[Any], Any] | None = None,
    report: Callable[[str], None],
) -> Data:
    """Make rows of `train_dataset` or `eval_dataset`.

    Args:
        given: None; a name, path, `MsDataset` or list of conversations, or several of them; or a
            torch dataset whose items have `input_ids` and `labels`.
        renderer: Answers that of the model's tokenizer; not asked where rows have ids.
        config: Policies for bad and over-long examples, and the format.
        settings: Token and cache.
        limit: Most tokens in a row.
        preprocessor: Makes `input_ids` and `labels` of a row, instead of the renderer.
        report: Gets a line for what was lost.

    Raises:
        DataError: It cannot be read, or an item's labels are not its ids.
    """
    if given is None:
        return Data()
    if preprocessor is not None or _is_tokenized(given):
        items = [given[place] for place in range(len(given))]
        items = items if preprocessor is None else [preprocessor(item) for item in items]
        return _kept([tokens(item, place) for place, item in enumerate(items)], limit, report)
    names = given if _is_several(given) else [given]
    found = sources.read_dataset(
        names,
        settings=settings,
        format=config.format,
        on_bad_row=config.on_bad_row,
        split=config.split,
        report=report,
    )
    rendered = render(renderer(), found.examples, config, limit)
    return Data(
        rows=rendered.rows,
        examples=rendered.examples,
        facts={"format": found.format, "digest": found.digest, **rendered.counts()},
    )


def examples_of(given: Any, config: DataConfig, settings: Settings) -> tuple[Example, ...]:
    """Conversations alone, for `predict`.

    Raises:
        DataError: As `read`.
    """
    names = given if _is_several(given) else [given]
    return sources.read_dataset(
        names, settings=settings, format=config.format, on_bad_row=config.on_bad_row
    ).examples


def tokens(item: Mapping[str, Any], place: int) -> Tokens:
    """The row of an item with `input_ids` and `labels`, tensors or lists of one row.

    Raises:
        DataError: A label is neither -100 nor the token of its place.
    """
    ids, labels = (_numbers(item[name]) for name in ("input_ids", "labels"))
    trained = tuple(label != IGNORED for label in labels)
    wrong = [p for p, label in enumerate(labels) if trained[p] and label != ids[p]]
    if len(ids) != len(labels) or wrong:
        raise DataError(
            f"row {place}: its labels are not its input_ids (at token {wrong[0] if wrong else 0}); "
            "labels must not be shifted, and -100 where nothing is trained"
        )
    if not any(trained):
        raise DataError(f"row {place}: every label is -100, so there is nothing to train")
    return Tokens(ids=ids, trained=trained, sections=(None,) * len(ids), source=f"row {place}")


def _kept(rows: list[Tokens], limit: int, report: Callable[[str], None]) -> Data:
    kept = tuple(row for row in rows if row.length <= limit)
    if len(kept) < len(rows):
        report(f"{len(rows) - len(kept)} rows left out: longer than max_length {limit}")
    if not kept:
        raise DataError(f"all {len(rows)} rows are longer than {limit} tokens; raise max_length")
    facts = {
        "format": "input_ids",
        "examples": len(kept),
        "rows": len(kept),
        "too_long": len(rows) - len(kept),
        "tokens": sum(row.length for row in kept),
        "trained_tokens": sum(sum(row.trained) for row in kept),
    }
    return Data(rows=kept, facts=facts)


def _numbers(values: Any) -> tuple[int, ...]:
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    if found and isinstance(found[0], list):  # a batch of one row, as tokenizers return it
        (found,) = found
    return tuple(map(int, found))


def _is_tokenized(given: Any) -> bool:
    if isinstance(given, (str, Path)) or _is_several(given) or not hasattr(given, "__getitem__"):
        return False
    first = given[0] if len(given) else None
    return isinstance(first, Mapping) and {"input_ids", "labels"} <= first.keys()


def _is_several(given: Any) -> bool:
    """Whether a list is one of data sets rather than of rows."""
    return isinstance(given, (list, tuple)) and not isinstance(next(iter(given), None), Mapping)


def _listed(datasets: Any) -> Any:
    """Rows of what ModelScope hands to a custom dataset."""
    if isinstance(datasets, MsDataset):
        return datasets.to_hf_dataset()
    if not _is_several(datasets):
        return datasets
    return [row for part in datasets for row in _listed(part)]


loaded(__name__)
