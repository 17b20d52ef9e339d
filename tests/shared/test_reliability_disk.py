"""A disk that is full: one line that names the file, what was whole stays, and the run goes on.

The disk is a small tmpfs, which only root may mount; elsewhere a limit on the size of a file has
the same ways of writing fail.
"""

import errno
import subprocess
from contextlib import contextmanager

import forked
import pytest
from forked import learn_words, train_words
from train_jobs import losses, read
from updating_host import check_whole

from agent_finetune import adapters, artifacts
from agent_finetune.contracts import Exchange, Request, Result, Usage
from agent_finetune.errors import DiskError, FinetuneError
from agent_finetune.recordings import Recordings
from agent_finetune.records import Generation, Message
from agent_finetune.testing import save_tiny_model
from agent_finetune.train import folder, history
from agent_finetune.versions import Versions

KIB = 1024
LATER = 360
"""KiB of a disk on which a later checkpoint does not fit."""
MANY = 1000
MORE_SIZES = range(16, 528, 64)


@contextmanager
def small_disk(place, kib):
    """A disk of its own at a place; answers what makes it large."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")

    def grow():
        options = "remount,size=64m"
        subprocess.run(["mount", "-o", options, str(place)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    with forked.forks(tmp_path_factory.mktemp("forks")) as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return forked.write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def whole(forks, model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = forks.run(train_words(model, data, out))
    assert ended.code == 0, ended.said
    return out


def error_line(ended, place):
    """The one line of an error for lack of room, which names something below a place."""
    assert ended.code == 2, ended.said
    assert "Traceback" not in ended.said
    line = ended.said.splitlines()[-1]
    assert line.startswith(f"error: {place}"), line
    assert "no room to write it" in line
    assert "MiB are free there. Make room, or give another place" in line
    return line


def fill_up(forks, model, data, whole, disk, kib):
    """Run into a full disk, make room, go on; answers the error's line, None if all fitted."""
    out = disk / "run"
    with small_disk(disk, kib) as grow:
        words = train_words(model, data, out)
        ended = forks.run(words)
        if ended.code == 0:
            return None
        line = error_line(ended, disk)
        kept = folder.whole_checkpoints(out)
        for step, path in kept:
            assert read(path / "trainer_state.json")["global_step"] == step
            assert {"optimizer.pt", "rng_state.pth"} <= {p.name for p in path.iterdir()}
        assert sorted(p.name for p in (out / "checkpoints").glob("*")) == sorted(
            path.name for _, path in kept
        )
        grow()
        ended = forks.run([*words, "--resume"])
        assert ended.code == 0, ended.said
        assert losses(out) == pytest.approx(losses(whole), abs=1e-6)
        assert adapters.digest(out / "adapter") == adapters.digest(whole / "adapter")
        assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
        return line


def test_a_run_on_a_full_disk_keeps_what_was_whole_and_goes_on_once_there_is_room(
    forks, model, data, whole, tmp_path
):
    assert fill_up(forks, model, data, whole, tmp_path / "disk", LATER)


@pytest.mark.slow
def test_whatever_file_is_the_one_that_does_not_fit_the_run_goes_on(
    forks, model, data, whole, tmp_path
):
    lines = [fill_up(forks, model, data, whole, tmp_path / str(kib), kib) for kib in MORE_SIZES]
    full = [line for line in lines if line]
    print(*full, sep="\n")
    assert len(full) >= 5
    assert len({line.split(": ")[1].rpartition("/")[2] for line in full}) >= 3


@pytest.mark.parametrize("kib", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_a_checkpoint_with_a_file_too_large_is_removed_again(forks, model, data, tmp_path, kib):
    out = tmp_path / "run"
    limits = {"RLIMIT_FSIZE": kib * KIB}
    ended = forks.run(train_words(model, data, out), limits=limits)
    line = error_line(ended, out / "checkpoints" / "checkpoint-1")
    assert list((out / "checkpoints").iterdir()) == []
    run = read(out / "run.json")
    assert (run["status"], run["steps"]) == ("failed", 1)
    assert run["error"] == f"DiskError: {line.removeprefix('error: ')}"


def test_a_merged_model_is_there_whole_or_not_at_all(forks, whole, tmp_path):
    out = tmp_path / "merged" / "m"
    words = ["merge", "--adapter", whole / "adapter", "--out", out]
    line = error_line(forks.run(words, limits={"RLIMIT_FSIZE": 40 * KIB}), out)
    assert "it is larger than a file may be" in line
    assert list(out.parent.iterdir()) == []
    with small_disk(tmp_path / "disk", 60):
        error_line(forks.run([*words[:-1], tmp_path / "disk" / "m"]), tmp_path / "disk" / "m")
        assert list((tmp_path / "disk").iterdir()) == []


def test_an_update_without_room_leaves_the_version_that_was_in_use(forks, model, tmp_path):
    store = tmp_path / "store"
    words = learn_words(model, store, tmp_path / "pairs.jsonl")
    environment = {"AGENT_FINETUNE_CACHE": str(tmp_path / "cache")}
    options = {"inside": True, "environment": environment}
    error_line(forks.run(words, limits={"RLIMIT_FSIZE": 30 * KIB}, **options), tmp_path)
    assert Versions(store, "helper").current() is None
    check_whole(store)
    with small_disk(tmp_path / "disk", 120):
        store = tmp_path / "disk" / "store"
        words = learn_words(model, store, tmp_path / "pairs.jsonl")
        error_line(forks.run(words, **options), store)
        assert Versions(store, "helper").current() is None
        check_whole(store)


def test_recordings_say_that_the_disk_is_full_and_keep_what_they_have(tmp_path):
    with small_disk(tmp_path / "disk", 400) as grow:
        path = tmp_path / "disk" / "recordings.db"
        recordings = Recordings(path)
        with pytest.raises(DiskError, match=r"recordings\.db: no room to write it, the disk is"):
            fill(recordings)
        kept = len(Recordings(path, create=False).list())
        assert 0 < kept < MANY
        grow()
        recordings.add(exchange(kept))
        assert len(recordings.list()) == kept + 1


def fill(recordings):
    for number in range(MANY):
        recordings.add(exchange(number))


def exchange(number):
    said = Generation(ids=(1, 2), prompt_ids=(3,))
    message = Message(role="assistant", text="x" * 4 * KIB, generation=said)
    return Exchange(
        request=Request(messages=[Message(role="user", text="Say x.")]),
        result=Result(
            id=f"id-{number}",
            message=message,
            finish="stop",
            usage=Usage(prompt_tokens=1, completion_tokens=2),
            revision="sha256:0",
        ),
        time=float(number),
    )


def test_history_and_run_json_are_named_and_what_they_held_stays(tmp_path):
    path = tmp_path / "history.jsonl"
    lines = history.History(path)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(DiskError, match=r"history\.jsonl: no room to write it, the disk is full"):
        lines.add({"step": 1, "loss": 2.0})
    with small_disk(tmp_path / "disk", 32):
        run = tmp_path / "disk" / "run.json"
        artifacts.write_json(run, {"status": "running"})
        with pytest.raises(DiskError, match=r"run\.json: no room to write it, the disk is full"):
            artifacts.write_json(run, {"status": "x" * 64 * KIB})
        assert read(run) == {"status": "running"}
        assert [path.name for path in run.parent.iterdir()] == ["run.json"]


def test_only_a_lack_of_room_is_told_as_one(tmp_path):
    for error in (OSError(errno.EIO, "bad disk"), RuntimeError("no"), FinetuneError("ours")):
        with pytest.raises(type(error)) as caught, artifacts.needing_room(tmp_path):
            raise error
        assert caught.value is error
    for error in (
        OSError(errno.EDQUOT, "quota"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        Exception("No space left on device (os error 28)"),
    ):
        with (
            pytest.raises(DiskError, match="MiB are free"),
            artifacts.needing_room(tmp_path / "not" / "there"),
        ):
            raise error
