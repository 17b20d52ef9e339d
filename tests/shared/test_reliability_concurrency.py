"""Real processes at the same files: the second is told or waits, and nobody ever sees half."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import contending
import pytest
import torch
from contending import Other
from live_engines import ask, close_all, make_adapter, open_engine
from safetensors.torch import load_file, save_file
from train_jobs import losses, read
from transformers import PreTrainedModel

from agent_finetune import adapters, testing, train
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.engine import lora
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.train import lock
from agent_finetune.versions import Versions

HELPERS = str(Path(contending.__file__).parent)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return testing.save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    turns = [("user", "Hello"), ("assistant", "The weather is sunny")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    path.write_text((json.dumps(row) + "\n") * 8)
    return path


@pytest.fixture
def config(model, data, tmp_path):
    return RunConfig(
        model=ModelConfig(model=str(model), device="cpu", dtype="float32"),
        data=DataConfig(data=str(data)),
        out=str(tmp_path / "out"),
        lora=AdapterConfig(rank=2),
        train=TrainConfig(batch_size=2, max_steps=4, save_steps=2),
    )


def resumed(config, **changes):
    return replace(config, train=replace(config.train, resume=True, **changes))


def content(folder):
    """Every file below a folder, by name and sha256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_here(config):
    return train.run(config, Settings(cache_dir=Path(config.out).parent / "c"), report=lambda _: 0)


# Two runs, one folder


def test_a_second_run_is_told_who_is_writing_and_harms_nothing(config, tmp_path):
    first = Other(contending.train_run, config, 3)
    assert first.hear() == "paused"
    out = Path(config.out)
    before = content(out)
    assert read(out / "run.json")["status"] == "running"
    for second in (config, resumed(config)):
        told = Other(contending.train_run, second).result()
        assert f"out: another run is writing here (process {first.pid}, since 20" in told
        assert "give another out" in told
        assert content(out) == before
    first.say()
    assert first.result() == 4
    run_here(replace(config, out=str(tmp_path / "undisturbed")))
    assert losses(out) == losses(tmp_path / "undisturbed")
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == [".lock"]


def test_a_killed_holder_is_no_holder_and_the_run_goes_on(config, tmp_path):
    first = Other(contending.train_run, config, 3)
    first.hear()
    first.kill()
    with pytest.raises(ConfigError, match="holds an unfinished run"):
        run_here(config)
    run_here(resumed(config))
    run_here(replace(config, out=str(tmp_path / "undisturbed")))
    assert losses(Path(config.out)) == pytest.approx(losses(tmp_path / "undisturbed"), abs=1e-6)


def test_a_holder_that_died_is_not_named_as_the_one_that_holds(tmp_path):
    dead = Other(contending.hold, tmp_path)
    dead.hear()
    dead.kill()
    assert read(tmp_path / ".holder.json")["pid"] == dead.pid
    holder = Other(contending.hold, tmp_path)
    holder.hear()
    with pytest.raises(ConfigError, match=f"process {holder.pid}, since"):
        lock.check(tmp_path)
    (tmp_path / ".holder.json").write_text(json.dumps({"pid": dead.pid, "since": "then"}))
    with pytest.raises(ConfigError, match=r"another run is writing here; wait for its end"):
        lock.check(tmp_path)
    holder.say()
    assert holder.result() == "left"
    lock.check(tmp_path)


def test_two_threads_of_a_process_are_two_holders_and_one_thread_is_one(tmp_path):
    problems = []

    def other():
        with pytest.raises(ConfigError, match="another run is writing here") as told:
            lock.check(tmp_path)
        problems.append(told.value)

    with lock.held(tmp_path):
        with lock.held(tmp_path):
            lock.check(tmp_path)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(problems) == 1


def test_a_run_that_cannot_begin_leaves_no_folder(config):
    broken = replace(config, model=replace(config.model, model=str(config.model.model) + "-not"))
    with pytest.raises(ModelError):
        run_here(broken)
    assert not Path(config.out).exists()


def test_of_many_that_start_at_once_one_trains_and_all_others_are_told(config):
    short = replace(config, train=replace(config.train, max_steps=1))
    others = [Other(contending.train_at_once, short) for _ in range(4)]
    for other in others:
        assert other.hear() == "ready"
    for other in others:
        other.say()
    answers = [other.result() for other in others]
    assert answers.count(1) == 1
    told = [answer for answer in answers if answer != 1]
    # The last may come when the first has finished.
    assert all("another run is writing" in t or "holds a finished run" in t for t in told), told
    assert read(Path(config.out) / "run.json")["status"] == "finished"


@pytest.mark.parametrize("times", [50, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_folder_that_comes_and_goes_has_never_two_holders(tmp_path, times):
    others = [Other(contending.hold_often, tmp_path / "out", times) for _ in range(4)]
    for other in others:
        other.hear()
    for other in others:
        other.say()
    counts = [other.result() for other in others]
    assert all(won + told == times for won, told in counts), counts
    assert sum(won for won, _ in counts) > 0
    assert content(tmp_path / "out").keys() <= {".lock"}


@pytest.mark.slow
def test_the_processes_of_torchrun_are_one_holder_and_a_second_torchrun_is_told(config, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "from agent_finetune.train import handed\n"
        "from agent_finetune.contracts import Settings\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "handed.run(folder, Settings(cache_dir=folder / 'cache'))\n"
    )
    from agent_finetune.train import handed

    (tmp_path / "ask").mkdir()
    handed.ask(tmp_path / "ask", config)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "--standalone", str(script), str(tmp_path / "ask")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert read(Path(config.out) / "run.json")["model"]["processes"] == 2
    with lock.held(Path(config.out)):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "another run is writing here (process" in done.stderr


# One adapter's name


@pytest.mark.parametrize(
    ("writers", "count"), [(1, 100), pytest.param(4, 100, marks=pytest.mark.slow)]
)
def test_readers_of_the_version_in_use_never_see_half(tmp_path, writers, count):
    readers = [Other(contending.read_versions, tmp_path) for _ in range(2)]
    writing = [Other(contending.commit_versions, tmp_path, count) for _ in range(writers)]
    assert [writer.result() for writer in writing] == [count] * writers
    for reader in readers:
        reader.say("stop")
    for reads, seen, broken in (reader.result() for reader in readers):
        assert broken == []
        assert reads > 20
        assert len(seen) > 5
    numbers = [info.number for info in Versions(tmp_path, "helper").list()]
    assert numbers == list(range(1, writers * count + 1))


def test_of_processes_that_update_one_name_one_waits_and_outlives_one_that_dies(tmp_path):
    waits = "another process is updating 'helper'; waiting for its end"
    first = Other(contending.update_name, tmp_path)
    assert first.hear() == "mine"
    second = Other(contending.update_name, tmp_path)
    assert second.hear() == waits
    elsewhere = Other(contending.update_name, tmp_path / "other store")
    assert elsewhere.hear() == "mine"
    assert not second.said()
    first.say()
    assert first.result() == "left"
    assert second.hear() == "mine"
    third = Other(contending.update_name, tmp_path)
    assert third.hear() == waits
    second.kill()
    assert third.hear() == "mine"
    for other in (third, elsewhere):
        other.say()
        assert other.result() == "left"


@pytest.mark.slow
def test_updates_of_one_name_at_once_follow_each_other(model, tmp_path):
    others = [
        Other(contending.update, model, tmp_path / "store", tmp_path / "cache") for _ in range(3)
    ]
    for other in others:
        other.hear()
    for other in others:
        other.say()
    answers = sorted(other.result() for other in others)
    assert answers == [(1, False), (2, True), (3, True)]
    infos = Versions(tmp_path / "store", "helper").list()
    assert [(info.number, info.parent) for info in infos] == [(1, None), (2, 1), (3, 2)]


# One adapter's folder


def stamped_adapters(model, folder):
    """Two adapters whose weights are all their alpha."""
    made = [make_adapter(model, folder / str(alpha), seed=alpha) for alpha in (8, 24)]
    for alpha, path in zip((8, 24), made, strict=True):
        weights = load_file(path / "adapter_model.safetensors")
        save_file(
            {n: torch.full_like(w, alpha) for n, w in weights.items()},
            path / "adapter_model.safetensors",
        )
        described = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(described | {"lora_alpha": alpha}))
    return made


@pytest.mark.parametrize("times", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_readers_of_an_adapter_that_is_replaced_get_one_or_the_other(model, tmp_path, times):
    choices = stamped_adapters(model, tmp_path)
    contending.replace_adapter(None, tmp_path / "out" / "adapter", choices, 1)
    readers = [
        Other(contending.open_adapter, model, tmp_path / "out" / "adapter") for _ in range(2)
    ]
    assert Other(contending.replace_adapter, tmp_path / "out" / "adapter", choices, times).result()
    time.sleep(0.5)  # whoever was always in the way now reads one
    for reader in readers:
        reader.say("stop")
    for opened, _, mixed in (reader.result() for reader in readers):
        assert mixed == []
        assert sum(opened.values()) > 0
        assert opened.keys() <= {8, 24}


def test_an_adapter_that_is_replaced_while_it_is_attached_is_not_served(
    model, tmp_path, monkeypatch
):
    one, other = stamped_adapters(model, tmp_path)
    place = tmp_path / "out" / "adapter"
    contending.replace_adapter(None, place, [one], 1)
    really = lora.AdapterBank.add

    def late(self, key, folder):
        contending.replace_adapter(None, place, [other], 1)
        really(self, key, folder)

    engine = open_engine(model)
    with monkeypatch.context() as patch:
        patch.setattr(lora.AdapterBank, "add", late)
        with pytest.raises(ModelError, match="another adapter took its place while it was read"):
            engine.attach("helper", place)
    engine.attach("helper", place)
    engine.attach("same", other)
    said = [engine.generate(ask("Hello", adapter=name)) for name in ("helper", "same")]
    assert said[0].revision == said[1].revision
    engine.close()
    close_all()


def test_a_run_that_is_resumed_replaces_its_adapter_under_its_readers(config):
    run_here(replace(config, train=replace(config.train, max_steps=1)))
    adapter = Path(config.out) / "adapter"
    stop, seen, told = threading.Event(), set(), []

    def look():
        opening = replace(config.model, adapter=str(adapter))
        while not stop.wait(0.05):  # the run loads too, and one thread loads at a time
            try:
                adapters.open_model(opening, Settings(cache_dir=adapter.parent / "c"))
                seen.add(adapters.digest(adapter))
            except (ModelError, OSError) as error:
                told.append(str(error))

    thread = threading.Thread(target=look)
    thread.start()
    for steps in (2, 3):
        run_here(resumed(config, max_steps=steps))
    stop.set()
    thread.join()
    assert seen
    assert all("took its place while it was read" in line for line in told), told


def test_threads_that_load_at_once_leave_every_later_model_whole(model, tmp_path):
    ties = PreTrainedModel.tie_weights
    config = ModelConfig(model=str(model), device="cpu", dtype="bfloat16")
    start = threading.Barrier(4)

    def load_some(_):
        start.wait()
        for _ in range(3):
            adapters.open_model(config, Settings(cache_dir=tmp_path))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load_some, range(4)))
    assert PreTrainedModel.tie_weights is ties
    assert torch.get_default_dtype() == torch.float32


# One model, one cache; one merged model


def test_two_processes_unpack_one_gguf_once(tmp_path):
    pytest.importorskip("gguf")
    from tiny_gguf import write_gguf

    tokenizer = testing.tiny_tokenizer()
    file = write_gguf(tmp_path / "tiny.gguf", testing.tiny_model(tokenizer), tokenizer)
    first = Other(contending.convert, file, tmp_path / "cache")
    assert first.hear() == "converting"
    second = Other(contending.convert, file, tmp_path / "cache")
    time.sleep(0.5)
    assert not second.said()  # it waits
    assert not list((tmp_path / "cache").glob("gguf-*/"))
    first.kill()
    assert second.hear() == "converting"  # the work of the dead is taken over
    third = Other(contending.convert, file, tmp_path / "cache")
    second.say()
    folder = second.result()
    assert third.result() == folder  # and never said that it converts
    assert (folder / "model.safetensors").is_file()
    made = [p.name for p in (tmp_path / "cache").glob("gguf-*/")]
    assert sorted(made) == [folder.name, folder.name.replace("float32", "tokenizer")]


def test_of_two_merges_into_one_folder_the_second_is_told(model, tmp_path):
    adapter = make_adapter(model, tmp_path / "adapter", seed=1)
    two = [
        Other(contending.merge, adapter, tmp_path / "merged", tmp_path / "cache") for _ in range(2)
    ]
    for other in two:
        assert other.hear() == "loaded"
    for other in two:
        other.say()
    answers = [other.result() for other in two]
    assert answers.count(tmp_path / "merged") == 1, answers
    [told] = [answer for answer in answers if isinstance(answer, str)]
    assert "already there, and nothing is overwritten" in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "cache", "merged"]
