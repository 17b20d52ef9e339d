import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import modelscope_hub_stand_in as stand_in
import pytest

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import ConfigError, DataError, ModelError
from agent_finetune.testing import save_tiny_model
from modelscope_agent_train import hub
from modelscope_agent_train.hub import HubSettings

OFFLINE = Settings(offline=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model that loads, as the files of a repository."""
    folder = save_tiny_model(tmp_path_factory.mktemp("made") / "tiny")
    return stand_in.files_of(folder)


@pytest.fixture
def site():
    with stand_in.serving() as serving:
        yield serving


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No test reads the settings or caches of whoever runs it, or meets a hub."""
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "AGENT_TRAIN_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def place(tmp_path, site):
    return HubSettings(sites=(site.url,), cache_dir=tmp_path / "ms", home=tmp_path / "home")


def of_modelscope(name, place, revision=None, **options):
    """Resolved by ModelScope alone: the folder."""
    found = hub.resolve(
        name, revision, settings=Settings(), hub="modelscope", hub_settings=place, **options
    )
    return Path(found.location)


def with_token(place, token=stand_in.TOKEN):
    return replace(place, token=Secret(token))


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# What is fetched


def test_a_model_is_fetched_whole_into_modelscopes_cache_and_loads(site, place, tiny):
    site.add("damo/tiny", tiny)
    folder = of_modelscope("damo/tiny", place)
    assert folder == place.cache_dir / "models" / "damo--tiny" / "snapshots" / "master"
    assert stand_in.files_of(folder) == tiny
    model = ModelConfig(model=str(folder), device="cpu", dtype="float32")
    assert plugins.load_model(model, OFFLINE).model.num_parameters() > 0


def test_modelscopes_own_look_up_finds_what_was_fetched(site, place, tiny, monkeypatch):
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig

    site.add("damo/tiny", tiny)
    folder = of_modelscope("damo/tiny", place)
    api = HubApi(HubConfig(cache_dir=place.cache_dir, config_dir=place.home, endpoint=site.url))
    assert api.download_repo("damo/tiny", "model", local_files_only=True) == folder


def test_a_model_that_is_here_is_not_asked_for_again(site, place, tiny):
    site.add("damo/tiny", tiny)
    first = of_modelscope("damo/tiny", place)
    asked = len(site.asked)
    assert of_modelscope("damo/tiny", place) == first
    assert len(site.asked) == asked


def test_pickles_archives_and_code_are_left_on_the_hub(site, place, tiny):
    evil = {
        "pytorch_model.bin": b"\x80",
        "training_args.bin": b"\x80",
        "original/consolidated.00.pth": b"\x80",
        "weights.zip": b"PK",
        "modeling_own.py": b"raise SystemExit",
        "onnx/model.onnx": b"o",
        "other/model.safetensors": b"again",
        "consolidated.safetensors": b"again",
        "LICENSE": b"Apache",
    }
    site.add("damo/tiny", tiny | evil)
    assert stand_in.files_of(of_modelscope("damo/tiny", place)) == {**tiny, "LICENSE": b"Apache"}


def test_code_comes_only_when_it_is_trusted_and_is_added_to_what_is_here(site, place, tiny):
    config = json.loads(tiny["config.json"])
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.Own"}
    files = tiny | {"config.json": json.dumps(config).encode(), "modeling_own.py": b"class Own: 1"}
    site.add("damo/own", files)
    assert not (of_modelscope("damo/own", place) / "modeling_own.py").exists()
    before = len(site.files_asked())
    folder = of_modelscope("damo/own", place, trust_remote_code=True)
    assert (folder / "modeling_own.py").read_bytes() == b"class Own: 1"
    assert site.files_asked()[before:] == ["modeling_own.py"]


def test_a_model_of_pickles_alone_is_refused_before_anything_is_fetched(site, place):
    site.add("damo/old", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    with pytest.raises(ModelError, match="no safetensors weights; pickle files"):
        of_modelscope("damo/old", place)
    assert site.files_asked() == []


def test_a_repository_of_gguf_files_names_them(site, place):
    site.add("damo/gguf", {"config.json": b"{}", "m.Q4_0.gguf": b"GGUF"})
    with pytest.raises(ModelError, match=r"download one of them and give its path: m\.Q4_0\.gguf"):
        of_modelscope("damo/gguf", place)


@pytest.mark.parametrize(
    "name", ["../../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "C:evil"]
)
def test_a_file_that_would_land_elsewhere_is_refused_with_all_the_rest(site, place, tiny, name):
    site.add("damo/tiny", tiny | {name: b"{}"})
    with pytest.raises(ModelError, match="which lies outside of it"):
        of_modelscope("damo/tiny", place)
    assert site.files_asked() == []


def test_a_data_set_is_fetched_without_archives(site, place):
    rows = {"data/train.jsonl": b'{"a": 1}\n', "README.md": b"# rows"}
    site.add("damo/rows", rows | {"all.zip": b"PK", "load.py": b"raise"}, kind="datasets")
    folder = hub.download_dataset("damo/rows", settings=Settings(), hub_settings=place)
    assert folder == place.cache_dir / "datasets" / "damo--rows" / "snapshots" / "master"
    assert stand_in.files_of(folder) == rows
    again = hub.download_dataset("damo/rows", settings=OFFLINE, hub_settings=place)
    assert again == folder


def test_a_data_set_of_an_archive_alone_says_what_it_has(site, place):
    site.add("damo/zipped", {"all.zip": b"PK"}, kind="datasets")
    with pytest.raises(DataError, match=r"no files of \.json, .*all\.zip"):
        hub.download_dataset("damo/zipped", settings=Settings(), hub_settings=place)


# Who may


def test_the_token_opens_what_is_private_and_goes_with_every_request(site, place, tiny):
    site.add("damo/mine", tiny, status=404)
    of_modelscope("damo/mine", with_token(place))
    mine = [asked for asked in site.asked if "damo/mine" in asked.path]
    assert {asked.token for asked in mine} == {stand_in.TOKEN}


@pytest.mark.parametrize(("status", "said"), [(403, "private or gated"), (404, "or a private one")])
def test_without_a_token_the_error_says_what_to_set(site, place, tiny, status, said):
    site.add("damo/mine", tiny, status=status)
    with pytest.raises(ModelError, match=said):
        of_modelscope("damo/mine", place)
    assert not site.files_asked()


def test_a_gated_model_is_not_looked_for_on_another_hub(site, place, tiny, monkeypatch):
    monkeypatch.setattr(hub.models, "resolve", lambda *_: pytest.fail("asked Hugging Face"))
    site.add("damo/gated", tiny, status=403)
    with pytest.raises(ModelError, match="set MODELSCOPE_API_TOKEN in the environment or in"):
        hub.resolve("damo/gated", settings=Settings(), hub_settings=place)


def test_a_wrong_token_is_told_and_never_shown(site, place, tiny, caplog, capfd, tmp_path):
    site.add("damo/mine", tiny)
    wrong = "ms-wrong-and-secret"
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as told:
        of_modelscope("damo/mine", with_token(place, wrong), say=print)
    assert "the token in MODELSCOPE_API_TOKEN does not open it" in str(told.value)
    _assert_nowhere(wrong, told, caplog, capfd, tmp_path)


def test_the_token_is_in_no_file_log_or_error_of_a_download(
    site, place, tiny, caplog, capfd, tmp_path
):
    site.add("damo/mine", tiny, status=404)
    site.wrong.add("config.json")
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as told:
        of_modelscope("damo/mine", with_token(place), say=print)
    _assert_nowhere(stand_in.TOKEN, told, caplog, capfd, tmp_path)


def _assert_nowhere(secret, told, caplog, capfd, folder):
    chain, error = [], told.value
    while error is not None:
        chain.append(f"{error!s} {error!r}")
        error = error.__cause__ or error.__context__
    said = [*chain, caplog.text, *capfd.readouterr()]
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(secret in text for text in said)
    assert not any(secret.encode() in content for content in files)


# Revisions


def test_another_revision_lies_beside_the_newest(site, place, tiny):
    repo = site.add("damo/tiny", tiny)
    repo.revisions["v1.0.0"] = tiny | {"LICENSE": b"old"}
    newest, old = of_modelscope("damo/tiny", place), of_modelscope("damo/tiny", place, "v1.0.0")
    assert (newest.name, old.name) == ("master", "v1.0.0")
    assert (old / "LICENSE").read_bytes() == b"old"
    assert not (newest / "LICENSE").exists()


def test_an_unknown_revision_names_those_there_are(site, place, tiny):
    site.add("damo/tiny", tiny).revisions["v1.0.0"] = tiny
    with pytest.raises(ModelError, match=r"no revision 'v9' on .*; it has master, v1\.0\.0"):
        of_modelscope("damo/tiny", place, "v9")


def test_a_revision_that_leads_out_of_the_cache_is_refused(place):
    with pytest.raises(ModelError, match=r"'\.\./\.\./x' is no revision"):
        of_modelscope("damo/tiny", place, "../../x")


def test_without_network_a_revision_that_is_not_here_is_an_error_unless_it_is_a_suggestion(
    site, place, tiny
):
    site.add("damo/tiny", tiny)
    folder = of_modelscope("damo/tiny", place)
    with pytest.raises(ModelError, match=r"revision 'v1\.0\.0' is not in the cache; .*'master'"):
        of_modelscope("damo/tiny", place, "v1.0.0", local_files_only=True)
    said = []
    found = of_modelscope(
        "damo/tiny", place, "v1.0.0", local_files_only=True, exact=False, say=said.append
    )
    assert found == folder
    assert "revision v1.0.0 is not here" in said[0]


# No network


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "AGENT_TRAIN_OFFLINE"])
def test_offline_nothing_is_asked_and_the_cache_is_enough(site, tiny, switch, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
    site.add("damo/tiny", tiny)
    folder = of_modelscope("damo/tiny", None)
    asked = len(site.asked)
    monkeypatch.setenv(switch, "1")
    assert of_modelscope("damo/tiny", None) == folder
    with pytest.raises(ModelError, match=r"not in the cache, .*no hub is asked: offline"):
        of_modelscope("damo/other", None)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        hub.resolve("damo/other", settings=OFFLINE)
    assert len(site.asked) == asked


@pytest.mark.parametrize("options", [{"local_files_only": True}, {"hub": "local"}])
def test_local_files_only_asks_no_hub(site, place, tiny, options):
    site.add("damo/tiny", tiny)
    with pytest.raises(ModelError, match="no hub is asked"):
        hub.resolve("damo/tiny", settings=Settings(), hub_settings=place, **options)
    assert not site.asked


def test_a_hub_that_is_not_there_is_told_in_seconds(tmp_path):
    place = HubSettings(sites=("http://127.0.0.1:9",) * 2, cache_dir=tmp_path)
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        of_modelscope("damo/tiny", place)
    assert time.monotonic() - started < 5


def test_a_hub_in_repair_is_told_at_once(site, place):
    site.status = 503
    with pytest.raises(ModelError, match="answers with HTTP 503"):
        of_modelscope("damo/tiny", place)
    assert len(site.asked) == 1


def test_the_second_site_is_asked_for_what_the_first_does_not_have(site, place, tiny):
    site.add("damo/tiny", tiny)
    with stand_in.serving() as empty:
        both = replace(place, sites=(empty.url, site.url))
        assert stand_in.files_of(of_modelscope("damo/tiny", both)) == tiny
        with pytest.raises(ModelError, match=f"{empty.url} has no model 'damo/none'"):
            of_modelscope("damo/none", both)


# Broken off


@pytest.fixture
def large(tiny):
    """Of more than one piece on the wire."""
    return {**tiny, "vocab.txt": bytes(range(256)) * 4096}


def test_a_connection_that_breaks_is_taken_up_where_it_broke(site, place, large):
    site.add("damo/large", large)
    site.broken["vocab.txt"] = 700_000
    assert stand_in.files_of(of_modelscope("damo/large", place)) == large
    parts = [a.range for a in site.asked if a.query.get("FilePath") == "vocab.txt"]
    assert parts == [None, "bytes=700000-"]


def test_a_hub_that_gives_no_parts_gives_it_whole_again(site, place, large):
    site.add("damo/large", large)
    site.broken["vocab.txt"], site.whole_only = 700_000, True
    assert stand_in.files_of(of_modelscope("damo/large", place)) == large


def test_a_hub_that_dies_leaves_nothing_that_looks_whole_and_the_next_run_goes_on(
    site, place, large, monkeypatch
):
    monkeypatch.setattr("modelscope_agent_train.hub_client.RETRIES", 1)
    site.add("damo/large", large)
    site.broken["vocab.txt"], site.dead_after = 700_000, 3
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"broke off, .* files are missing .*run it again"):
        of_modelscope("damo/large", place)
    assert time.monotonic() - started < 20
    offline = {"local_files_only": True}
    with pytest.raises(ModelError, match="not in the cache"):
        of_modelscope("damo/large", place, **offline)
    whole = set(site.files_asked()[:3]) - {"vocab.txt"}
    site.dead_after, before = None, len(site.asked)
    folder = of_modelscope("damo/large", place)
    assert stand_in.files_of(folder) == large
    again = {a.query.get("FilePath") for a in site.asked[before:]}
    assert not whole & again
    assert of_modelscope("damo/large", place, **offline) == folder


def test_a_model_that_changed_while_it_was_away_is_that_of_the_hub(site, place, large):
    site.add("damo/large", large | {"model-old.safetensors": b"old"})
    site.wrong.add("config.json")
    with pytest.raises(ModelError, match=r"\(config\.json\)"):
        of_modelscope("damo/large", place)
    site.wrong.clear()
    changed = large | {"vocab.txt": b"new"}
    site.add("damo/large", changed)
    assert stand_in.files_of(of_modelscope("damo/large", place)) == changed


def test_a_cache_that_cannot_be_written_to_is_told(site, place, tiny):
    site.add("damo/tiny", tiny)
    place.cache_dir.write_text("a file")
    with pytest.raises(ModelError, match="cannot be written to"):
        of_modelscope("damo/tiny", place)


def test_bytes_that_are_not_those_of_the_listing_are_never_used(site, place, tiny):
    site.add("damo/tiny", tiny)
    site.wrong.add("model.safetensors")
    with pytest.raises(ModelError, match=r"1 of \d+ files are missing \(model\.safetensors\)"):
        of_modelscope("damo/tiny", place)
    site.wrong.clear()
    assert stand_in.files_of(of_modelscope("damo/tiny", place)) == tiny


def test_two_that_want_the_same_fetch_it_once(site, place, tiny):
    site.add("damo/tiny", tiny)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(of_modelscope("damo/tiny", place)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(site.files_asked()) == len(set(site.files_asked())) == len(tiny)


def test_half_a_snapshot_of_another_client_is_completed(site, place, tiny):
    site.add("damo/tiny", tiny)
    half = {k: v for k, v in tiny.items() if k != "model.safetensors"}
    target = put(place.cache_dir / "models" / "damo--tiny" / "snapshots" / "master", half)
    with pytest.raises(ModelError, match="no safetensors weights"):
        of_modelscope("damo/tiny", place, local_files_only=True)
    assert of_modelscope("damo/tiny", place) == target
    assert site.files_asked() == ["model.safetensors"]


def test_shards_that_are_missing_are_seen(place, tiny):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    files = {k: v for k, v in tiny.items() if k != "model.safetensors"}
    files |= {"model-1.safetensors": b"1", "model.safetensors.index.json": index.encode()}
    put(place.cache_dir / "models" / "damo--tiny" / "snapshots" / "master", files)
    with pytest.raises(ModelError, match=r"model-2\.safetensors and 0 more files"):
        of_modelscope("damo/tiny", place, local_files_only=True)


# Caches of older clients


@pytest.mark.parametrize(
    "layout",
    [
        "models/damo/tiny-0___5b",
        "hub/models/damo/tiny-0___5b",
        "damo/tiny-0.5b",
        "hub/damo/tiny-0___5b",
        "models/damo/tiny-0.5b",
    ],
)
def test_older_layouts_of_the_cache_are_used(place, tiny, layout):
    folder = put(place.cache_dir / layout, tiny)
    assert of_modelscope("damo/tiny-0.5b", place, local_files_only=True) == folder


def test_an_older_folder_is_of_the_revision_that_it_notes(site, place, tiny):
    folder = put(place.cache_dir / "hub" / "damo" / "tiny", tiny)
    (folder / ".mv").write_text("Revision:v1.0.0,CreatedAt:1690000000")
    assert of_modelscope("damo/tiny", place, "v1.0.0", local_files_only=True) == folder
    with pytest.raises(ModelError, match=r"'v1\.0\.1' is not in the cache; .*'v1\.0\.0'"):
        of_modelscope("damo/tiny", place, "v1.0.1", local_files_only=True)
    site.add("damo/tiny", tiny).revisions["v1.0.1"] = tiny
    assert of_modelscope("damo/tiny", place, "v1.0.1") != folder
    assert (folder / ".mv").read_text().startswith("Revision:v1.0.0")


def test_several_revisions_without_a_newest_one_have_to_be_named(place, tiny):
    for revision in ("v1", "v2"):
        put(place.cache_dir / "models" / "damo--tiny" / "snapshots" / revision, tiny)
    with pytest.raises(ModelError, match=r"several revisions .*\['v1', 'v2'\]"):
        of_modelscope("damo/tiny", place, local_files_only=True)
    shutil.rmtree(place.cache_dir / "models" / "damo--tiny" / "snapshots" / "v2")
    assert of_modelscope("damo/tiny", place, local_files_only=True).name == "v1"


# Names


def test_what_is_on_this_disk_is_never_looked_for_on_a_hub(site, place, tiny, tmp_path):
    put(tmp_path / "damo" / "tiny", tiny)
    site.add("damo/tiny", tiny)
    found = hub.resolve("damo/tiny", settings=Settings(), hub_settings=place)
    assert found.location == str(tmp_path / "damo" / "tiny")
    assert not site.asked
    found = hub.resolve("modelscope:damo/tiny", settings=Settings(), hub_settings=place)
    assert found.location.startswith(str(place.cache_dir))


def test_an_unknown_id_is_looked_for_on_hugging_face_and_both_answers_are_told(
    site, place, monkeypatch
):
    asked = []

    def refuse(name, revision, settings):
        asked.append((name, revision, settings.offline))
        raise ModelError(f"model {name!r}: no such repository")

    monkeypatch.setattr(hub.models, "resolve", refuse)
    with pytest.raises(ModelError, match=r"has no model 'damo/x'.*Hugging Face: no such reposi"):
        hub.resolve("damo/x", "master", settings=Settings(), hub_settings=place, hf_id="other/x")
    assert asked == [("other/x", None, False)]


def test_a_revision_of_one_hub_is_a_suggestion_to_the_other_only_where_it_may_be(
    site, place, monkeypatch
):
    asked = []
    monkeypatch.setattr(hub.models, "resolve", lambda *given: asked.append(given[:2]))
    for exact in (True, False):
        hub.resolve("damo/x", "v1.0.0", settings=Settings(), hub_settings=place, exact=exact)
    assert asked == [("damo/x", "v1.0.0"), ("damo/x", None)]


def test_hugging_face_alone_is_asked_when_it_alone_is_named(site, place, monkeypatch):
    monkeypatch.setattr(hub.models, "resolve", lambda name, *_: name)
    options = {"settings": Settings(), "hub_settings": place, "hub": "huggingface"}
    assert hub.resolve("damo/x", **options) == "damo/x"
    assert not site.asked


def test_a_data_set_is_found_in_hugging_faces_cache_last(site, place, monkeypatch, tmp_path):
    cache = tmp_path / "hf" / "datasets--damo--rows"
    rows = put(cache / "snapshots" / ("0" * 40), {"train.jsonl": b"{}\n"})
    put(cache / "refs", {"main": b"0" * 40})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    found = hub.download_dataset("damo/rows", settings=OFFLINE, hub_settings=place)
    assert found == rows
    with pytest.raises(DataError, match=r"ModelScope's cache: .*Hugging Face: not in the cache"):
        hub.download_dataset("damo/none", settings=OFFLINE, hub_settings=place)
    with pytest.raises(DataError, match="no such folder, and no id of a hub"):
        hub.download_dataset("none", settings=OFFLINE, hub_settings=place)
    assert hub.download_dataset(str(rows), settings=OFFLINE) == rows
    assert not site.asked


@pytest.mark.parametrize("name", ["modelscope:", "modelscope:tiny", "modelscope:a/b/c"])
def test_a_prefix_without_an_id_is_refused(place, name):
    with pytest.raises(ConfigError, match="stands an id of ModelScope, owner/name"):
        of_modelscope(name, place)


def test_a_hub_that_there_is_not_is_refused(place):
    with pytest.raises(ConfigError, match="hub is 'swift'; legal values are auto, modelscope"):
        hub.resolve("a/b", settings=Settings(), hub="swift", hub_settings=place)


# The kernel's hook


def test_the_kernel_loads_an_id_with_modelscopes_prefix(site, tiny, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
    site.add("damo/tiny", tiny)
    config = ModelConfig(model="modelscope:damo/tiny", device="cpu", dtype="float32")
    loaded = plugins.load_model(config, Settings())
    assert loaded.resolved.name == "modelscope:damo/tiny"
    assert loaded.digest.startswith("sha256:")


def test_the_kernel_takes_a_plain_id_from_the_cache_and_sends_no_one_to_the_hub(
    site, tiny, monkeypatch, tmp_path
):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
    site.add("damo/tiny", tiny)
    assert hub.cached_model("damo/tiny", None) is None
    of_modelscope("damo/tiny", None)
    asked = len(site.asked)
    found = plugins.resolve_model("damo/tiny", None, OFFLINE)
    assert (found.name, found.revision) == ("damo/tiny", None)
    assert found.location.startswith(str(tmp_path / "ms"))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        plugins.resolve_model("damo/tiny", "v2", OFFLINE)
    assert len(site.asked) == asked


def test_looking_into_the_cache_imports_no_host_and_no_torch():
    code = (
        "import sys; from agent_finetune import plugins; from agent_finetune.contracts import "
        "Settings\n"
        "from modelscope_agent_train import hub\n"
        "assert hub.cached_model('no/such', None) is None\n"
        "print([n for n in ('torch', 'modelscope', 'modelscope_hub') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Settings


def test_settings_are_those_of_modelscopes_client(monkeypatch, tmp_path):
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    (tmp_path / ".env").write_text("MODELSCOPE_API_TOKEN=from-file\nAGENT_TRAIN_OFFLINE=1\n")
    read = hub.read_hub_settings()
    assert read.token.reveal() == "from-file"
    assert "from-file" not in repr(read)
    assert read.offline
    assert read.sites[0] == "https://modelscope.cn"
    monkeypatch.setenv("MODELSCOPE_PREFER_AI_SITE", "true")
    assert hub.read_hub_settings().sites[0] == "https://www.modelscope.ai"
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "hub.example/")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "from-environment")
    read = hub.read_hub_settings()
    assert read.sites == ("https://hub.example",)
    assert read.token.reveal() == "from-environment"
    assert (read.cache_dir, read.home) == (tmp_path / "ms", tmp_path / "home")
