"""From what the user typed to rows: a file, a folder of files, a hub id, or the shipped `bfcl`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from agent_finetune.contracts import Source
from agent_finetune.errors import DataError
from agent_finetune.readers import bfcl_files
from agent_finetune.readers.hub import HUB_ID, hub_rows
from agent_finetune.readers.text_files import csv_rows, json_rows

if TYPE_CHECKING:
    from agent_finetune.contracts import Settings
    from agent_finetune.records import Row


class OpenedSource(Source):
    """A source that also says, by a digest, exactly which data it is."""

    def __init__(
        self,
        name: str,
        path: Path | None,
        load: Callable[[], Sequence[Row]],
        files: Sequence[Path] = (),
    ) -> None:
        super().__init__(name, path, load)
        self.files = tuple(files)
        """Every file that is read, in the order in which it is read; none of a hub dataset."""

    @cached_property
    def digest(self) -> str:
        """`sha256:...` of the file's bytes.

        Of several files, of each one's name and bytes; of a hub dataset, of its rows as JSON.
        """
        whole = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256")
            if len(self.files) == 1:
                return f"sha256:{content.hexdigest()}"
            whole.update(f"{file.name}\0{content.hexdigest()}\n".encode())
        if not self.files:
            for row in self.rows:
                line = json.dumps(row.data, sort_keys=True, default=repr)
                whole.update(f"{line}\n".encode())
        return f"sha256:{whole.hexdigest()}"


def _parquet_rows(path: Path) -> Sequence[Row]:
    from agent_finetune.readers.arrow import parquet_rows

    return parquet_rows(path)


LOADERS: dict[str, Callable[[Path], Sequence[Row]]] = {
    ".json": json_rows,
    ".jsonl": json_rows,
    ".csv": csv_rows,
    ".parquet": _parquet_rows,
}


def is_database(path: Path | None) -> bool:
    """Whether a path is an SQLite file, whatever it is called."""
    if path is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def open_source(name: str, settings: Settings, split: str = "train") -> OpenedSource:
    """Find the data that a name stands for. Rows are read when first asked for.

    A path that exists is that file or folder (of a folder, the data files right in it, by name).
    `bfcl`, or `bfcl:` and category names with commas between them, is the shipped Berkeley
    Function Calling Leaderboard. Anything else that looks like a hub id (`owner/dataset`,
    `owner/dataset:config`) is one, and only there `split` counts. `FILE#PART` is the file, of
    which its reader takes a part; of recordings (`recordings.reading`) that is an agent.

    Raises:
        DataError: No such file or folder, or no data file in it.
        DownloadError: The shipped data cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path)
    if path.exists():
        return _files(name, path, [path])
    whole = Path(name.partition("#")[0]).expanduser()
    if "#" in name and whole.is_file():  # a part of a file, for the reader that knows its parts
        return _files(name, whole, [whole])
    if name == "bfcl" or name.startswith("bfcl:"):
        return _shipped_bfcl(name, settings)
    if path.suffix in LOADERS or not HUB_ID.fullmatch(name):
        raise DataError(f"{name}: no such file or folder, and not a hub id (owner/dataset)")
    return OpenedSource(name, None, lambda: hub_rows(name, split, settings))


def _shipped_bfcl(name: str, settings: Settings) -> OpenedSource:
    from agent_finetune import downloads

    asked = name.partition(":")[2]
    categories = asked.split(",") if asked else bfcl_files.DEFAULT_CATEGORIES
    folder = downloads.fetch(downloads.BFCL, settings)
    return _bfcl(name, folder, bfcl_files.category_files(folder, categories))


def _folder(name: str, folder: Path) -> OpenedSource:
    if bfcl_files.is_leaderboard(folder):
        return _bfcl(name, folder, bfcl_files.all_files(folder))
    files = sorted(f for f in folder.iterdir() if f.suffix in LOADERS and f.is_file())
    if not files:
        raise DataError(f"{name}: no data file in this folder; read are {', '.join(LOADERS)}")
    return _files(name, folder, files)


def _files(name: str, path: Path, files: Sequence[Path]) -> OpenedSource:
    if bfcl_files.answers_of(files[0]) is not None and len(files) == 1:
        return _bfcl(name, path, files)
    return OpenedSource(name, path, lambda: [row for f in files for row in _rows(f)], files)


def _rows(file: Path) -> Sequence[Row]:
    # Not before the rows are asked for: a plugin may know a file type that nobody here does.
    if is_database(file):
        return ()  # who knows whose database it is looks at its path
    if file.suffix not in LOADERS:
        raise DataError(
            f"{file}: files of type {file.suffix!r} are not read; read are {', '.join(LOADERS)}"
        )
    return LOADERS[file.suffix](file)


def _bfcl(name: str, path: Path, questions: Sequence[Path]) -> OpenedSource:
    answers = [a for q in questions if (a := bfcl_files.answers_of(q)) is not None]
    return OpenedSource(
        name,
        path,
        lambda: [row for q in questions for row in bfcl_files.joined_rows(q)],
        [*questions, *answers],
    )
