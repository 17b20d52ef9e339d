"""ModelScope's cache on this disk, in all the layouts it has had. Nothing is asked or written.

A folder counts only when it is whole: ModelScope's own look-up takes any that is not empty, also
what a broken download has left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

Kind = Literal["model", "dataset"]

DEFAULT_REVISION = "master"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")
INDEX = "model.safetensors.index.json"
_PARTS = ("*.incomplete", "*.parallel_tmp", "*.parallel_tmp_*")
"""What ModelScope's client calls files that it has not finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    """A repository of the hub, and which state of it."""

    kind: Kind
    id: str
    """`owner/name`."""
    revision: str | None = None
    """Branch, tag or commit; None is the hub's newest."""
    code: bool = False
    """Whether Python files that come with it are wanted."""

    def folder(self, cache_dir: Path) -> Path:
        """What ModelScope's client of today keeps of this repository."""
        return cache_dir / f"{self.kind}s" / self.id.replace("/", "--")

    def snapshot(self, cache_dir: Path) -> Path:
        """Where a download of this revision goes."""
        return self.folder(cache_dir) / "snapshots" / (self.revision or DEFAULT_REVISION)


def is_safe_path(path: str) -> bool:
    """Whether a name from outside stays inside the folder it is put into."""
    parts = PurePosixPath(path)
    unsafe = not path or "\\" in path or "\0" in path or ":" in path or path.endswith("/")
    return not unsafe and not parts.is_absolute() and ".." not in parts.parts


def find(repo: Repo, cache_dir: Path) -> Path | None:
    """The folder of a repository that is here whole; its files are not read."""
    for folder in candidates(repo, cache_dir):
        if defect(folder, repo) is None:
            return folder
    return None


def describe(repo: Repo, cache_dir: Path) -> str:
    """What is here of a repository that was not found whole, for an error message."""
    found = [f"{folder}: {defect(folder, repo)}" for folder in candidates(repo, cache_dir)]
    if found:
        return "; ".join(found)
    others = sorted(
        {revision for _, revision in _kept(repo, cache_dir) if revision is not None} - {""}
    )
    if others and repo.revision is not None:
        return f"revision {repo.revision!r} is not in the cache; what is there is {others}"
    if others:
        return f"several revisions are in the cache, name one of {others}"
    return f"it is not in the cache, {str(cache_dir)!r}"


def candidates(repo: Repo, cache_dir: Path) -> Iterator[Path]:
    """Folders of the revision that is asked for, whole or not, the likeliest first."""
    kept = list(_kept(repo, cache_dir))
    if repo.revision is not None:
        yield from (folder for folder, revision in kept if revision == repo.revision)
        return
    newest = [folder for folder, revision in kept if revision in (DEFAULT_REVISION, "main", None)]
    yield from newest or ([kept[0][0]] if len(kept) == 1 else [])


def _kept(repo: Repo, cache_dir: Path) -> Iterator[tuple[Path, str | None]]:
    """Every folder of a repository, and the revision that it is of, where that is known."""
    snapshots = repo.folder(cache_dir) / "snapshots"
    names = [DEFAULT_REVISION, "main"]
    if repo.revision is not None and is_safe_path(repo.revision):
        names.append(repo.revision)  # it may be deeper than one folder
    if snapshots.is_dir():
        names += sorted(path.name for path in snapshots.iterdir())
    for name in dict.fromkeys(names):
        if _holds_something(snapshots / name):
            yield snapshots / name, name
    owner, _, name = repo.id.partition("/")
    kind = f"{repo.kind}s"
    for base in (cache_dir / kind, cache_dir / "hub" / kind, cache_dir, cache_dir / "hub"):
        for spelled in dict.fromkeys((name.replace(".", "___"), name)):
            folder = base / owner / spelled
            if _holds_something(folder):
                yield folder, _noted_revision(folder)


def _noted_revision(folder: Path) -> str | None:
    """The revision that older clients wrote beside the files: `Revision:v1.0.0,CreatedAt:1690`.

    They noted the rest in pickle files, which are not read.
    """
    note = folder / ".mv"
    if not note.is_file():
        return None
    for entry in note.read_text(errors="replace").strip().split(","):
        key, _, value = entry.partition(":")
        if key.strip() == "Revision":
            return value.strip() or None
    return None


def defect(folder: Path, repo: Repo) -> str | None:
    """Why a folder cannot be used as it is; None when it can."""
    unfinished = next((file for part in _PARTS for file in folder.rglob(part)), None)
    if unfinished is not None:
        return f"the download was broken off, {unfinished.name} is left of it"
    return None if repo.kind == "dataset" else _model_defect(folder, code=repo.code)


def _model_defect(folder: Path, *, code: bool) -> str | None:
    if not (folder / "config.json").is_file():
        return "no config.json"
    if (folder / INDEX).is_file():
        shards = set(_object(_read(folder / INDEX).get("weight_map")).values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            return f"{missing[0]} and {len(missing) - 1} more files of weights are missing"
    elif not any(folder.glob("*.safetensors")):
        pickled = any(file.suffix in PICKLES for file in folder.iterdir())
        return "no safetensors weights" + (", only pickle files, not read here" if pickled else "")
    if code:
        missing = sorted(name for name in own_code(folder) if not (folder / name).is_file())
        if missing:
            return f"{missing[0]} is missing, which trust_remote_code needs"
    return None


def own_code(folder: Path) -> frozenset[str]:
    """Python files that a model's config says it needs: `auto_map` of {"AutoModel": "file.Class"}.

    Code in another repository (`owner/name--file.Class`) is not counted.
    """
    found = set()
    for name in ("config.json", "tokenizer_config.json"):
        for value in _object(_read(folder / name).get("auto_map")).values():
            for place in value if isinstance(value, list) else [value]:
                if isinstance(place, str) and "--" not in place:
                    found.add(f"{place.partition('.')[0]}.py")
    return frozenset(found)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of a folder; what is none holds nothing, and loading will tell."""
    try:
        return _object(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
