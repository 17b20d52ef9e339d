"""Ctrl-C and SIGTERM: one last line, the exit code that shells expect, and a run that goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import forked
import pytest
from forked import STEPS, learn_words, train_words
from train_jobs import losses, read
from updating_host import check_whole

from agent_finetune import adapters, ending
from agent_finetune.testing import save_tiny_model
from agent_finetune.train import folder
from agent_finetune.versions import Versions

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    with forked.forks(tmp_path_factory.mktemp("forks")) as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return forked.write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def whole(forks, model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = forks.run(train_words(model, data, out), below=str(out))
    assert ended.code == 0, ended.said
    return out


def last_line(ended):
    lines = [line for line in ended.said.splitlines() if not line.startswith("events: ")]
    return lines[-1]


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_run_that_is_stopped_says_so_and_goes_on(
    forks, model, data, whole, tmp_path, number, code, word
):
    out = tmp_path / "run"
    words = train_words(model, data, out)
    ended = forks.run(words, below=str(out), event=130, signal=number)
    assert ended.code == code, ended.said
    run, (step, newest) = read(out / "run.json"), folder.whole_checkpoints(out)[-1]
    assert (run["status"], "error" in run) == ("interrupted", False)
    assert 0 < step <= run["steps"] < STEPS
    steps = run["steps"]
    assert last_line(ended) == (
        f"{word} at step {steps}; the same command with --resume goes on from {newest}"
    )
    assert not (out / "adapter").exists()
    assert "Traceback" not in ended.said
    assert forks.run([*words, "--resume"]).code == 0
    assert losses(out) == pytest.approx(losses(whole), abs=1e-6)
    assert adapters.digest(out / "adapter") == adapters.digest(whole / "adapter")


def test_a_run_that_is_stopped_before_its_first_checkpoint_says_so(forks, model, data, tmp_path):
    out = tmp_path / "run"
    words = train_words(model, data, out, save=4)
    ended = forks.run(words, below=str(out / "history.jsonl"), event=3, signal=signal.SIGTERM)
    assert ended.code == 143, ended.said
    assert "before the first checkpoint (--save-steps); --resume begins again" in last_line(ended)
    assert read(out / "run.json")["status"] == "interrupted"


def test_a_merge_that_is_stopped_leaves_nothing(forks, whole, tmp_path):
    words = ["merge", "--adapter", whole / "adapter", "--out", tmp_path / "m"]
    ended = forks.run(words, below=str(tmp_path), event=4, signal=signal.SIGTERM)
    assert ended.code == 143, ended.said
    assert last_line(ended) == f"terminated; {tmp_path / 'm'} was not written"
    assert list(tmp_path.iterdir()) == []


def test_an_update_that_is_stopped_leaves_what_was_in_use(forks, model, tmp_path):
    store = tmp_path / "store"
    words = learn_words(model, store, tmp_path / "pairs.jsonl")
    environment = {"AGENT_FINETUNE_CACHE": str(tmp_path / "cache")}
    options = {"inside": True, "environment": environment, "below": str(store)}
    ended = forks.run(words, event=60, signal=signal.SIGTERM, **options)
    assert ended.code == 143, ended.said
    assert last_line(ended) == "terminated; the base is in use for 'helper'"
    check_whole(store)
    assert Versions(store, "helper").current() is None


def test_the_same_signal_twice_is_one():
    def stopped():
        with ending.by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(ending.Terminated):
        stopped()

    def told_twice():
        with ending.by_signals():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGTERM)  # a launcher hands it on
                said.append("tidied up")

    said = []
    with pytest.raises(KeyboardInterrupt) as caught:
        told_twice()
    assert (said, ending.code(caught.value)) == (["tidied up"], 130)


def test_signals_of_others_are_left_alone():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending.by_signals():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    seen = []

    def elsewhere():
        with ending.by_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_several_processes_that_are_stopped_leave_one_run_that_goes_on(
    model, data, tmp_path, number, code, word
):
    out = tmp_path / "run"
    words = train_words(model, data, out, steps=60)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node=2", "-m", "agent_finetune.cli"]
    process = subprocess.Popen([*torchrun, *words], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not folder.whole_checkpoints(out) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert read(out / "run.json")["status"] == "interrupted", said
    assert said.count("the same command with --resume goes on from") == 1
    again = subprocess.run([*torchrun, *words, "--resume"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(losses(out)) == 60
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
