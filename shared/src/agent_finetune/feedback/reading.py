"""Reading feedback, from a list of items or from a file; `items` tells of the shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_finetune.config import BadRowPolicy
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.feedback.items import shape_of
from agent_finetune.feedback.shapes import About, Shape
from agent_finetune.readers import is_database, open_source
from agent_finetune.readers.chat import shown
from agent_finetune.records import BadRow


def read_feedback(
    items: Sequence[Any], *, source: str = "feedback", on_bad: BadRowPolicy = "stop"
) -> list[Shape | BadRow]:
    """Read items of feedback, of any shapes, in their order.

    Args:
        items: Of the shapes that `items` lists. Shapes may be mixed.
        source: What the items are called in messages: `feedback[3]` is the fourth.
        on_bad: stop raises at the first item that cannot be read; skip puts a `BadRow` there.

    Raises:
        DataError: An item is of no known shape or could be two, an answer is missing, empty or
            not said by an assistant, or chosen and rejected are the same. Its index is named.
    """
    if isinstance(items, str | Mapping) or not isinstance(items, Sequence):
        raise DataError(f"{source} is {shown(items)}; expected a list of items")
    if len(items) == 2 and all(isinstance(item, str) for item in items):
        raise DataError(
            f"{source}[0] and {source}[1] are two texts; they could be one pair, chosen and "
            "rejected, or two demonstrations; write [(chosen, rejected)] for a pair"
        )
    places = [(f"{source}[{index}]", item) for index, item in enumerate(items)]
    return _read(places, on_bad)


def read_feedback_file(
    name: str, *, settings: Settings, split: str = "train", on_bad: BadRowPolicy = "stop"
) -> list[Shape | BadRow]:
    """Read feedback from a file, a folder or a hub id: `readers.open_source`, `read_feedback`.

    Args:
        name: json, jsonl, csv, parquet, a folder of these, or owner/dataset.
        settings: Token and cache.
        split: Split of a hub dataset.
        on_bad: As `read_feedback`.

    Raises:
        DataError: The data cannot be found or parsed, or as `read_feedback`; the line is named.
    """
    source = open_source(name, settings, split)
    if is_database(source.path):
        raise DataError(f"{name}: a database; what recordings hold is learned by `learn`")
    rows = source.rows
    if not rows:
        raise DataError(f"{name}: holds no rows")
    places = [
        (row.source, BadRow(source=row.source, reason=row.problem) if row.problem else row.data)
        for row in rows
    ]
    return _read(places, on_bad)


def _read(places: Sequence[tuple[str, object]], on_bad: BadRowPolicy) -> list[Shape | BadRow]:
    shapes: list[Shape | BadRow] = []
    for index, (source, item) in enumerate(places):
        try:
            shapes.append(shape_of(item, About(index=index, source=source)))
        except DataError as error:
            if on_bad == "stop":
                raise DataError(f"{source}: {error}") from error
            shapes.append(BadRow(source=source, reason=str(error)))
    return shapes
