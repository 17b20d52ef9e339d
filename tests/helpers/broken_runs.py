"""Run files, configs, and what runs left on the disk, for `broken_inputs` to break."""

import json
import tomllib
from dataclasses import asdict

from broken_data import Kind
from broken_inputs import as_json, broken_bytes, broken_value


class Config(Kind):
    """Run files, the flags made of them, and configs handed to another process."""

    places = ("config", "--", "Invalid", "Unknown", "Missing")

    def __init__(self, folder):
        from agent_finetune.config import (
            AdapterConfig,
            DataConfig,
            ModelConfig,
            RunConfig,
            TrainConfig,
        )

        super().__init__(folder)
        self.config = RunConfig(
            model=ModelConfig(model="m"), data=DataConfig(data="d"), out="o",
            lora=AdapterConfig(), train=TrainConfig(),
        )  # fmt: skip
        self.values = {
            name: value
            for part in ("model", "data", "lora", "train")
            for name, value in asdict(self.config)[part].items()
        }
        self.fields = frozenset(self.values)

    def names(self, said):
        return super().names(said) or any(name in said for name in self.fields)

    def __call__(self, draw, room):
        from agent_finetune.config import RunConfig

        if draw.random() < 0.3:
            RunConfig.from_dict(broken_value(draw, json.loads(json.dumps(asdict(self.config)))))
            return
        path = room / "run.toml"
        values = {name: value for name, value in self.values.items() if draw.random() < 0.2}
        values = broken_value(draw, values) if values and draw.random() < 0.7 else values
        lines = [f"{name} = {_toml(v)}" for name, v in values.items()] if isinstance(
            values, dict) else ["="]  # fmt: skip
        raw = "\n".join(lines).encode(errors="surrogatepass")
        path.write_bytes(broken_bytes(draw, raw) if raw and draw.random() < 0.4 else raw)
        self.parse(["train", "--model", "m", "--data", "d", "--out", "o", "--config", str(path)])

    def parse(self, words):
        """As the command line does, up to the verb itself."""
        from cyclopts import CycloptsError

        from agent_finetune.cli.app import _app
        from agent_finetune.errors import ConfigError, FinetuneError

        try:
            _app(words).parse_args(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            cause = error.__cause__ if isinstance(error.__cause__, FinetuneError) else error
            raise ConfigError(" ".join(str(cause).split())) from error


class Runs(Kind):
    """What runs and updates left on the disk: run.json, history, checkpoints, versions."""

    def __init__(self, folder):
        from agent_finetune import train  # heavy, and not to count for the first case
        from agent_finetune.config import DataConfig, ModelConfig, RunConfig

        super().__init__(folder)
        assert train
        config = RunConfig(model=ModelConfig(model="m"), data=DataConfig(data="d"), out="o")
        self.run = {"status": "running", "config": asdict(config), "must_stay": {"seed": 0}}
        self.history = [{"step": n, "epoch": 0.1, "loss": 1.0} for n in range(5)]
        self.files = {
            "run.json": json.loads(json.dumps(self.run)),
            "a/versions/0001/version.json": {"created": "2026-01-01", "parent": None},
            "a/versions/0002/version.json": {"created": "2026-01-01", "parent": 1},
            "a/previous.json": [1],
        }

    def __call__(self, draw, room):
        for name, value in self.files.items():
            path = room / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                raw = as_json(broken_value(draw, value) if draw.random() < 0.5 else value)
            except (ValueError, RecursionError):
                raw = b"["
            path.write_bytes(broken_bytes(draw, raw) if draw.random() < 0.3 else raw)
        lines = b"".join(as_json(line) + b"\n" for line in self.history)
        (room / "history.jsonl").write_bytes(broken_bytes(draw, lines))
        current = b"0002\n" if draw.random() < 0.6 else broken_bytes(draw, b"0002\n")
        (room / "a/current").write_bytes(current)
        draw.choice((self.resume, self.look, self.versions))(room)

    def resume(self, room):
        from agent_finetune.train import folder, history

        run = folder.read_run(room)
        folder.check(room, resume=True)
        if run is not None:
            folder.check_same(room, run, {"seed": 0})
            folder.check_resumable(room, run)
        folder.whole_checkpoints(room)
        history.History(room / "history.jsonl", resume_at=3)

    def look(self, room):
        from agent_finetune.train import folder

        folder.check(room, resume=False)

    def versions(self, room):
        from agent_finetune.versions import Versions

        versions = Versions(room, "a")
        versions.list()
        versions.use(1)
        versions.rollback()
        versions.facts(2)


def _toml(value):
    try:
        text = json.dumps(value)
        tomllib.loads(f"a = {text}")
    except (ValueError, RecursionError, TypeError):
        return "{}"
    return text
