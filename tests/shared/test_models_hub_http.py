"""Our way to a hub, against a server on loopback that can break off, lie, refuse and fall silent.

huggingface_hub reads its address at import. Hence one process that knows the stand-in alone does
what it is asked, and every case has a repository of its own.
"""

import io
import json
import subprocess
import sys
import time

import huggingface_hub_stand_in as stand_in
import pytest
from datasets import Dataset

from agent_finetune.testing import save_tiny_model

CHILD = """
import io, json, sys, traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import huggingface_hub
from agent_finetune import adapters, cli, models, plugins, readers
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import FinetuneError

huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 14  # so that small files are resumed too

def do(ask, cache):
    settings = Settings(
        hub_token=Secret(ask["token"]) if ask.get("token") else None,
        offline=ask.get("offline", False),
        cache_dir=cache,
    )
    match ask["do"]:
        case "model":
            config = ModelConfig(
                model=ask["name"], revision=ask.get("revision"), device="cpu", dtype="float32"
            )
            loaded = adapters.open_model(config, settings)
            total = sum(float(each.abs().sum()) for each in loaded.model.parameters())
            return {"digest": loaded.digest, "sum": total}
        case "resolve":
            return {"revision": plugins.resolve_model(ask["name"], None, settings).revision}
        case "rows":
            read = readers.read(ask["name"], split=ask.get("split", "train"), settings=settings)
            told = [[m.text for m in e.messages] for e in read.examples]
            turns = [m for e in read.examples for m in e.messages]
            calls = [dict(call.arguments) for turn in turns for call in turn.tool_calls]
            return {"rows": told, "source": read.examples[-1].source, "calls": calls}
        case "run":
            heard = io.StringIO()
            with redirect_stdout(heard), redirect_stderr(heard):
                code = cli.main(ask["words"])
            return {"code": code, "heard": heard.getvalue()}

for line in sys.stdin:
    ask = json.loads(line)
    try:
        said = do(ask, Path(sys.argv[1]))
    except FinetuneError as error:
        said = {"error": str(error), "shown": traceback.format_exc()}
    except BaseException:
        said = {"crash": traceback.format_exc()}
    print("said " + json.dumps(said), flush=True)
"""
ROWS = b"".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"q{number}"},
                {"role": "assistant", "content": f"a{number}"},
            ]
        }
    ).encode()
    + b"\n"
    for number in range(4)
)
WRONG_TOKEN = "hf_" + "aTokenThatTheHubDoesNotKnow"
WEIGHTS = "model.safetensors"


class Child:
    """A process that opens models and data by their hub ids."""

    def __init__(self, hub, home):
        self.home = home
        home.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home / "own")],
            env=stand_in.environment(hub.url, home, HF_HUB_ETAG_TIMEOUT="1"),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def tell(self, do, name="", **options):
        self.process.stdin.write(json.dumps({"do": do, "name": name, **options}) + "\n")
        self.process.stdin.flush()

    def ask(self, do, name="", **options):
        self.tell(do, name, **options)
        for line in self.process.stdout:
            if line.startswith("said "):
                said = json.loads(line.removeprefix("said "))
                assert "crash" not in said, said["crash"]
                return said
        raise AssertionError("the process ended")

    def refusal(self, do, name, **options):
        said = self.ask(do, name, **options)
        assert "error" in said, said
        assert "\n" not in said["error"]
        assert name in said["error"]
        return said["error"]

    def end(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def running():
    with stand_in.serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def child(running, tmp_path_factory):
    child = Child(running, tmp_path_factory.mktemp("home"))
    yield child
    child.end()


@pytest.fixture
def hub(running):
    yield running
    for failures in (running.broken, running.strange, running.wrong, running.longer):
        failures.clear()
    running.limits.clear()
    running.asked.clear()
    running.status = 200
    running.silent.clear()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def other(tmp_path_factory, tiny):
    """The same model with other weights."""
    return tiny | {WEIGHTS: tiny[WEIGHTS][:-4096] + bytes(4096)}


def test_a_branch_a_tag_and_a_commit_name_weights_that_stay_apart(hub, child, tiny, other):
    repo = hub.add("owner/grows", tiny)
    first = child.ask("model", "owner/grows")
    newer = stand_in.commit(repo, other, "main", "v2", "try/this")
    assert child.ask("model", "owner/grows", revision="v2") == child.ask("model", "owner/grows")
    by_name = child.ask("model", "owner/grows", revision="try/this")
    by_commit = child.ask("model", "owner/grows", revision=newer)
    assert by_name == by_commit
    assert by_name["digest"] == f"commit:{newer}"
    assert by_name["sum"] != first["sum"]
    old = first["digest"].removeprefix("commit:")
    assert child.ask("model", "owner/grows", revision=old) == first
    said = child.refusal("model", "owner/grows", revision="v9")
    assert "no revision 'v9'; legal are its branches, tags and commits" in said


def test_the_token_opens_what_is_gated_or_private_and_goes_with_every_file(hub, child, tiny):
    hub.add("owner/private", tiny, closed="RepoNotFound")
    hub.add("owner/gated", tiny, closed="GatedRepo")
    assert "or a private one" in child.refusal("model", "owner/private")
    assert "gated. Ask for access" in child.refusal("model", "owner/gated")
    assert "no such repository" in child.refusal("model", "owner/nothing", token=stand_in.TOKEN)
    hub.asked.clear()
    for name in ("owner/private", "owner/gated"):
        assert "digest" in child.ask("model", name, token=stand_in.TOKEN)
    # Transformers 5.23 lists a tokenizer's repository without the token, and goes on if refused.
    asked = [each for each in hub.asked if "/tree/" not in each.path]
    assert {each.token for each in asked} == {stand_in.TOKEN}


@pytest.mark.parametrize(("do", "kind"), [("model", "models"), ("rows", "datasets")])
def test_a_token_that_the_hub_echoes_is_in_no_error_and_in_no_traceback(hub, child, do, kind):
    hub.add("owner/echo", {"train.jsonl": ROWS}, kind=kind)
    said = child.ask(do, "owner/echo", token=WRONG_TOKEN)
    assert "error" in said
    assert WRONG_TOKEN not in json.dumps(said)


def test_a_file_that_breaks_off_is_taken_up_where_it_broke(hub, child, tiny):
    hub.add("owner/breaks", tiny)
    hub.broken[WEIGHTS] = [40_000, 30_000]
    whole = child.ask("model", "owner/breaks")
    parts = [asked.range for asked in hub.asked if asked.range]
    assert len(parts) == 2
    assert all(int(part.removeprefix("bytes=").rstrip("-")) > 0 for part in parts)
    hub.add("owner/never", tiny)
    assert child.ask("model", "owner/never")["sum"] == whole["sum"]


def test_a_file_that_always_breaks_off_is_told_and_never_taken_for_whole(hub, child, tiny):
    hub.add("owner/torn", tiny)
    hub.broken[WEIGHTS] = [40_000, *[1] * 20]
    said = child.refusal("model", "owner/torn")
    assert "the connection to the hub broke off" in said
    assert "run it again" in said
    said = child.refusal("model", "owner/torn", offline=True)
    assert said.endswith("the cache may hold only a part: go online once")
    hub.broken.clear()
    whole = child.ask("model", "owner/torn")
    assert child.ask("model", "owner/torn", offline=True) == whole


@pytest.mark.slow
def test_a_process_killed_in_the_middle_leaves_nothing_that_counts_as_whole(
    hub, child, tiny, tmp_path
):
    hub.add("owner/killed", tiny)
    hub.broken[WEIGHTS] = [40_000, *[1] * 20]
    first = Child(hub, tmp_path)
    first.tell("model", "owner/killed")
    _wait(lambda: WEIGHTS in hub.files_asked())
    first.end()
    hub.broken.clear()
    second = Child(hub, tmp_path)
    try:
        said = second.refusal("model", "owner/killed", offline=True)
        assert "the cache may hold only a part" in said
        assert second.ask("model", "owner/killed") == child.ask("model", "owner/killed")
    finally:
        second.end()


def _wait(done):
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "config.json"])
def test_bytes_with_another_checksum_are_refused_and_fetched_again(hub, child, tiny, name):
    hub.add(f"owner/wrong-{len(name)}", tiny)
    hub.wrong.add(name)
    said = child.refusal("model", f"owner/wrong-{len(name)}")
    assert f"{name} is not what the hub announced" in said
    assert "has been removed" in said
    hub.wrong.clear()
    assert "digest" in child.ask("model", f"owner/wrong-{len(name)}")


def test_weights_that_can_be_read_are_compared_with_their_checksum_too(hub, child, tiny, other):
    hub.add("owner/swapped", tiny)
    good = child.ask("model", "owner/swapped")
    blob = _blob(child, "owner/swapped")
    blob.write_bytes(other[WEIGHTS])  # same size, another content
    assert "is not what the hub announced" in child.refusal("model", "owner/swapped")
    assert child.ask("model", "owner/swapped") == good


def _blob(child, name):
    folder = child.home / "hf" / "hub" / f"models--{name.replace('/', '--')}"
    return next(folder.glob(f"snapshots/*/{WEIGHTS}")).resolve()


def test_a_file_of_another_size_is_refused(hub, child, tiny):
    hub.add("owner/longer", tiny)
    hub.longer.add(WEIGHTS)
    assert "more or less of a file than it announced" in child.refusal("model", "owner/longer")


@pytest.mark.parametrize("place", ["../../../../escaped", "/escaped"])
def test_a_shard_that_would_land_elsewhere_is_refused(hub, child, tiny, place, tmp_path):
    name = f"owner/shards-{len(place)}"
    target = f"{place}.safetensors"
    index = {"metadata": {}, "weight_map": {"lm_head.weight": target}}
    files = {k: v for k, v in tiny.items() if k != WEIGHTS}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.add(name, files | {target: tiny[WEIGHTS]})
    child.refusal("model", name)
    assert not [path for path in child.home.rglob("escaped*") if path.parent.name != "snapshots"]


def test_a_listing_with_names_that_lead_out_puts_no_file_outside(hub, child, tiny):
    template = {"additional_chat_templates/tool.jinja": b"{{ messages }}"}
    hub.add("owner/leads-out", tiny | template)
    hub.strange["additional_chat_templates/tool.jinja"] = (
        "additional_chat_templates/../../../../../../escaped.jinja"
    )
    child.ask("model", "owner/leads-out")
    assert not list(child.home.rglob("escaped*"))


@pytest.mark.parametrize(("do", "kind"), [("model", "models"), ("rows", "datasets")])
def test_too_many_requests_tell_how_long_to_wait_and_the_cache_serves_meanwhile(
    hub, child, tiny, do, kind
):
    hub.add("owner/limited", tiny if do == "model" else {"train.jsonl": ROWS}, kind=kind)
    hub.limits += [3000]
    begun = time.monotonic()
    assert "run it again in 3000 seconds" in child.refusal(do, "owner/limited")
    assert time.monotonic() - begun < 30
    hub.limits.clear()
    whole = child.ask(do, "owner/limited")
    hub.limits += [3000] * 50
    assert child.ask(do, "owner/limited", offline=True) == whole


@pytest.mark.parametrize(("do", "kind"), [("resolve", "models"), ("rows", "datasets")])
def test_a_hub_in_repair_is_told_fast_and_the_cache_serves_meanwhile(hub, child, tiny, do, kind):
    hub.add("owner/there", tiny if do == "resolve" else {"train.jsonl": ROWS}, kind=kind)
    hub.status = 503
    begun = time.monotonic()
    assert "(503)" in child.refusal(do, "owner/there")
    assert time.monotonic() - begun < 20
    hub.status = 200
    whole = child.ask(do, "owner/there")
    hub.status = 503
    assert child.ask(do, "owner/there") == whole


@pytest.mark.slow
@pytest.mark.parametrize(("do", "kind"), [("resolve", "models"), ("rows", "datasets")])
def test_a_hub_that_takes_connections_and_says_nothing_is_told(hub, child, tiny, do, kind):
    hub.add("owner/quiet", tiny if do == "resolve" else {"train.jsonl": ROWS}, kind=kind)
    hub.silent.set()
    begun = time.monotonic()
    assert "timed out" in child.refusal(do, "owner/quiet").lower()
    assert time.monotonic() - begun < 60


def test_offline_asks_for_nothing(hub, child, tiny):
    hub.add("owner/kept", tiny)
    hub.add("owner/kept", {"train.jsonl": ROWS}, kind="datasets")
    online = [child.ask(do, "owner/kept") for do in ("model", "rows")]
    hub.asked.clear()
    assert [child.ask(do, "owner/kept", offline=True) for do in ("model", "rows")] == online
    assert "HF_HUB_OFFLINE" in child.refusal("model", "owner/never-seen", offline=True)
    assert "HF_HUB_OFFLINE" in child.refusal("rows", "owner/never-seen", offline=True)
    assert hub.asked == []


def test_a_dataset_is_read_by_splits_and_no_row_gets_keys_of_another(hub, child):
    hub.add("owner/rows", {"train.jsonl": ROWS, "README.md": b"# rows"}, kind="datasets")
    said = child.ask("rows", "owner/rows")
    assert said["rows"] == [[f"q{number}", f"a{number}"] for number in range(4)]
    assert said["source"] == "owner/rows[train]:4"
    calls = _calls({"city": "Paris"}, {"days": 3})
    hub.add("owner/calls", {"train.parquet": calls}, kind="datasets")
    assert child.ask("rows", "owner/calls")["calls"] == [{"city": "Paris"}, {"days": 3}]
    assert "split 'nope' cannot be read" in child.refusal("rows", "owner/rows", split="nope")


def _calls(*arguments):
    functions = [{"name": "f", "arguments": each} for each in arguments]
    calls = [[{"type": "function", "function": function}] for function in functions]
    turns = [{"role": "assistant", "content": None, "tool_calls": each} for each in calls]
    file = io.BytesIO()
    Dataset.from_list([{"messages": [turn]} for turn in turns]).to_parquet(file)
    return file.getvalue()


def test_a_closed_or_missing_dataset_says_where_to_put_a_token(hub, child):
    hub.add("owner/gated", {"train.jsonl": ROWS}, kind="datasets", closed="GatedRepo")
    hub.add("owner/private", {"train.jsonl": ROWS}, kind="datasets", closed="RepoNotFound")
    assert "the dataset is gated" in child.refusal("rows", "owner/gated")
    for name in ("owner/private", "owner/nothing"):
        assert "does not exist, or is private" in child.refusal("rows", name)
    assert "rows" in child.ask("rows", "owner/private", token=stand_in.TOKEN)


def test_a_dataset_that_breaks_off_or_is_damaged_is_told_in_one_line(hub, child):
    hub.add("owner/torn-rows", {"train.jsonl": ROWS}, kind="datasets")
    hub.broken["train.jsonl"] = [100] * 20
    said = child.refusal("rows", "owner/torn-rows")
    assert "a download broke off and was thrown away; run it again" in said
    hub.broken.clear()
    assert len(child.ask("rows", "owner/torn-rows")["rows"]) == 4
    hub.add("owner/bad-rows", {"train.jsonl": b'{"messages": [\xff'}, kind="datasets")
    assert "cannot be read" in child.refusal("rows", "owner/bad-rows")


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_dataset_whose_card_names_a_file_of_this_machine_is_refused(hub, child, tmp_path, form):
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(ROWS)
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {form.format(mine)}\n---\n"
    name = f"owner/card-{len(form)}"
    hub.add(name, {"README.md": card.encode(), "train.jsonl": ROWS}, kind="datasets")
    assert "which is not of the dataset; nothing was read" in child.refusal("rows", name)


def test_the_script_of_a_dataset_is_never_run(hub, child, tmp_path):
    script = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    hub.add("owner/scripted", {"scripted.py": script}, kind="datasets")
    assert "code of a dataset is never run" in child.refusal("rows", "owner/scripted")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["pandas", "json"])
def test_a_kind_of_file_is_not_taken_for_a_dataset(child, name):
    assert "a kind of file and no dataset" in child.refusal("rows", name)


def test_train_takes_model_and_data_from_the_hub(hub, child, tiny, tmp_path):
    repo = hub.add("owner/base", tiny)
    hub.add("owner/taught", {"train.jsonl": ROWS}, kind="datasets")
    words = [
        "train",
        "--model",
        "owner/base",
        "--data",
        "owner/taught",
        "--out",
        str(tmp_path / "o"),
    ]
    quick = ["--device", "cpu", "--max-steps", "1", "--rank", "2", "--dtype", "float32"]
    said = child.ask("run", words=[*words, *quick])
    assert said["code"] == 0, said["heard"]
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert repo.names["main"] in json.dumps(run)
    adapter = json.loads((tmp_path / "o" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "owner/base"
    assert adapter["revision"] == repo.names["main"]
    words[2], words[-1] = "owner/not-there", str(tmp_path / "p")
    said = child.ask("run", words=[*words, *quick])
    assert said["code"] == 2
    assert "error: model 'owner/not-there': no such repository" in said["heard"]
    assert "Traceback" not in said["heard"]
