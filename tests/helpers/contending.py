"""What processes do at the same time in the tests of concurrency, started from a warm server.

A fresh process imports torch for ten seconds; these are forked from one that has done so.
"""

import multiprocessing
import os
import signal
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "agent_finetune.train.fitting",
        "agent_finetune.engine.updating",
        "agent_finetune.testing",
        "transformers.models.llama.modeling_llama",
        "matplotlib.pyplot",
    ]
)

PATIENCE = 600
"""Seconds to wait for a process before a test is called hung."""


class Other:
    """A function at work in another process; its first argument is the line between the two."""

    def __init__(self, work, *args):
        self.line, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(work, theirs, args), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self):
        return self.process.pid

    def hear(self):
        assert self.line.poll(PATIENCE), "nothing was heard of the other process"
        return self.line.recv()

    def said(self):
        """Whether there is something to hear."""
        return self.line.poll()

    def say(self, word="go"):
        self.line.send(word)

    def result(self):
        """What the function answered; an error of ours as 'Kind: message'."""
        heard = self.hear()
        self.process.join(PATIENCE)
        return heard

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE)


def _work(work, line, args):
    from agent_finetune.errors import FinetuneError

    try:
        answer = work(line, *args)
    except FinetuneError as error:
        answer = f"{type(error).__name__}: {error}"
    line.send(answer)


def train_run(line, config, pause_at=None):
    """A whole run; before the given step it says so, and waits for a word."""
    from transformers import TrainerCallback

    from agent_finetune import train
    from agent_finetune.contracts import Settings

    class Pause(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == pause_at:
                line.send("paused")
                line.recv()

    settings = Settings(cache_dir=Path(config.out).parent / "cache")
    return train.run(config, settings, report=lambda _: None, callbacks=[Pause()]).steps


def train_at_once(line, config):
    """The same, begun when the word is given."""
    line.send("ready")
    line.recv()
    return train_run(line, config)


def hold(line, out):
    """Hold a run's folder until told to leave."""
    from agent_finetune.train import lock

    with lock.held(out):
        line.send("held")
        line.recv()
    return "left"


def hold_often(line, out, times):
    """Try to hold a folder many times; write into it what only one may write at a time."""
    from agent_finetune.errors import ConfigError
    from agent_finetune.train import lock

    won = told = 0
    line.send("ready")
    line.recv()
    for _ in range(times):
        try:
            with lock.held(out):
                (out / "alone").touch(exist_ok=False)
                won += 1
                (out / "alone").unlink()
        except ConfigError as error:
            told += "another run is writing here" in str(error)
    return won, told


def commit_versions(line, store, count):
    """Make versions whose files all say the same number, and put each to use."""
    from agent_finetune.versions import Versions

    versions = Versions(store, "helper")
    for stamp in range(count):
        with versions.begin() as staging:
            write_stamped(staging / "adapter", f"{os.getpid()}-{stamp}")
            versions.use(versions.commit(staging, {"stamp": f"{os.getpid()}-{stamp}"}))
    return count


def read_versions(line, store):
    """Read whatever version is in use until told to stop; answer how many were seen, and how."""
    from agent_finetune.versions import Versions

    versions = Versions(store, "helper")
    reads, seen, broken = 0, set(), []
    while not line.poll():
        number = versions.current()
        if number is None:
            continue
        found = {versions.facts(number)["stamp"], *stamps(versions.adapter_dir(number))}
        reads += 1
        seen.add(number)
        if len(found) != 1:
            broken.append((number, found))
    return reads, seen, broken


def write_stamped(folder, stamp):
    """An adapter of a kind: several files, of which each says which one it is of."""
    folder.mkdir(exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        (folder / name).write_text(stamp * 500)


def stamps(folder):
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(texts) == 3
    return {text[: len(text) // 500] if len(text) % 500 == 0 else text for text in texts.values()}


def replace_adapter(line, place, choices, times):
    """Put one adapter after the other in the same place, each in one step."""
    import shutil

    from agent_finetune import artifacts

    for turn in range(times):
        with artifacts.new_folder(place, replace=True) as folder:
            shutil.copytree(choices[turn % len(choices)], folder, dirs_exist_ok=True)
    return times


def open_adapter(line, model, place):
    """Open the adapter in a place until told to stop.

    Every adapter there has weights that are all its alpha. Answers how many were opened of each,
    how often it was told to try again, and what did not fit together.
    """
    from agent_finetune import adapters
    from agent_finetune.config import ModelConfig
    from agent_finetune.contracts import Settings
    from agent_finetune.errors import ModelError

    config = ModelConfig(model=str(model), adapter=str(place), device="cpu", dtype="float32")
    opened, again, mixed = {}, 0, []
    while not line.poll():
        try:
            loaded = adapters.open_model(config, Settings(cache_dir=place.parent / "cache"))
        except ModelError as error:
            if "took its place while it was read" not in str(error):
                raise
            again += 1
            continue
        alpha = loaded.model.peft_config["default"].lora_alpha
        weights = [w for name, w in loaded.model.named_parameters() if "lora_B" in name]
        if not all(bool((weight == alpha).all()) for weight in weights):
            mixed.append(alpha)
        opened[alpha] = opened.get(alpha, 0) + 1
    return opened, again, mixed


def convert(line, file, cache):
    """Unpack a GGUF file, and tell when the work really begins."""
    import torch

    from agent_finetune.models import gguf

    really = gguf._convert

    def told(*args):
        line.send("converting")
        line.recv()
        really(*args)

    gguf._convert = told
    cache.mkdir(parents=True, exist_ok=True)
    return gguf.converted_folder("m", file, torch.float32, cache)


def merge(line, adapter, out, cache):
    from agent_finetune import adapters
    from agent_finetune.contracts import Settings

    really = adapters._on_top

    def told(*args, **options):
        loaded = really(*args, **options)
        line.send("loaded")
        line.recv()
        return loaded

    adapters._on_top = told
    return adapters.merge(adapter, out, Settings(cache_dir=cache))


def update_name(line, store):
    """Be the one that updates a name, until told to leave."""
    from agent_finetune.engine import updating
    from agent_finetune.versions import Versions

    def waiting(told):
        line.send(told["waiting"])

    with updating._alone(Versions(store, "helper"), waiting):
        line.send("mine")
        line.recv()
    return "left"


def update(line, model, store, cache):
    """Let a live engine learn once, and say what is waited for."""
    import updating_host
    from live_engines import open_engine

    from agent_finetune.contracts import Settings
    from agent_finetune.feedback import align, read_feedback

    told = []
    engine = open_engine(model)
    engine._settings = Settings(cache_dir=cache)
    line.send("ready")
    line.recv()
    report = engine.update(
        "helper",
        align(read_feedback(updating_host.PAIRS)),
        store=store,
        config=updating_host.QUICK,
        on_progress=told.append,
    )
    engine.close()
    return report.version, any("waiting" in line for line in told)
