"""`kill -9` at random moments: what stands is whole or absent, and going on ends the same.

Half of the kills come after a random time, and may fall into the middle of a write. The others
come at a random file event (an opening, a renaming, a removal), so that every step of writing is
met: most of the time nothing is written.
"""

import random
import shutil
import signal

import forked
import pytest
from forked import STEPS, learn_words, train_words
from train_jobs import losses, read
from updating_host import check_whole, learn

from agent_finetune import adapters
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.testing import save_tiny_model
from agent_finetune.train import folder
from agent_finetune.versions import Versions

TRAINING, MERGES, UPDATES = 32, 8, 10
"""Kills in the slow form."""


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
    """A run that nobody killed; how long it took, and how many file events it had."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = forks.run(train_words(model, data, out), below=str(out))
    assert ended.code == 0, ended.said
    return out, ended.seconds, events(ended)


def events(ended):
    return int(ended.said.rpartition("events: ")[2])


def moment(seed, seconds, count):
    """When a process dies: after some time, or at a file event."""
    draw = random.Random(seed)
    if seed % 2:
        return {"kill_after": draw.uniform(0, seconds)}
    return {"event": draw.randint(1, count)}


def loads(model, adapter=None):
    """What is there, loaded; half of it would not be."""
    name = None if adapter is None else str(adapter)
    config = ModelConfig(model=str(model), device="cpu", dtype="float32", adapter=name)
    return adapters.open_model(config, Settings())


def kill_training(forks, model, data, whole, out, seeds):
    """Kill a run once for each seed, going on each time, and let it end; answers the kills."""
    expected, seconds, count = whole
    killed = 0
    for seed in seeds:
        given = train_words(model, data, out, "--resume")
        ended = forks.run(given, below=str(out), **moment(seed, seconds, count))
        if ended.code == 0:  # it was done before its moment came
            break
        assert ended.code == -signal.SIGKILL, ended.said
        killed += 1
        check_run(model, out)
    if not (out / "run.json").exists() or read(out / "run.json")["status"] != "finished":
        ended = forks.run(train_words(model, data, out, "--resume"))
        assert ended.code == 0, ended.said
    check_same(out, expected)
    return killed


def check_run(model, out):
    """What a killed run left: whole checkpoints that load, and an adapter that is whole or none."""
    for step, path in folder.whole_checkpoints(out):
        assert read(path / "trainer_state.json")["global_step"] == step
        loads(model, path)
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= {p.name for p in path.iterdir()}
    if (out / "adapter").exists():
        loads(model, out / "adapter")
    if (out / "run.json").exists():
        assert read(out / "run.json")["status"] in ("running", "finished")


def check_same(out, expected):
    assert losses(out) == pytest.approx(losses(expected), abs=1e-6)
    assert len(losses(out)) == STEPS
    assert adapters.digest(out / "adapter") == adapters.digest(expected / "adapter")
    assert {path.name for path in out.iterdir()} == {path.name for path in expected.iterdir()}
    kept = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (out, expected)]
    assert kept[0] == kept[1]


def kill_merge(forks, model, adapter, out, when):
    """Kill a merge; what it left does not keep the next one from its work. Whether it was."""
    given = ["merge", "--adapter", str(adapter), "--out", str(out)]
    ended = forks.run(given, below=str(out.parent), **when)
    assert ended.code in (0, -signal.SIGKILL), ended.said
    killed = ended.code != 0
    if not out.exists():
        ended = forks.run(given)
        assert ended.code == 0, ended.said
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    merged = loads(out)
    adapted = loads(model, adapter).model
    ids = merged.tokenizer("What is the weather?", return_tensors="pt").input_ids
    assert merged.model(ids).logits.allclose(adapted(ids).logits, atol=1e-5)
    return killed


@pytest.fixture(scope="module")
def learned(model, tmp_path_factory):
    """A store with one version, and the base's own answers, which updates ask for once."""
    store, cache = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("cache")
    learn(model, store, cache, times=1)
    return store, cache


def update(forks, model, learned, store, **when):
    """A second version, trained in the same process, so that one kill ends both."""
    first, cache = learned
    shutil.copytree(first, store)
    words = learn_words(model, store, store.with_suffix(".jsonl"))
    environment = {"AGENT_FINETUNE_CACHE": str(cache)}
    return forks.run(words, inside=True, environment=environment, below=str(store), **when)


def kill_update(forks, model, learned, store, when):
    """Kill an update of the second version: that or the first is in use. Whether it was killed."""
    ended = update(forks, model, learned, store, **when)
    assert ended.code in (0, -signal.SIGKILL), ended.said
    check_whole(store)
    versions = Versions(store, "helper")
    assert versions.current() in ((2,) if ended.code == 0 else (1, 2))
    for info in versions.list():
        loads(model, versions.adapter_dir(info.number))
    assert (versions.folder / "current").read_text() in ("0001\n", "0002\n")
    return ended.code != 0


def test_a_run_killed_three_times_ends_as_if_nothing_had_happened(
    forks, model, data, whole, tmp_path
):
    assert kill_training(forks, model, data, whole, tmp_path / "run", [2, 7, 4]) >= 2


def test_a_killed_merge_leaves_nothing_that_is_half(forks, model, whole, tmp_path):
    kill_merge(forks, model, whole[0] / "adapter", tmp_path / "merged" / "m", {"event": 6})


def test_a_killed_update_leaves_the_version_that_was_in_use(forks, model, learned, tmp_path):
    kill_update(forks, model, learned, tmp_path / "store", {"event": 60})


@pytest.mark.slow
def test_training_killed_at_32_moments_ends_with_the_same_losses(
    forks, model, data, whole, tmp_path
):
    killed = number = 0
    while killed < TRAINING:
        seeds = range(100 * number, 100 * number + 1 + number % 4)
        out = tmp_path / str(number)
        killed += kill_training(forks, model, data, whole, out, seeds)
        number += 1
    print(f"{killed} kills in {number} runs")


@pytest.mark.slow
def test_merging_killed_at_8_moments_leaves_nothing_that_is_half(forks, model, whole, tmp_path):
    adapter = whole[0] / "adapter"
    out = tmp_path / "first" / "m"
    given = ["merge", "--adapter", str(adapter), "--out", str(out)]
    ended = forks.run(given, below=str(out.parent))
    killed = seed = 0
    while killed < MERGES:
        when = moment(seed, ended.seconds, events(ended))
        killed += kill_merge(forks, model, adapter, tmp_path / str(seed) / "m", when)
        seed += 1
    print(f"{killed} kills in {seed} merges")


@pytest.mark.slow
def test_updates_killed_at_10_moments_leave_whole_versions(forks, model, learned, tmp_path):
    ended = update(forks, model, learned, tmp_path / "first")
    assert ended.code == 0, ended.said
    killed = seed = 0
    while killed < UPDATES:
        when = moment(seed, ended.seconds, events(ended))
        killed += kill_update(forks, model, learned, tmp_path / str(seed), when)
        seed += 1
    print(f"{killed} kills in {seed} updates")
