"""The process that trains for a live engine: it ends with the one that asked for it.

What it does lies in a folder, and so does what it says: a log, and the error it ended with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from agent_finetune import artifacts, errors
from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import FinetuneError, TrainError

Verb = Literal["update", "run"]
"""What is done with the folder: `update.training.train`, or `train.handed.run`."""

RECORD = 4096
"""Bytes of the settings that each process that trains reads from its stdin."""
LOG = "train.log"
_ERROR = "error.json"
_MODULE = "agent_finetune.cli.trainer"
_POLL = 0.2
"""Seconds between looks at the process."""
_GRACE = 10.0
"""Seconds for it to end by itself."""
_KILLED = -9


def train(
    verb: Verb,
    folder: Path,
    settings: Settings,
    *,
    processes: int,
    poll: Callable[[], None],
    stop: threading.Event | None = None,
) -> None:
    """Let processes of their own do what lies in a folder, and wait for them.

    Args:
        verb: What to do.
        folder: What to do it with; a log and an error are left there.
        settings: Travel through a pipe, so that a token is never in a file or a list of processes.
        processes: How many; torchrun runs them when there are several.
        poll: Called every moment while they run, and once when they have ended well or badly.
        stop: Ends them when it is set.

    Raises:
        FinetuneError: What the process ended with, under its own type.
        TrainError: It was stopped, or ended without a word for the user; the last it said is told.
    """
    stop = stop or threading.Event()
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            _command(verb, folder, processes),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(_told(settings).ljust(RECORD) * processes)
        process.stdin.flush()
        while process.poll() is None and not stop.wait(_POLL):
            poll()
        poll()
    except BrokenPipeError:
        process.wait()  # it failed before it read; the log says why
    finally:
        _end(process)
        process.stdin.close()  # by which those that torchrun started end too
    if process.returncode != 0:
        _fail(folder, process.returncode, stopped=stop.is_set())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that may have ended; it has a moment to say so in what it leaves behind."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def listen(record: bytes) -> Settings:
    """The settings that `train` told."""
    told = json.loads(record)
    return Settings(
        hub_token=Secret(told["token"]) if told["token"] else None,
        offline=told["offline"],
        cache_dir=Path(told["cache_dir"]),
    )


def write_error(folder: Path, error: FinetuneError) -> None:
    """Leave an error for whoever asked; one of a plugin as the kernel's that it is."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind in _KINDS.values())
    artifacts.write_json(folder / _ERROR, {"kind": kind, "message": str(error)})


def _command(verb: Verb, folder: Path, processes: int) -> list[str]:
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [*command, _MODULE, verb, str(folder)]


def _told(settings: Settings) -> bytes:
    token = settings.hub_token.reveal() if settings.hub_token else None
    told = {
        "token": token,
        "offline": settings.offline,
        "cache_dir": str(settings.cache_dir),
    }
    return json.dumps(told).encode()


_KINDS: Mapping[str, Any] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, FinetuneError)
}


def _fail(folder: Path, code: int, *, stopped: bool) -> NoReturn:
    if stopped:
        raise TrainError("training was stopped")
    if (folder / _ERROR).is_file():
        told = json.loads((folder / _ERROR).read_text("utf-8"))
        raise _KINDS[told["kind"]](told["message"])
    lines = (folder / LOG).read_text("utf-8", errors="replace").strip().splitlines()
    said = " ".join(lines[-1:])[-500:] or "it said nothing"
    if code == _KILLED:
        said = f"it was killed, as a system does that runs out of memory; it last said: {said}"
    raise TrainError(f"training ended with code {code}: {said}")
