"""The files of the Berkeley Function Calling Leaderboard: categories, and answers beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.text_files import json_rows
from agent_finetune.records import Row

WITH_ANSWERS = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
WITHOUT_CALLS = ("irrelevance", "live_irrelevance")
"""No function fits the question, and the right thing is not to call one."""
CATEGORIES = WITH_ANSWERS + WITHOUT_CALLS
DEFAULT_CATEGORIES = ("simple_python", "multiple", "live_simple", "live_multiple")
"""One call per question: what a small model can learn."""
_FILE = re.compile(r"BFCL_v\d+_(?P<category>\w+)\.json")


def is_leaderboard(folder: Path) -> bool:
    """Whether a folder holds question files beside a folder `possible_answer`."""
    return (folder / "possible_answer").is_dir() and bool(_by_category(folder))


def all_files(folder: Path) -> list[Path]:
    """The question files of every category with answers that the folder holds.

    Raises:
        DataError: It holds none that can be read.
    """
    there = _by_category(folder)
    files = [there[category] for category in WITH_ANSWERS if category in there]
    if not files:
        raise DataError(f"{folder}: none of the categories {', '.join(WITH_ANSWERS)} is in here")
    return files


def category_files(folder: Path, categories: Sequence[str]) -> list[Path]:
    """The question files of the named categories, in the order named.

    Raises:
        DataError: A category does not exist, cannot be read, or is not in the folder.
    """
    there = _by_category(folder)
    for category in categories:
        if category not in CATEGORIES or category not in there:
            legal = ", ".join(c for c in CATEGORIES if c in there)
            raise DataError(f"bfcl: no category {category!r} that can be read; legal are {legal}")
    return [there[category] for category in dict.fromkeys(categories)]


def answers_of(question: Path) -> Path | None:
    """The file of right answers that belongs to a question file, if there is one."""
    answers = question.parent / "possible_answer" / question.name
    return answers if answers.is_file() else None


def joined_rows(question: Path) -> tuple[Row, ...]:
    """The rows of a question file, each with its `ground_truth`."""
    rows = json_rows(question)
    path = answers_of(question)
    if path is None:
        return rows
    truth = {str(row.data["id"]): row.data for row in json_rows(path) if "id" in row.data}
    return tuple(_joined(row, truth.get(str(row.data.get("id")), {})) for row in rows)


def _joined(row: Row, answer: Mapping[str, Any]) -> Row:
    if row.problem is not None or "ground_truth" not in answer:
        return row
    return replace(row, data={**row.data, "ground_truth": answer["ground_truth"]})


def _by_category(folder: Path) -> dict[str, Path]:
    matches = ((_FILE.fullmatch(f.name), f) for f in sorted(folder.iterdir()))
    return {match["category"]: file for match, file in matches if match}
