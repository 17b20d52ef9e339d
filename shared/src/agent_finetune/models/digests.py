"""Which weights these are: sha256 of their files, remembered so that it is computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from agent_finetune.artifacts import write_json

_CACHE_NAME = "digests.json"


def sha256_of(path: Path, cache_dir: Path) -> str:
    """sha256 of a file, 64 hexadecimal digits.

    It is remembered in `cache_dir` by path, size and time of change, because hashing gigabytes
    at every start would be felt.
    """
    path = path.resolve()
    stat = path.stat()
    seen = [stat.st_size, stat.st_mtime_ns]
    cache = cache_dir / _CACHE_NAME
    entry = _read(cache).get(str(path))
    if entry and entry[:2] == seen:
        return str(entry[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # Read again: another process may have written meanwhile. Losing its entry would only cost
    # it one more hashing, so there is no lock.
    write_json(cache, {**_read(cache), str(path): [*seen, digest]})
    return digest


def digest_of(files: Iterable[Path], cache_dir: Path) -> str:
    """`sha256:...` over weight files.

    One file gives the sha256 that `sha256sum` prints; several give the sha256 of theirs, each
    followed by a newline, in the order of the file names. Folder and file names do not count.
    """
    digests = [sha256_of(path, cache_dir) for path in sorted(files, key=lambda path: path.name)]
    if len(digests) == 1:
        return f"sha256:{digests[0]}"
    joined = "".join(f"{digest}\n" for digest in digests)
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"


def _read(cache: Path) -> dict[str, list[int | str]]:
    """What is remembered; a file that is missing or damaged counts as empty, it is only a cache."""
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
