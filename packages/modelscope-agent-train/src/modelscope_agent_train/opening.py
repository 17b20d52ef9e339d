"""From what the user names as data to rows: objects, files, folders, shipped samples and hub ids.

A name is looked up here before anything is fetched: a path that exists, a shipped sample
(`msagent-sample`), the kernel's `bfcl`, then `owner/name` in ModelScope's cache, on its hub and on
Hugging Face. A name that is none of these is an error: the script of 2023 trained on MSAgent-Bench
when a name was mistyped. Every row keeps where it was read: `file:line`, or `id[split]:row`.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.readers import OpenedSource
from agent_finetune.readers.arrow import table_rows
from agent_finetune.readers.bfcl_files import CATEGORIES, is_leaderboard
from agent_finetune.readers.sources import LOADERS
from agent_finetune.records import Row

if TYPE_CHECKING:
    from modelscope_agent_train.hub import Hub

Data = Any
"""A name, a path, an `MsDataset`, a `datasets.Dataset` or `DatasetDict`, or a list of objects."""
SAMPLES = Path(__file__).parent / "samples"
HUB_ID = re.compile(r"(?:modelscope:)?[A-Za-z0-9][\w.-]*/[\w.-]+")
ON_HF = "hf://"


def sample_names() -> tuple[str, ...]:
    """Names of the data sets that are shipped."""
    return tuple(f"{path.stem}-sample" for path in sorted(SAMPLES.glob("*.jsonl")))


def names_of(text: str) -> tuple[str, ...]:
    """The names in `a,b#500,owner/c`; a file whose own name has a comma is one.

    Raises:
        ConfigError: There is none.
    """
    if Path(text).expanduser().exists():
        return (text,)
    names: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if names and names[-1].startswith("bfcl:") and part.partition("#")[0] in CATEGORIES:
            names[-1] += f",{part}"  # that name is a list itself
        else:
            names.append(part)
    if not names:
        raise ConfigError("dataset is empty; give a file, a folder, a hub id or a shipped sample")
    return tuple(names)


def open_dataset(
    data: Data,
    *,
    settings: Settings,
    hub: Hub = "auto",
    split: str = "train",
    local_files_only: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> OpenedSource:
    """Find the rows that a name or an object stands for; they are read when first asked for.

    Args:
        data: File (json, jsonl, csv, parquet) or folder; a shipped sample; `bfcl`; `owner/name` on
            a hub, `modelscope:owner/name` or `hf://owner/name` on that hub alone; or an object
            that holds rows.
        settings: Token and cache.
        hub: Where an id is looked up.
        split: Which split, wherever there are several. A single file is its own split.
        local_files_only: Never touch the network.
        report: Gets a line where something is fetched.

    Raises:
        DataError: No such data, or no such split; nothing else is taken in its place.
    """
    if not isinstance(data, (str, Path)):
        return _of_object(data, split)
    name = str(data)
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_folder(name, path, split, settings)
    if path.exists():
        _check_own_split(path, split)
        return readers.open_source(name, settings)
    if name in sample_names():
        return _of_files(name, [SAMPLES / f"{name.removesuffix('-sample')}.jsonl"])
    if name == "bfcl" or name.startswith("bfcl:") or Path(name.partition("#")[0]).is_file():
        return readers.open_source(name, settings)
    if name.startswith(ON_HF):
        return _on_hugging_face(name.removeprefix(ON_HF), split, settings, local_files_only)
    check_name(name)
    from modelscope_agent_train.hub import download_dataset

    folder = download_dataset(
        name, settings=settings, hub=hub, local_files_only=local_files_only, say=report
    )
    return _of_folder(name, folder, split, settings)


def check_name(name: str) -> None:
    """Refuse a name that is nowhere; nothing is fetched to find out.

    Raises:
        DataError: It is no file, no shipped sample, and no id that a hub could know.
    """
    path = Path(name).expanduser()
    if path.exists() or name in sample_names() or name.startswith(("bfcl:", ON_HF)):
        return
    if name == "bfcl" or Path(name.partition("#")[0]).is_file():
        return
    if path.suffix in LOADERS or not HUB_ID.fullmatch(name):
        raise DataError(_not_found(name))


def _of_object(data: object, split: str) -> OpenedSource:
    """Rows that are in memory already; an `MsDataset` is known without importing ModelScope."""
    host = sys.modules.get("modelscope.msdatasets.ms_dataset")
    if host is not None and isinstance(data, host.MsDataset):
        return _of_arrow(data.to_hf_dataset(), split, "MsDataset")
    if isinstance(data, Sequence) and not isinstance(data, (bytes, bytearray)):
        return OpenedSource("list", None, lambda: _listed(data))
    return _of_arrow(data, split, type(data).__name__)


def _listed(data: Sequence[object]) -> list[Row]:
    rows = []
    for number, item in enumerate(data, start=1):
        if isinstance(item, Mapping):
            rows.append(Row(source=f"list:{number}", data=item))
        else:
            problem = f"the row is of type {type(item).__name__}; expected an object"
            rows.append(Row(source=f"list:{number}", problem=problem))
    return rows


def _of_arrow(data: object, split: str, name: str) -> OpenedSource:
    """Rows of a data set of the `datasets` library, without the nulls that Arrow invents."""
    import datasets

    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{name}: no split {split!r}; there are {', '.join(map(str, data))}")
        return _of_arrow(data[split], split, name)
    if isinstance(data, datasets.IterableDataset):
        return OpenedSource(name, None, lambda: _listed(list(data)))
    if not isinstance(data, datasets.Dataset):
        raise DataError(
            f"data is of type {type(data).__name__}; give a name, a list of objects, an MsDataset "
            "or a datasets.Dataset"
        )
    if data.split is not None and str(data.split) != split:
        if split != "train":  # what a train split was not asked for is taken as it was handed over
            raise DataError(f"{name}: is the split {str(data.split)!r}; {split!r} was asked for")
        split = str(data.split)
    place = f"{name}[{split}]"
    return OpenedSource(place, None, lambda: tuple(table_rows(data.with_format("arrow")[:], place)))


def _check_own_split(path: Path, split: str) -> None:
    """A file has no splits; ModelScope answers any split of it with all its rows."""
    if split not in ("train", path.stem):
        raise DataError(
            f"{path}: is a single file, which has no split {split!r}; name the file of that split, "
            "or the folder of them"
        )


def _of_folder(name: str, folder: Path, split: str, settings: Settings) -> OpenedSource:
    """The files of one split, as the `datasets` library tells splits by the names of files."""
    from datasets import load_from_disk
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    if is_leaderboard(folder):
        return readers.open_source(str(folder), settings)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _of_arrow(load_from_disk(str(folder)), split, name)
    try:
        patterns = get_data_patterns(str(folder))
        found = DataFilesDict.from_patterns(patterns, base_path=str(folder))
    except (EmptyDatasetError, FileNotFoundError):
        found = {}
    splits = {
        str(key): read
        for key, files in found.items()
        if (read := sorted(path for f in files if (path := Path(str(f))).suffix in LOADERS))
    }
    if not splits:
        raise DataError(f"{name}: no data file in this folder; read are {', '.join(LOADERS)}")
    if split not in splits:
        raise DataError(f"{name}: no split {split!r}; there are {', '.join(splits)}")
    return _of_files(name, splits[split], folder)


def _of_files(name: str, files: Sequence[Path], path: Path | None = None) -> OpenedSource:
    return OpenedSource(
        name,
        path or files[0],
        lambda: [row for file in files for row in LOADERS[file.suffix](file)],
        files,
    )


def _on_hugging_face(
    name: str, split: str, settings: Settings, local_files_only: bool
) -> OpenedSource:
    from agent_finetune.readers.hub import hub_rows

    quiet = replace(settings, offline=settings.offline or local_files_only)
    return OpenedSource(name, None, lambda: hub_rows(name, split, quiet))


def _not_found(name: str) -> str:
    shipped = sample_names()
    near = difflib.get_close_matches(name, [*shipped, "bfcl"], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"{name}: no such file or folder, no hub id (owner/name), and not one of "
        f"{', '.join([*shipped, 'bfcl'])}{hint}"
    )
