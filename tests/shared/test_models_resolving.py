import hashlib
import os
from dataclasses import replace

import httpx
import pytest
from huggingface_hub import constants, errors

from agent_finetune import models, plugins
from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import ModelError
from agent_finetune.models import hub
from agent_finetune.models.digests import digest_of, sha256_of
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
    file, cache = tmp_path / "w.safetensors", tmp_path / "cache"
    file.write_bytes(b"weights")
    want = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert digest_of([file], cache) == want
    # Same size and time of change: taken from memory. A new time of change: hashed again.
    known = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert digest_of([file], cache) == want
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns + 1))
    assert digest_of([file], cache) == "sha256:" + hashlib.sha256(b"WEIGHTS").hexdigest()


def test_several_files_have_one_digest_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    joined = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("a", "b"))
    want = f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"
    assert digest_of([tmp_path / "b", tmp_path / "a"], tmp_path / "cache") == want


def test_a_damaged_memory_of_digests_costs_nothing_but_hashing(tmp_path):
    (tmp_path / "digests.json").write_text("{half")
    (tmp_path / "w").write_bytes(b"x")
    assert sha256_of(tmp_path / "w", tmp_path) == hashlib.sha256(b"x").hexdigest()


def hub_error(kind, status):
    request = httpx.Request("HEAD", "http://localhost/owner/x")
    return kind("said the hub", response=httpx.Response(status, request=request))


TOKEN = Settings(hub_token=Secret("hf_x"))
OFFLINE = Settings(offline=True)


@pytest.mark.parametrize(
    ("error", "settings", "said"),
    [
        (hub_error(errors.GatedRepoError, 403), Settings(), "gated. Ask for access"),
        (hub_error(errors.GatedRepoError, 403), TOKEN, "does not open it"),
        (hub_error(errors.RepositoryNotFoundError, 401), Settings(), "no such repository"),
        (hub_error(errors.RevisionNotFoundError, 404), Settings(), "no revision 'v9'"),
        (hub_error(errors.RemoteEntryNotFoundError, 404), Settings(), "no config.json"),
        (hub_error(errors.HfHubHTTPError, 403), Settings(), "the hub refused: said the hub"),
        (hub_error(errors.HfHubHTTPError, 429), Settings(), "asked too often (429)"),
        (hub_error(errors.HfHubHTTPError, 503), TOKEN, "trouble of its own (503)"),
        (httpx.ReadError("cut"), Settings(), "the connection to the hub broke off (cut)"),
        (errors.OfflineModeIsEnabled("x"), Settings(), "HF_HUB_OFFLINE is set"),
        (errors.LocalEntryNotFoundError("x"), OFFLINE, "HF_HUB_OFFLINE is set"),
        (errors.LocalEntryNotFoundError("x"), Settings(), "the hub cannot be reached and"),
    ],
)
def test_each_error_of_the_hub_has_its_own_sentence(error, settings, said):
    wrapped = OSError("what Transformers makes of it")
    wrapped.__cause__ = error
    told = hub.explain(wrapped, "owner/x", "v9", settings)
    assert told.startswith("model 'owner/x': ")
    assert said in told


def test_an_error_without_the_hub_is_left_to_others():
    assert hub.explain(ValueError("x"), "owner/x", None, Settings()) is None
    assert hub.first_line(ValueError()) == "ValueError"


def test_asking_a_hub_that_is_not_there_is_told_at_once(settings, monkeypatch):
    # Nothing is pretended: port 9 refuses, and an address is all that is changed.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}"
    )
    with pytest.raises(ModelError, match=r"the hub cannot be reached \(.*refused"):
        models.resolve("owner/x", None, replace(settings, offline=False))


def test_offline_a_model_that_is_not_cached_is_told(settings):
    assert "HF_HUB_OFFLINE is set" in refusal("owner/not-there", settings)
