import hashlib

import pytest

from agent_finetune import models, plugins
from agent_finetune.contracts import Settings
from agent_finetune.errors import ModelError
from agent_finetune.testing import save_tiny_model


@pytest.fixture
def settings(tmp_path):
    return Settings(cache_dir=tmp_path / "cache", offline=True)


def refusal(name, settings, revision=None):
    with pytest.raises(ModelError) as caught:
        models.resolve(name, revision, settings)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    return str(caught.value)


def test_a_folder_is_a_model(tmp_path, settings):
    save_tiny_model(tmp_path / "m")
    resolved = plugins.resolve_model(str(tmp_path / "m"), None, settings)
    assert resolved.location == str(tmp_path / "m")
    assert resolved.gguf_file is None
    assert resolved.revision is None


def test_a_relative_folder_is_resolved_to_where_it_lies(tmp_path, settings, monkeypatch):
    save_tiny_model(tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    assert models.resolve("some/model", None, settings).location == str(tmp_path / "some/model")


def test_a_gguf_file_is_a_model(tmp_path, settings):
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    resolved = models.resolve(str(tmp_path / "m.gguf"), None, settings)
    assert (resolved.location, resolved.gguf_file) == (str(tmp_path), "m.gguf")


def test_a_file_that_is_not_gguf_is_refused_by_its_content(tmp_path, settings):
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
    assert "it starts with b'PK\\x03\\x04'" in refusal(str(tmp_path / "m.gguf"), settings)


@pytest.mark.parametrize(
    "name", ["./nowhere", "/no/where", "~/nowhere", "model.gguf", "a/b/c", "x/"]
)
def test_a_path_that_does_not_exist_is_told_without_asking_the_hub(settings, name):
    assert "no such file or folder. Legal are" in refusal(name, settings)


@pytest.mark.parametrize("name", ["smollm2", "owner/na me", "own..er/x"])
def test_a_name_of_no_kind_lists_the_legal_kinds(settings, name):
    said = refusal(name, settings)
    assert "hub id (owner/name) and smollm2-135m-instruct" in said


def test_a_folder_without_config_is_not_a_model(tmp_path, settings):
    assert "it has no config.json" in refusal(str(tmp_path), settings)


def test_an_adapter_folder_says_how_to_give_it(tmp_path, settings):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "give it as --adapter" in refusal(str(tmp_path), settings)


def test_a_folder_of_gguf_files_names_them(tmp_path, settings):
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert "name one of them: a.gguf, b.gguf" in refusal(str(tmp_path), settings)


def test_pickled_weights_are_refused(tmp_path, settings):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pickle files (*.bin, *.pt) can run code" in refusal(str(tmp_path), settings)


def test_a_folder_without_weights_is_refused(tmp_path, settings):
    (tmp_path / "config.json").write_text("{}")
    assert "no weights; legal is" in refusal(str(tmp_path), settings)


def test_a_local_model_has_no_revision(tmp_path, settings):
    save_tiny_model(tmp_path)
    assert "has no revision 'v1'; leave it out" in refusal(str(tmp_path), settings, "v1")


def test_one_file_has_the_digest_that_sha256sum_prints_and_it_is_remembered(tmp_path):
    from agent_finetune.models.digests import digest_of

    file, cache = tmp_path / "w.safetensors", tmp_path / "cache"
    file.write_bytes(b"weights")
    want = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert digest_of([file], cache) == want
    # Same size and time of change: taken from memory. A new time of change: hashed again.
    known = file.stat()
    file.write_bytes(b"WEIGHTS")
    import os

    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert digest_of([file], cache) == want
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns + 1))
    assert digest_of([file], cache) == "sha256:" + hashlib.sha256(b"WEIGHTS").hexdigest()


def test_several_files_have_one_digest_in_the_order_of_their_names(tmp_path):
    from agent_finetune.models.digests import digest_of

    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    joined = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("a", "b"))
    want = f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"
    assert digest_of([tmp_path / "b", tmp_path / "a"], tmp_path / "cache") == want


def test_a_damaged_memory_of_digests_costs_nothing_but_hashing(tmp_path):
    from agent_finetune.models.digests import sha256_of

    (tmp_path / "digests.json").write_text("{half")
    (tmp_path / "w").write_bytes(b"x")
    assert sha256_of(tmp_path / "w", tmp_path) == hashlib.sha256(b"x").hexdigest()
