"""A token in the environment, in `.env` or typed into a chat is left nowhere."""

import base64
import copy
import dataclasses
import io
import json
import logging
import pickle
import threading
import traceback
from pathlib import Path

import pytest
from live_engines import open_engine
from planted import plant, traces
from updating_host import PAIRS

from agent_finetune import cli, hookimpl, plugins, testing
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Request, Secret, Settings
from agent_finetune.records import Message
from agent_finetune.settings import read_settings

QUICK = ["--device", "cpu", "--dtype", "float32"]
LOOSE = ["--max-forgetting", "1", "--max-drift", "1", "--rank", "2", "--epochs", "1"]
TYPED = (
    "my token is hf_" + "aB3dE6gH9jK2mN5pQ8sT",
    "use ms-" + "0a1b2c3d-1111-2222-3333-0123456789ab please",
    "export OPENAI_API_KEY=sk-" + "proj-0123456789abcdefghij",
    'login("me", password="' + "correct horse 1" + '")',
)
"""What people paste into a chat."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return testing.save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def planted(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_FINETUNE_CACHE", str(tmp_path / "cache"))
    return plant(monkeypatch, tmp_path)


def _rows(path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path.write_text(2 * (json.dumps({"messages": turns}) + "\n"))
    return path


def test_what_is_searched_for_would_be_found(tmp_path):
    secret = "planted_0123456789abcdef0123456789abcdef"
    (tmp_path / "plain").write_text(f"x{secret}")
    (tmp_path / "wide").write_bytes(f"ü{secret}".encode("utf-16-le"))
    for shift in range(3):
        coded = base64.b64encode(b"." * shift + secret.encode() + b"...")
        (tmp_path / f"coded{shift}").write_bytes(coded)
    found = traces([secret], tmp_path, "nothing", f"url?token={secret}")
    assert found == ["coded0", "coded1", "coded2", "plain", "said 1", "wide"]


def test_train_eval_and_chat_leave_no_token_behind(
    tiny, planted, tmp_path, capfd, caplog, monkeypatch
):
    data = _rows(tmp_path / "rows.jsonl")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert read_settings().hub_token.reveal() in planted
    model = ["--model", str(tiny), *QUICK]
    held = ["--eval-data", str(data), "--max-steps", "1", "--rank", "2"]
    with caplog.at_level(logging.DEBUG):
        for words in (
            ["train", *model, "--data", str(data), "--out", "out", *held],
            ["eval", *model, "--data", str(data), "--adapter", "out/adapter"],
            ["chat", *model, "--max-new-tokens", "2"],
        ):
            assert cli.main(words) == 0, words
    printed = capfd.readouterr()
    for left in ("out/run.json", "out/history.jsonl", "out/adapter/adapter_config.json"):
        assert Path(left).exists()
    assert not traces(planted, tmp_path, printed.out, printed.err, caplog.text)


@pytest.mark.slow
def test_an_update_in_a_process_of_its_own_leaves_no_token_behind(
    tiny, planted, tmp_path, capfd, caplog
):
    Path("feedback.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    where = ["--model", str(tiny), *QUICK, "--store", "store", "--name", "helper"]
    with caplog.at_level(logging.DEBUG), _processes_watched() as commands:
        assert cli.main(["learn", "feedback.jsonl", *where, *LOOSE]) == 0
    printed = capfd.readouterr()
    assert any("agent_finetune.cli.trainer" in command for command in commands)
    assert Path("store").is_dir()
    assert not traces(planted, tmp_path, printed.out, printed.err, caplog.text, *commands)


class _processes_watched:
    """The command lines of the processes that ran in the meantime."""

    def __enter__(self):
        self._seen, self._done = set(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self._seen

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.5):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self._seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue  # it has ended


def test_an_error_and_a_crash_name_no_token(tiny, planted, tmp_path, capfd, caplog):
    class Broken:
        @hookimpl
        def finetune_load_model(self, config, resolved, settings):
            raise RuntimeError(f"a plugin shows all it has: {settings!r} {settings.hub_token}")

    words = ["eval", "--model", str(tiny), *QUICK, "--data", str(_rows(tmp_path / "rows.jsonl"))]
    with caplog.at_level(logging.DEBUG):
        assert cli.main(["chat", "--model", "no/such/model"]) == 2
        with plugins.registered(Broken(), "broken"):
            crash = _crash(words)
    assert "Secret('***')" in crash
    printed = capfd.readouterr()
    assert not traces(planted, tmp_path, crash, printed.out, printed.err, caplog.text)


def _crash(words):
    """What the worst of crash reports says: every frame, with its variables."""
    try:
        cli.main(words)
    except RuntimeError as error:
        lines = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join(lines.format())
    raise AssertionError("it did not crash")


def test_what_is_typed_into_a_chat_is_in_no_recording_and_in_no_export(
    tiny, planted, tmp_path, capfd
):
    secrets = [text.split("hf_")[-1].split("sk-")[-1].split(" please")[0] for text in TYPED[:3]]
    secrets = [secrets[0], secrets[1].removeprefix("use "), secrets[2], "correct horse 1"]
    engine = open_engine(tiny, record_to=str(tmp_path / "kept.sqlite"))
    for text in TYPED:
        asked = Request(messages=[Message(role="user", text=text)], max_new_tokens=2)
        answer = engine.generate(asked)
        engine.feedback(answer.id, correction=f"Thank you, {text}")
    engine.close()
    database = str(tmp_path / "kept.sqlite")
    said = []
    exports = [["export", database, "--format", form] for form in ("messages", "feedback")]
    for words in (["list", database], *exports):
        assert cli.main(["recordings", *words]) == 0
        said += capfd.readouterr()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("kept.sqlite*"))
    assert kept.count(b"[redacted secret]") >= len(TYPED)
    assert not traces([*planted, *secrets], tmp_path, *said)


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%r".__mod__, dataclasses.asdict, vars])
def test_settings_show_no_token_in_any_form(show):
    settings = Settings(hub_token=Secret("planted_0123456789"))
    try:
        shown = repr(show(settings))
    except TypeError as error:  # some cannot be shown at all
        shown = str(error)
    assert "planted" not in shown
    assert "planted" not in json.dumps({"s": settings.hub_token}, default=str)


@pytest.mark.parametrize("keep", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_token_is_neither_pickled_nor_copied_by_a_library(keep):
    with pytest.raises(TypeError, match="never pickled"):
        keep(Secret("planted_0123456789"))


def test_a_config_has_no_place_for_a_token():
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    assert not {name for name in names if "token" in name or "key" in name}
