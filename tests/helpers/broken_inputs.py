"""Real inputs of every kind, broken at random, and what becomes of reading them.

As a program it reads cases in a process of its own, with little memory and a time limit for each,
so that a crash or an endless loop is an outcome like any other: it prints a line of JSON when a
case begins and when it ends. The same number always breaks the same input in the same way.
"""

import copy
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HELPERS = Path(__file__).parent
SECONDS = 60
"""For one case; as many again until the process is killed."""
ROOM = 4 * 2**30
"""Bytes of address space beyond what the process has once everything is imported."""

NASTY = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**30, 10**5000, 1e308, -0.0, 0.5),
    *(float("nan"), float("inf"), "", " ", "\0", "a\0b", "\ud800", "\ufeff", "\u2028"),
    *("[", "{}", "[]", "null", "NaN", "{{", "{% for %}", "../../../etc/passwd", "x" * 5000, "\n"),
    *([], {}, [None], [[]], [{}], {"": None}, {"role": {}}, [1, "a", None, {}], {"type": "object"}),
    *("system", "assistant", "tool", "user", "default", "LORA", "llama", "cuda:99", "float8"),
)  # fmt: skip
"""Values that somebody did not think of."""
BYTES = (
    *(b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3(", b"\xed\xa0\x80", b"\r", b"\n"),
    *(b"{", b"}", b"[" * 3000, b"]", b",", b"\\", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity"),
    *(b"1e999", b"9" * 5000, b'{"a":' * 2000, b"\x1f\x8b\x08\0", b"PK\x03\x04", b"\x80\x04\x95"),
    *(b"'", b"=", b"[[", b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0" * 8, b"\1\0\0\0\0\0\0\x80"),
)  # fmt: skip
"""Pieces of files that somebody did not think of."""
LIES = (2**63, 2**40, 2**31, 255)
"""Lengths that a header may claim."""


class Hangs(BaseException):
    """A case took longer than `SECONDS`."""


@dataclass
class Found:
    """What became of many cases."""

    read: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    faults: list = field(default_factory=list)
    """Everything that is neither, with the number of the case."""


def broken_bytes(draw, raw, *, head=None):
    """A file's bytes, changed in one to three places, most of them in its `head`."""
    raw = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 3))):
        within = head if head and draw.random() < 0.8 else len(raw)
        place = draw.randrange(max(1, min(within, len(raw))))
        end = min(len(raw), place + draw.choice((1, 1, 4, 8, 40, 400)))
        match draw.randrange(7):
            case 0:
                raw[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del raw[place:]
            case 2:
                raw[place:place] = draw.choice(BYTES)
            case 3:
                piece = draw.choice(BYTES)
                raw[place : place + len(piece)] = piece
            case 4:
                del raw[place:end]
            case 5:
                raw[place:place] = raw[place:end] * draw.choice((1, 2, 50))
            case 6:
                raw[place : place + 8] = draw.choice((2**63, 2**40, 2**31, 255)).to_bytes(
                    8, "little"
                )
    return bytes(raw)


def places(value):
    """Where in a value something stands: its parent and its key there."""
    waiting = [value]
    while waiting:
        here = waiting.pop()
        for key, inner in here.items() if isinstance(here, dict) else enumerate(here):
            yield here, key
            if isinstance(inner, dict | list):
                waiting.append(inner)


def broken_value(draw, value):
    """A value with something else, nothing, or too much in one to three places."""
    value = {"whole": copy.deepcopy(value)}
    for _ in range(draw.choice((1, 1, 2, 3))):
        if found := list(places(value)):
            _break(draw, *draw.choice(found))
    return value.get("whole")


def _break(draw, inner, key):
    old = inner[key]
    match draw.randrange(8):
        case 0 | 1 | 2:
            inner[key] = copy.deepcopy(draw.choice(NASTY))
        case 3:
            del inner[key]
        case 4:
            inner[key] = [old] if draw.random() < 0.5 else {"x": old}
        case 5:
            for _ in range(draw.choice((20, 600, 3000))):
                old = [old] if draw.random() < 0.5 else {"a": old}
            inner[key] = old
        case 6:
            inner[key] = old[: len(old) // 2] if isinstance(old, str) else f"{type(old)}"
        case 7 if isinstance(inner, dict):
            inner[draw.choice(("", "x", "\ud800", "role", "type", "name"))] = inner.pop(key)


def as_json(value):
    """JSON as a careless program writes it, NaN and halves of surrogates included."""
    return json.dumps(value, ensure_ascii=True).encode()


def run(plan, folder, *, faults=100):
    """Run cases in processes of their own.

    Args:
        plan: Kind to (first number, how many).
        folder: For files.
        faults: Stop after so many.
    """
    found = Found()
    left = [(kind, first, first + count) for kind, (first, count) in plan.items()]
    while left and len(found.faults) < faults:
        left = _run_one_process(left, folder, found)
    return found


def _run_one_process(left, folder, found):
    """Cases until the process ends; answers those that are left."""
    command = [sys.executable, str(HELPERS / "broken_inputs.py"), str(folder), json.dumps(left)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (Path(folder) / "stderr").open("ab") as said:
        child = subprocess.Popen(
            command, bufsize=0, stdout=subprocess.PIPE, stderr=said, env=environment, cwd=folder
        )
    last = None
    try:
        while True:
            if not select.select([child.stdout], [], [], 2 * SECONDS + 60)[0]:
                break
            line = child.stdout.readline()
            if not line:
                break
            event = json.loads(line)
            last = (event["kind"], event["case"])
            if event["outcome"] == "begins":
                continue
            if event["outcome"] == "ends":
                return []
            kind, outcome = event["kind"], event["outcome"]
            if outcome == "fault":
                found.faults.append(f"{kind} {event['case']}: {event['said']}")
            else:
                {"read": found.read, "refused": found.refused}[outcome][kind] += 1
            last = (kind, event["case"] + 1)
    finally:
        child.kill()
        code = child.wait()
        child.stdout.close()
    if last is None:
        raise RuntimeError(f"the process that breaks inputs did not begin: {code}, see {said.name}")
    kind, case = last
    found.faults.append(f"{kind} {case}: the process ended with {code}")
    kinds = [name for name, _, _ in left]
    here = kinds.index(kind)
    return [(kind, case + 1, left[here][2]), *left[here + 1 :]]


def main():
    """Run the cases that the command line names."""
    folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # what a library prints goes elsewhere
    os.dup2(2, 1)
    from broken_specimens import KINDS

    def hang(*_):
        raise Hangs

    signal.signal(signal.SIGALRM, hang)
    for kind, first, end in plan:
        work = Path(tempfile.mkdtemp(dir=folder))
        case = KINDS[kind](work)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
        for number in range(first, end):
            event = {"kind": kind, "case": number}
            print(json.dumps({**event, "outcome": "begins"}), file=answers)
            print(json.dumps(event | _outcome(case, kind, number, work)), file=answers)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({"kind": kind, "case": end, "outcome": "ends"}), file=answers)


def _outcome(case, kind, number, work):
    from agent_finetune.errors import FinetuneError

    room = work / str(number)
    room.mkdir()
    signal.alarm(SECONDS)
    try:
        case(random.Random(f"{kind}:{number}"), room)
    except FinetuneError as error:
        said = str(error)
        flaw = "is not one line" if len(said.splitlines()) != 1 else None
        if flaw is None and str(room) not in said and not case.names(said):
            flaw = "names no place"
        if flaw is None and len(said) > 4000:
            flaw = "is no line that anybody reads"
        return {"outcome": "fault", "said": f"{flaw}: {said!r:.300}"} if flaw else {
            "outcome": "refused", "said": said[:300]}  # fmt: skip
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "agent_" in f.filename]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-3:]))
        return {"outcome": "fault", "said": f"{type(error).__name__} at {where}: {error!s:.200}"}
    finally:
        signal.alarm(0)
        if "keep" not in os.environ:
            shutil.rmtree(room, ignore_errors=True)
    return {"outcome": "read"}


if __name__ == "__main__":
    main()
