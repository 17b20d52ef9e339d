"""The kinds of inputs that `broken_inputs` breaks: how a specimen is made, broken and read."""

import json
import shutil
import sqlite3
import tomllib
import warnings
from dataclasses import asdict
from pathlib import Path

from agent_rows import KERNEL_ROWS, ROWS
from broken_inputs import as_json, broken_bytes, broken_value

from agent_finetune.contracts import Settings

PAIRS = [
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": "user", "content": "q"}], "completion": "a", "label": True},
    {"prompt": "q", "completion": "a", "reward": 0.5},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
     "label": False},
]  # fmt: skip
FLAT = [
    {"instruction": "Say", "context": "it", "response": "now", "category": "x"},
    {"instruction": "Say", "input": "it", "output": "now", "history": [["q", "a"]]},
    {"conversations": ["q", "a"]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"prompt": "q", "completion": "a"},
]


class Kind:
    """One kind of input; a case breaks a specimen into a folder, and reads it."""

    places = ()
    """What an error may name beside the case's own folder."""

    def __init__(self, folder):
        self.settings = Settings(cache_dir=folder / "cache", offline=True)

    def names(self, said):
        return any(place in said for place in self.places)


class Data(Kind):
    """Rows of every format of the kernel and the plugins, in every kind of file."""

    def __init__(self, folder):
        super().__init__(folder)
        every = [row for rows in (*ROWS.values(), *KERNEL_ROWS.values()) for row in rows]
        self.rows = [*every, *FLAT, *FLAT, *PAIRS]
        self.formats = ["auto"] * 12 + [*ROWS, *KERNEL_ROWS, "dolly", "alpaca", "lima", "nobody's"]

    def __call__(self, draw, room):
        rows = [draw.choice(self.rows)] * draw.choice((1, 2, 3))
        if draw.random() < 0.6:
            rows[draw.randrange(len(rows))] = broken_value(draw, draw.choice(rows))
        path = self.write(draw, room, rows)
        if path.is_file() and draw.random() < 0.5:
            path.write_bytes(broken_bytes(draw, path.read_bytes()))
        self.read(draw, path)

    def write(self, draw, room, rows):
        path = room / f"data{draw.choice(('.json', '.jsonl', '.jsonl', '.csv', '.txt', '.gz'))}"
        try:
            match path.suffix:
                case ".json":
                    path.write_bytes(as_json(draw.choice((rows, {"v": 1, "data": rows}, rows[0]))))
                case ".csv":
                    path.write_text(_csv(rows), errors="surrogatepass")
                case _:
                    path.write_bytes(b"\n".join(map(as_json, rows)))
        except (ValueError, RecursionError):  # what Python itself cannot write
            path.write_bytes(b'{"a": ' * draw.choice((10, 100_000)))
        if draw.random() < 0.05:
            return room
        return path

    def read(self, draw, path):
        from agent_finetune import readers
        from agent_finetune.feedback import read_feedback_file

        policy = draw.choice(("stop", "skip"))
        if draw.random() < 0.2:
            read_feedback_file(str(path), settings=self.settings, on_bad=policy)
            return
        result = readers.read(
            str(path),
            format=draw.choice(self.formats),
            on_bad_row=policy,
            settings=self.settings,
        )
        assert result.digest


class Parquet(Data):
    """Arrow tables, with what only they can hold."""

    def write(self, draw, room, rows):
        import datetime

        import pyarrow as pa
        import pyarrow.parquet as pq

        path = room / "data.parquet"
        try:
            if b"[" * 15 in (raw := as_json(rows)) or raw.count(b'{"a"') > 15:
                raise ValueError("pyarrow makes no table of what is nested so deeply")
            if draw.random() < 0.3:
                extra = draw.choice((b"x", datetime.date(1, 1, 1), float("nan"), 2**62))
                rows = [dict(row, extra=extra, content=extra) for row in rows]
            pq.write_table(pa.Table.from_pylist(rows), path)
        except (
            pa.ArrowException,
            TypeError,
            ValueError,
            OverflowError,
            AttributeError,
            RecursionError,
        ):
            pq.write_table(pa.table({"messages": [json.dumps(FLAT)]}), path)
        return path


class Leaderboard(Data):
    """Folders as the Berkeley leaderboard has them."""

    def __call__(self, draw, room):
        question = {
            "id": "simple_0",
            "question": [[{"role": "user", "content": "q"}]],
            "function": [{"name": "f", "parameters": {"type": "dict", "properties": {
                "a": {"type": "array", "items": {"type": "dict"}}, "b": {"type": "string"}},
                "required": ["a"]}}],
        }  # fmt: skip
        truth = {
            "id": "simple_0",
            "ground_truth": [{"f": {"a": [[{"x": [1, ""]}]], "b": ["", "z"]}}],
        }
        name = "BFCL_v4_simple_python.json"
        (room / "possible_answer").mkdir()
        for path, value in ((room / name, question), (room / "possible_answer" / name, truth)):
            broken = broken_value(draw, value) if draw.random() < 0.6 else value
            try:
                raw = as_json(broken)
            except (ValueError, RecursionError):
                raw = b"["
            path.write_bytes(broken_bytes(draw, raw) if draw.random() < 0.2 else raw)
        self.read(draw, draw.choice((room, room / name)))


class Recorded(Kind):
    """Databases of recordings, as files and by what stands in their rows."""

    places = ("recordings",)

    def __init__(self, folder):
        from agent_finetune.contracts import Exchange, Request, Result, Usage
        from agent_finetune.recordings import Recordings
        from agent_finetune.records import Generation, Message, ToolCall

        super().__init__(folder)
        self.path = folder / "specimen.db"
        store = Recordings(self.path)
        for number in range(3):
            ids = Generation(prompt_ids=(1, 2), ids=(3,))
            call = ToolCall(name="f", arguments={"a": 1}, id="c1")
            store.add(
                Exchange(
                    request=Request(messages=(Message(role="user", text="q"),)),
                    result=Result(
                        id=f"g{number}",
                        message=Message(
                            role="assistant", text="a", tool_calls=(call,), generation=ids
                        ),
                        revision="r",
                        finish="stop",
                        usage=Usage(prompt_tokens=2, completion_tokens=1),
                    ),
                    time=1.0,
                ),
                agent="me",
            )
            store.feedback(f"g{number}", value=True, comment="good")
        with sqlite3.connect(self.path) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.close()

    def __call__(self, draw, room):
        from agent_finetune import readers
        from agent_finetune.feedback import read_feedback
        from agent_finetune.recordings import Recordings

        path = room / "recordings.db"
        shutil.copy(self.path, path)
        if draw.random() < 0.5:
            path.write_bytes(broken_bytes(draw, path.read_bytes(), head=200))
        else:
            self.change(draw, path)
        if draw.random() < 0.7:
            part = draw.choice(("", "", "#me", "#nobody"))
            readers.read(f"{path}{part}", settings=self.settings)
        else:
            store = Recordings(path, create=False)
            read_feedback(list(store.judgements()))
            store.list()
            list(store.export("feedback"))

    def change(self, draw, path):
        table, column = draw.choice(
            (("generations", "request"), ("generations", "result"), ("feedback", "said"),
             ("generations", "time"), ("generations", "redacted"), ("generations", "id"))
        )  # fmt: skip
        connection = sqlite3.connect(path)
        number, value = connection.execute(f"SELECT number, {column} FROM {table}").fetchone()
        try:
            value = json.dumps(broken_value(draw, json.loads(value)))
            value = value if draw.random() < 0.8 else value[: len(value) // 2]
        except (TypeError, ValueError, RecursionError):
            value = draw.choice(("", "x", b"\xff", 1e308, 7, None, "\0", "NaN"))
        try:
            connection.execute(f"UPDATE {table} SET {column}=? WHERE number=?", (value, number))
        except (sqlite3.Error, ValueError):
            connection.execute(f"UPDATE {table} SET {column}='{{' WHERE number=1")
        connection.commit()
        connection.close()


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
        from agent_finetune.config import DataConfig, ModelConfig, RunConfig

        super().__init__(folder)
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


class Model(Kind):
    """Model folders: every file in them but the pickles, which are never opened."""

    def __init__(self, folder):
        from agent_finetune.testing import save_tiny_model

        super().__init__(folder)
        self.folder = save_tiny_model(folder / "specimen")
        self.files = [p.name for p in Path(self.folder).iterdir()]

    often = ("config.json", "tokenizer_config.json")
    """Files that are broken more often than others."""

    def __call__(self, draw, room):
        place = room / "model"
        shutil.copytree(self.folder, place)
        name = draw.choice([*self.files, *self.often])
        self.damage(draw, place / name)
        weights = place / "model.safetensors"
        if weights.exists() and draw.random() < 0.1:
            weights.rename(place / "pytorch_model.bin")
        elif weights.exists() and draw.random() < 0.1:
            index = {"metadata": {}, "weight_map": {"lm_head.weight": "../../x.safetensors"}}
            (place / "model.safetensors.index.json").write_bytes(
                broken_bytes(draw, as_json(index)) if draw.random() < 0.5 else as_json(index)
            )
            (place / "model.safetensors").rename(place / "model-00001-of-00001.safetensors")
        self.load(place)

    def damage(self, draw, path):
        raw = path.read_bytes()
        if path.suffix == ".json" and draw.random() < 0.6:
            try:
                path.write_bytes(as_json(broken_value(draw, json.loads(raw))))
                return
            except (ValueError, RecursionError):
                pass
        path.write_bytes(broken_bytes(draw, raw, head=2000 if path.suffix != ".json" else None))

    def load(self, place):
        from agent_finetune import models, plugins
        from agent_finetune.config import ModelConfig
        from agent_finetune.render import Renderer

        config = ModelConfig(model=str(place), device="cpu", dtype="float32")
        models.context_length(config, self.settings)
        loaded = plugins.load_model(config, self.settings)
        Renderer(loaded.tokenizer)
        models.loaded_context(loaded)

    places = ("template", "turn")


class Gguf(Model):
    """GGUF files: headers that lie, and weights that are not there."""

    def __init__(self, folder):
        from tiny_gguf import write_gguf

        from agent_finetune.testing import tiny_model, tiny_tokenizer

        Kind.__init__(self, folder)
        tokenizer = tiny_tokenizer()
        self.raw = write_gguf(folder / "m.gguf", tiny_model(tokenizer), tokenizer).read_bytes()

    def __call__(self, draw, room):
        head = draw.choice((40, 600, self.raw.find(b"blk.0"), self.raw.find(b"blk.1") + 2000))
        path = room / "m.gguf"
        path.write_bytes(broken_bytes(draw, self.raw, head=head))
        self.load(path)


class Adapter(Model):
    """Adapters: what PEFT wrote, as a live engine and as a run open it."""

    often = ("adapter_config.json", "adapter_model.safetensors") * 3

    def __init__(self, folder):
        import peft

        from agent_finetune.testing import save_tiny_model, tiny_model, tiny_tokenizer

        Kind.__init__(self, folder)
        self.base = save_tiny_model(folder / "base")
        self.model = tiny_model(tiny_tokenizer())
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        with warnings.catch_warnings(action="ignore"):
            made = peft.get_peft_model(tiny_model(tiny_tokenizer()), lora)
            made.peft_config["default"].base_model_name_or_path = str(self.base)
            made.save_pretrained(folder / "specimen", save_embedding_layers=False)
        tiny_tokenizer().save_pretrained(folder / "specimen")
        self.folder = folder / "specimen"
        (self.folder / "README.md").unlink()
        self.files = [path.name for path in self.folder.iterdir()]

    def load(self, place):
        import torch

        from agent_finetune import adapters
        from agent_finetune.config import ModelConfig
        from agent_finetune.engine.lora_files import open_adapter

        if int(place.parent.name) % 2:
            with open_adapter(place, self.model) as file:
                for target in file.targets:
                    file.matrices(target, torch.float32)
        else:
            config = ModelConfig(model=str(place), device="cpu", dtype="float32")
            adapters.open_model(config, self.settings)


def _csv(rows):
    import csv
    import io

    out = io.StringIO()
    keys = list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))
    writer = csv.writer(out)
    writer.writerow(keys)
    for row in rows:
        if isinstance(row, dict):
            cells = [row.get(key) for key in keys]
            writer.writerow([c if isinstance(c, str) else json.dumps(c) for c in cells])
    return out.getvalue()


def _toml(value):
    try:
        text = json.dumps(value)
        tomllib.loads(f"a = {text}")
    except (ValueError, RecursionError, TypeError):
        return "{}"
    return text


KINDS = {
    "data": Data,
    "parquet": Parquet,
    "leaderboard": Leaderboard,
    "recordings": Recorded,
    "config": Config,
    "run": Runs,
    "model": Model,
    "gguf": Gguf,
    "adapter": Adapter,
}
