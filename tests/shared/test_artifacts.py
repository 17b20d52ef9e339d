import json
import os
import stat

import pytest

from agent_finetune import artifacts
from agent_finetune.errors import ConfigError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_old_one_and_leaves_no_temporary_behind(tmp_path):
    path = tmp_path / "deep" / "file.json"
    artifacts.write_json(path, {"a": 1})
    artifacts.write_json(path, {"a": "é"})
    assert json.loads(path.read_text("utf-8")) == {"a": "é"}
    assert names(path.parent) == ["file.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    artifacts.write_text(path, "old")

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        artifacts.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_number_that_json_cannot_say_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        artifacts.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_a_file_is_as_readable_as_any_other(tmp_path):
    artifacts.write_text(tmp_path / "ours", "")
    (tmp_path / "usual").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "usual")}
    assert len(modes) == 1


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "run" / "adapter"
    with artifacts.new_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    assert names(target.parent) == ["adapter"]


def test_a_folder_that_fails_is_not_there(tmp_path):
    def fill():
        with artifacts.new_folder(tmp_path / "adapter") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fill()
    assert names(tmp_path) == []


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine").touch()
    with (
        pytest.raises(ConfigError, match="already there"),
        artifacts.new_folder(tmp_path / "adapter"),
    ):
        pass
    assert names(tmp_path / "adapter") == ["mine"]


def test_a_folder_can_be_replaced_on_purpose(tmp_path):
    for text in ("1", "2"):
        with artifacts.new_folder(tmp_path / "adapter", replace=True) as folder:
            (folder / text).touch()
    assert names(tmp_path / "adapter") == ["2"]
    assert names(tmp_path) == ["adapter"]


def test_a_folder_that_came_while_another_was_made_is_not_overwritten(tmp_path):
    def two():
        with artifacts.new_folder(tmp_path / "merged") as folder:
            (folder / "late").touch()
            with artifacts.new_folder(tmp_path / "merged") as quicker:
                (quicker / "first").touch()

    with pytest.raises(ConfigError, match="already there, and nothing is overwritten"):
        two()
    assert names(tmp_path / "merged") == ["first"]
    assert names(tmp_path) == ["merged"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_replaced_folder_leaves_nothing_of_the_old_one(tmp_path, monkeypatch, exchanges):
    if not exchanges:  # a file system that cannot
        monkeypatch.setattr(artifacts, "_exchanged", lambda *_: False)
    for text in ("1", "2", "3"):
        with artifacts.new_folder(tmp_path / "adapter", replace=True) as folder:
            (folder / text).touch()
        assert names(tmp_path / "adapter") == [text]
        assert names(tmp_path) == ["adapter"]
