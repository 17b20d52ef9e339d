"""Processes that start at once: forked from one that has imported everything, to be killed.

As a program it is that process: it reads lines of JSON from stdin, forks for each of them, and
says on stdout the child's pid, and later how it ended. Killing a fresh interpreter instead would
cost ten seconds of imports each time.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from updating_host import PAIRS

HELPERS = Path(__file__).parent
STEPS = 6


@dataclass
class Ended:
    code: int
    """Exit code, or minus the signal."""
    said: str
    """stdout and stderr."""
    seconds: float


class Forks:
    """The process to fork from, seen from the tests."""

    def __init__(self, log):
        self._log = log
        paths = [str(HELPERS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, words, *, kill_after=None, **options):
        """Run a verb in a process of its own, which may be killed after some seconds.

        Options are those of `verb`, and `below`, `event` and `signal` of `signal_at`.
        """
        words = list(map(str, words))
        line = json.dumps({"words": words, "log": str(self._log), **options})
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        pid = self._answer()["pid"]
        if kill_after is not None:
            time.sleep(kill_after)
            # The child is not waited for before the server is told: its pid is still its own.
            os.kill(pid, signal.SIGKILL)
        self._server.stdin.write("wait\n")
        self._server.stdin.flush()
        ended = self._answer()
        return Ended(ended["code"], self._log.read_text(errors="replace"), ended["seconds"])

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()

    def _answer(self):
        line = self._server.stdout.readline()
        assert line, "the process to fork from has ended"
        return json.loads(line)


@contextmanager
def forks(folder):
    made = Forks(folder / "said.log")
    try:
        yield made
    finally:
        made.close()


def write_rows(path):
    """Twelve questions with their answers."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is the weather in city {number}?"},
                {"role": "assistant", "content": f"It is {number} degrees."},
            ]
        }
        for number in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train_words(model, data, out, *more, steps=STEPS, save=1, batch=2):
    """A run of six steps with a checkpoint after each."""
    flags = ["--model", model, "--data", data, "--out", out, "--device", "cpu"]
    flags += ["--dtype", "float32", "--max-steps", steps, "--save-steps", save]
    flags += ["--batch-size", batch, "--rank", 4, "--dropout", 0.1, "--learning-rate", 1e-2, *more]
    return ["train", *map(str, flags)]


def learn_words(model, store, source):
    """A quick update that passes its gate."""
    source.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    flags = [source, "--model", model, "--store", store, "--name", "helper", "--device", "cpu"]
    flags += ["--dtype", "float32", "--epochs", 3, "--batch-size", 2, "--learning-rate", 3e-3]
    flags += ["--rank", 4, "--max-forgetting", 1.0, "--max-drift", 1.0]
    return ["learn", *map(str, flags)]


def signal_at(event, *, below, number):
    """Send this process a signal by a file event below a folder: opening, renaming, removing."""
    watched = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"}
    count = 0

    def look(name, arguments):
        nonlocal count
        if name not in watched or not any(str(part).startswith(below) for part in arguments[:2]):
            return
        count += 1
        if count == event:
            os.kill(os.getpid(), number)

    sys.addaudithook(look)
    return lambda: count


def verb(words, *, inside=False, environment=None, limits=None):
    """A verb of the command line.

    With `inside`, what trains for an engine does so in this process, so that one kill ends both.
    `limits` are of `resource`; of addresses, beyond those that are taken.
    """
    from agent_finetune import cli

    os.environ.update(environment or {})
    if inside:
        from agent_finetune.engine import process
        from agent_finetune.update import training

        def train(_, folder, settings, **__):
            (folder / process.LOG).touch()
            training.train(folder, settings)

        process.train = train
    for name, most in (limits or {}).items():
        number = getattr(resource, name)
        if number == resource.RLIMIT_AS:
            taken = int(Path("/proc/self/statm").read_text().split()[0])
            most += taken * resource.getpagesize()
        resource.setrlimit(number, (most, most))
    sys.exit(cli.main(words))


def _serve():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    # Whatever is imported here is imported once.
    import agent_finetune.adapters
    import agent_finetune.engine.local
    import agent_finetune.train
    import agent_finetune.update.training  # noqa: F401
    from agent_finetune import plugins

    plugins.commands()
    started = child = None
    for line in sys.stdin:
        if line == "wait\n":
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            told = {"code": code, "seconds": time.monotonic() - started}
            print(json.dumps(told), file=answers, flush=True)
            continue
        asked = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(asked)
        print(json.dumps({"pid": child}), file=answers, flush=True)


def _child(asked):
    """Do what was asked, and never come back."""
    code, count = 1, None
    try:
        handle = os.open(asked.pop("log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if (below := asked.pop("below", None)) is not None:
            number = asked.pop("signal", signal.SIGKILL)
            count = signal_at(asked.pop("event", 0), below=below, number=number)
        verb(**asked)
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    finally:
        if count is not None:
            print(f"events: {count()}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
