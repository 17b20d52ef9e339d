"""Data files and recordings for `broken_inputs` to break: how they are made, broken and read."""

import json
import shutil
import sqlite3

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
