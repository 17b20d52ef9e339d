"""Columns of text, for the verbs that list something."""

from __future__ import annotations

from collections.abc import Sequence


def table(names: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> str:
    """Rows under their columns' names, one line each, whatever is in them.

    Args:
        names: Names of the columns.
        rows: Cells; None is shown as a dash.
        empty: What to say when there are no rows.
    """
    if not rows:
        return empty
    cells = [list(names), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    # What a model said may hold codes that move the cursor or clear the screen.
    text = "-" if value is None else " ".join(str(value).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)
