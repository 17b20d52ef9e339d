"""Updates beside many requests, and updates that are killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_engines import ask, open_engine
from updating_host import PAIRS, QUICK, check_whole, learn

from agent_finetune.contracts import Settings
from agent_finetune.engine import process
from agent_finetune.errors import TrainError
from agent_finetune.feedback import align, read_feedback
from agent_finetune.testing import save_tiny_model
from agent_finetune.versions import Versions

HOST = Path(__file__).parent.parent / "helpers" / "updating_host.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory, model):
    """With the base's own answers in it."""
    folder = tmp_path_factory.mktemp("cache")
    learn(model, tmp_path_factory.mktemp("store"), folder, times=1)
    return folder


def answers_of(engine, folder, texts):
    """What each version says, asked for by itself."""
    versions = Versions(folder.parent, folder.name)
    known = {}
    for info in versions.list():
        name = f"alone {info.number}"
        revision = engine.attach(name, versions.adapter_dir(info.number))
        known[revision] = [
            engine.generate(ask(text, adapter=name)).message.generation.ids for text in texts
        ]
        engine.detach(name)
    return known


def test_200_requests_beside_updates_and_roll_backs_are_each_explained_by_their_revision(
    model, cache, tmp_path
):
    learn(model, tmp_path, cache)
    engine = open_engine(model)
    engine._settings = Settings(cache_dir=cache)
    folder = tmp_path / "helper"
    versions = Versions(tmp_path, "helper")
    engine.attach("helper", folder)
    texts = [f"Question number {number}" for number in range(8)]
    stop = threading.Event()

    def roll():
        while not stop.is_set():
            versions.rollback()
            time.sleep(0.05)
            versions.use(2)
            time.sleep(0.05)

    def agent(number):
        made = []
        for _ in range(25):
            made.append((number, engine.generate(ask(texts[number], adapter="helper"))))
            time.sleep(0.05)
        return made

    rolling = threading.Thread(target=roll)
    rolling.start()
    with ThreadPoolExecutor(9) as pool:
        updates = pool.submit(
            engine.update, "helper", align(read_feedback(PAIRS)), store=tmp_path, config=QUICK
        )
        made = [each for found in pool.map(agent, range(8)) for each in found]
        stop.set()
        rolling.join()
        updates.result()
    known = answers_of(engine, folder, texts)
    assert len(made) == 200
    assert len({answer.revision for _, answer in made}) >= 2
    for number, answer in made:
        assert answer.message.generation.ids == known[answer.revision][number]
    engine.close()


def kill_trainer(model, cache, store, delay, monkeypatch):
    engine = open_engine(model)
    engine._settings = Settings(cache_dir=cache)
    before = engine.generate(ask("Hello"))
    started = subprocess.Popen

    def killed(*words, **options):
        process = started(*words, **options)
        threading.Timer(delay, process.kill).start()
        return process

    monkeypatch.setattr(process.subprocess, "Popen", killed)
    try:
        engine.update("helper", align(read_feedback(PAIRS)), store=store, config=QUICK)
    except TrainError:
        assert Versions(store, "helper").current() is None
    after = engine.generate(ask("Hello"))
    assert after.message == before.message
    assert after.revision == before.revision
    engine.close()
    check_whole(store)


def kill_host(model, cache, store, delay):
    environment = {**os.environ, "PYTHONPATH": str(HOST.parent)}
    process = subprocess.Popen(
        [sys.executable, str(HOST), str(model), str(store), str(cache)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 20
    while trainers_of(store):
        assert time.monotonic() < end, "the trainer outlived its host"
        time.sleep(0.1)
    check_whole(store)


def trainers_of(store):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it is gone
            continue
        if "agent_finetune.cli.trainer" in words and any(str(store) in word for word in words):
            found.append(path)
    return found


@pytest.mark.parametrize("delay", [0.5, 6.0])
def test_a_killed_trainer_changes_nothing(model, cache, tmp_path, delay, monkeypatch):
    kill_trainer(model, cache, tmp_path, delay, monkeypatch)


@pytest.mark.parametrize("delay", [8.0, 14.0])
def test_a_killed_host_leaves_whole_versions_and_takes_its_trainer_along(
    model, cache, tmp_path, delay
):
    kill_host(model, cache, tmp_path, delay)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_trainer_killed_at_any_moment_changes_nothing(model, cache, tmp_path, seed, monkeypatch):
    kill_trainer(model, cache, tmp_path, random.Random(seed).uniform(0, 10), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_host_killed_at_any_moment_leaves_whole_versions(model, cache, tmp_path, seed):
    kill_host(model, cache, tmp_path, random.Random(seed).uniform(4, 24))
