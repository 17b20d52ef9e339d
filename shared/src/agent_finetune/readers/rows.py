"""From rows to examples: what every reader, a plugin's too, is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from agent_finetune.errors import DataError
from agent_finetune.records import BadRow, Example, Row


def convert(rows: Iterable[Row], read: Callable[[Row], Example]) -> Iterator[Example | BadRow]:
    """One item per row, in order: the example, or why there is none.

    Args:
        rows: Rows of a source; one whose line did not parse is a bad row already.
        read: Makes the example of one row; raises DataError with the reason alone, without
            the row's place, which is put in front here.
    """
    for row in rows:
        if row.problem is not None:
            yield BadRow(source=row.source, reason=row.problem)
            continue
        try:
            yield read(row)
        except DataError as error:
            yield BadRow(source=row.source, reason=str(error))
