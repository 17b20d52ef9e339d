import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from agent_finetune import artifacts
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.versions import Versions

WRITER = """
import sys
from pathlib import Path
from agent_finetune.versions import Versions

versions = Versions(Path(sys.argv[1]), "shopper")
for round in range(int(sys.argv[2])):
    with versions.begin() as staging:
        (staging / "adapter").mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (staging / "adapter" / name).write_bytes(b"x" * 200_000)
        number = versions.commit(staging, {"round": round})
    versions.use(number)
    print(number, flush=True)
"""


def start_writer(store, rounds):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store), str(rounds)], stdout=subprocess.PIPE, text=True
    )


def fill(staging):
    (staging / "adapter").mkdir()
    (staging / "adapter" / "adapter_config.json").write_text("{}")


def add(versions, **facts):
    with versions.begin() as staging:
        fill(staging)
        return versions.commit(staging, facts)


def staged(versions):
    return list((versions.folder / ".staging").iterdir())


@pytest.fixture
def versions(tmp_path):
    return Versions(tmp_path / "store", "shopper")


def test_a_committed_version_is_whole_and_not_yet_in_use(versions):
    assert add(versions, loss=0.5, revision="sha256:1") == 1
    assert versions.current() is None
    assert (versions.adapter_dir(1) / "adapter_config.json").exists()
    assert versions.facts(1)["loss"] == 0.5
    assert versions.facts(1)["parent"] is None
    assert staged(versions) == []


def test_a_version_is_in_use_once_it_is_put_to_use(versions):
    add(versions)
    versions.use(1)
    assert (versions.folder / "current").read_text() == "0001\n"
    assert versions.current() == 1
    assert not versions.changed_since(1)
    assert versions.changed_since(None)


def test_every_version_names_the_one_it_was_trained_from(versions):
    add(versions)
    versions.use(1)
    with versions.begin() as staging:
        versions.use(add(versions))  # another update goes live meanwhile
        fill(staging)
        versions.commit(staging, {})
    add(versions, parent=None)  # a caller that knows better: trained from the base
    assert [info.parent for info in versions.list()] == [None, 1, 1, None]
    assert [info.current for info in versions.list()] == [False, True, False, False]


def test_rolling_back_twice_goes_back_twice(versions):
    for _ in range(4):
        add(versions)
    for number in (1, 3, 3, 2, 4):
        versions.use(number)
    assert [versions.rollback(), versions.rollback()] == [2, 3]
    versions.use(4)
    assert [versions.rollback(), versions.rollback()] == [3, 1]
    with pytest.raises(ConfigError, match="version 1 is in use, and none was before it"):
        versions.rollback()
    assert versions.current() == 1


def test_rolling_back_passes_over_versions_that_are_gone(versions):
    for number in (1, 2, 3):
        add(versions)
        versions.use(number)
    versions.adapter_dir(2).parent.rename(versions.folder / "elsewhere")
    assert versions.rollback() == 1


def test_nothing_to_roll_back_is_an_error_that_leaves_no_trace(versions):
    with pytest.raises(ConfigError, match="no version is in use"):
        versions.rollback()
    assert not versions.folder.exists()


@pytest.mark.parametrize("step", ["use", "rollback"])
def test_killed_between_its_two_writes_a_change_is_made_or_not(versions, monkeypatch, step):
    for number in (1, 2, 3):
        add(versions)
        versions.use(number)
    write = {"use": "write_text", "rollback": "write_json"}[step]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, write, killed)
        with pytest.raises(KeyboardInterrupt):
            versions.use(1) if step == "use" else versions.rollback()
    assert versions.current() == (3 if step == "use" else 2)
    assert versions.rollback() == (2 if step == "use" else 1)


def test_numbers_are_not_used_twice_while_anyone_may_know_them(versions):
    for number in (1, 2):
        add(versions)
        versions.use(number)
    versions.rollback()
    versions.use(2)
    versions.use(1)
    versions.adapter_dir(2).parent.rename(versions.folder / "elsewhere")
    assert add(versions) == 3


def test_what_was_not_committed_is_gone(versions):
    def fail():
        with versions.begin() as staging:
            fill(staging)
            raise RuntimeError("the trainer died")

    with pytest.raises(RuntimeError, match="the trainer died"):
        fail()
    assert staged(versions) == []
    assert versions.list() == []


def test_a_folder_without_an_adapter_is_not_committed(versions):
    with versions.begin() as staging, pytest.raises(ModelError, match=r"no adapter_config\.json"):
        versions.commit(staging, {})
    assert versions.list() == []


def test_a_number_that_json_cannot_say_is_not_committed(versions):
    with versions.begin() as staging:
        fill(staging)
        with pytest.raises(ValueError, match="nan"):
            versions.commit(staging, {"loss": float("nan")})
    assert versions.list() == []


def test_only_what_begin_gave_is_committed_and_once(versions, tmp_path):
    fill(tmp_path)
    with pytest.raises(ConfigError, match="not a folder that begin gave for 'shopper'"):
        versions.commit(tmp_path, {})
    with versions.begin() as staging:
        fill(staging)
        versions.commit(staging, {})
        with pytest.raises(ConfigError, match="not a folder that begin gave"):
            versions.commit(staging, {})


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\n", "ä", "a" * 65])
def test_a_name_that_could_be_a_path_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="adapter name is"):
        Versions(tmp_path, name)


def test_the_names_of_a_store_are_those_that_have_versions(tmp_path):
    assert Versions.names(tmp_path / "none") == []
    for name in ("b", "a.1"):
        add(Versions(tmp_path, name))
    (tmp_path / "notes").mkdir()
    assert Versions.names(tmp_path) == ["a.1", "b"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a store of adapters is a folder"):
        Versions.names(tmp_path / "file")


def test_a_version_that_is_not_there_is_named_with_those_that_are(versions):
    add(versions)
    for ask in (versions.use, versions.facts, versions.adapter_dir, versions.info):
        with pytest.raises(ConfigError, match="no version 7; there are 1"):
            ask(7)


def test_a_pointer_that_holds_no_number_is_an_error(versions):
    add(versions)
    (versions.folder / "current").write_text("latest")
    with pytest.raises(ConfigError, match="holds 'latest'; expected the number"):
        versions.current()


def test_a_store_that_is_held_for_long_is_an_error(versions, monkeypatch):
    add(versions)
    monkeypatch.setattr("agent_finetune.versions._PATIENCE", 0.05)
    with versions._lock(), pytest.raises(ConfigError, match="another process has held it"):
        Versions(versions.folder.parent, "shopper").use(1)


def test_a_version_under_way_is_left_alone_by_the_next_one(versions):
    with versions.begin() as staging:
        fill(staging)
        assert add(Versions(versions.folder.parent, "shopper")) == 1
        assert versions.commit(staging, {}) == 2


def test_processes_and_threads_that_commit_at_once_get_different_numbers(versions):
    writers = [start_writer(versions.folder.parent, 5) for _ in range(3)]
    mine = []
    threads = [
        threading.Thread(target=lambda: mine.append(add(versions, by="thread"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    theirs = [int(line) for writer in writers for line in writer.communicate()[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sorted(mine + theirs) == list(range(1, 20))
    assert [info.number for info in versions.list()] == list(range(1, 20))
    assert staged(versions) == []


def test_killed_at_any_moment_a_process_leaves_whole_versions_only(versions):
    moments = random.Random(0)
    known = 0
    for _ in range(20):
        writer = start_writer(versions.folder.parent, 10_000)
        assert int(writer.stdout.readline()) > known  # it is at work
        time.sleep(moments.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        infos = versions.list()
        known = infos[-1].number
        assert [info.number for info in infos] == list(range(1, known + 1))
        assert known - 1 <= versions.current() <= known
        for info in infos:
            assert json.dumps(info.facts["round"]).isdecimal()
            sizes = [p.stat().st_size for p in versions.adapter_dir(info.number).iterdir()]
            assert sizes == [200_000, 200_000]
    with versions.begin():
        assert len(staged(versions)) == 1
    assert staged(versions) == []
    hidden = {p.name for p in versions.folder.iterdir() if p.name.startswith(".")}
    assert hidden == {".staging", ".lock"}
