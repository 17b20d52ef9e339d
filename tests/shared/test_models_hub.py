"""A small server that answers as the hub does; huggingface_hub reads its address at import.

Hence every case runs in a process of its own, through the same function as the command line.
"""

import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from agent_finetune.testing import save_tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"
REFUSALS = {
    "gated": (403, "GatedRepo"),
    "missing": (401, "RepoNotFound"),
    "empty": (404, "EntryNotFound"),
    "forbidden": (403, None),
}
CHILD = """
import json, sys
from agent_finetune import models
from agent_finetune.config import ModelConfig
from agent_finetune.errors import FinetuneError
from agent_finetune.settings import read_settings

name, revision, load = json.loads(sys.argv[1])
settings = read_settings()
try:
    resolved = models.resolve(name, revision, settings)
    said = {"location": resolved.location, "revision": resolved.revision}
    said["torch"] = "torch" in sys.modules
    if load:
        config = ModelConfig(model=name, revision=revision, dtype="float32", device="cpu")
        loaded = models.load_base(config, resolved, settings)
        said["digest"] = loaded.digest
        said["name_or_path"] = loaded.model.name_or_path
        said["parameters"] = loaded.model.num_parameters()
        said["template"] = loaded.tokenizer.chat_template is not None
except FinetuneError as error:
    said = {"error": str(error)}
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The server's address, and the model folder that it gives out as `owner/tiny`."""
    folder = save_tiny_model(tmp_path_factory.mktemp("hub"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = re.fullmatch(r"/owner/(\w+)/resolve/([^/]+)/([^?]+).*", self.path)
            if not found:
                return self.refuse(404, "EntryNotFound")
            repo, revision, name = found.groups()
            if repo in REFUSALS:
                return self.refuse(*REFUSALS[repo])
            if revision not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            if repo == "pickled" and name.endswith(".safetensors"):
                return self.refuse(404, "EntryNotFound")
            if not (folder / name).is_file():
                return self.refuse(404, "EntryNotFound")
            return self.give((folder / name).read_bytes())

        do_HEAD = do_GET

        def refuse(self, status, code):
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def give(self, content):
            self.send_response(200)
            self.send_header("ETag", f'"{len(content)}-{abs(hash(content))}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def ask(hub, cache, name, revision=None, *, load=False, folder=None, **environment):
    base = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    base |= {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "AGENT_FINETUNE_CACHE": str(cache / "own")}
    base |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, json.dumps([name, revision, load])],
        env=base,
        cwd=folder or cache,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refusal(*arguments, **options):
    said = ask(*arguments, **options)["error"]
    assert "\n" not in said
    return said


def test_a_hub_model_is_pinned_to_its_commit_loaded_and_then_found_offline(hub, cache):
    said = ask(hub, cache, "owner/tiny", load=True)
    assert said["digest"] == f"commit:{COMMIT}"
    assert said["location"] == said["name_or_path"] == "owner/tiny"
    assert said["template"]
    assert ask(NOWHERE, cache, "owner/tiny", load=True, HF_HUB_OFFLINE="1") == said


def test_offline_can_be_said_in_the_env_file(hub, cache, tmp_path):
    ask(hub, cache, "owner/tiny")
    (tmp_path / ".env").write_text("HF_HUB_OFFLINE=1\n")
    assert ask(NOWHERE, cache, "owner/tiny", folder=tmp_path)["revision"] == COMMIT
    said = refusal(NOWHERE, cache, "owner/other", folder=tmp_path)
    assert "HF_HUB_OFFLINE is set" in said


def test_without_network_the_cached_commit_is_taken(hub, cache):
    ask(hub, cache, "owner/tiny")
    assert ask(NOWHERE, cache, "owner/tiny")["revision"] == COMMIT


def test_resolving_does_not_load_torch(hub, cache):
    said = ask(hub, cache, "owner/tiny", "main")
    assert said == {"location": "owner/tiny", "revision": COMMIT, "torch": False}


def test_a_gated_model_without_a_token_says_where_to_put_one(hub, cache):
    said = refusal(hub, cache, "owner/gated")
    assert said.startswith("model 'owner/gated': gated. Ask for access")
    assert "set HF_TOKEN in the environment or in .env" in said


def test_a_gated_model_with_a_token_says_that_it_does_not_open_it(hub, cache):
    said = refusal(hub, cache, "owner/gated", HF_TOKEN="hf_top_secret")
    assert "the token in HF_TOKEN does not open it" in said
    assert "top_secret" not in said


def test_an_unknown_repository_is_told(hub, cache):
    assert "no such repository on the hub, or a private one" in refusal(hub, cache, "owner/missing")


def test_an_unknown_revision_is_told(hub, cache):
    assert "no revision 'v9'; legal are" in refusal(hub, cache, "owner/tiny", "v9")


def test_a_repository_that_is_no_model_is_told(hub, cache):
    said = refusal(hub, cache, "owner/empty")
    assert "not a model for Transformers, it has no config.json" in said


def test_a_refusal_without_a_known_code_is_passed_on(hub, cache):
    assert "the hub refused" in refusal(hub, cache, "owner/forbidden")


def test_no_network_is_told_with_its_reason(cache):
    said = refusal(NOWHERE, cache, "owner/other")
    assert "the hub cannot be reached (" in said
    assert "give a local folder, a GGUF file or a shipped model" in said


@pytest.mark.parametrize("name", ["owner/other", "owner/gated"])
def test_offline_names_the_switch(hub, cache, name):
    assert "HF_HUB_OFFLINE is set and it is not in the local cache" in refusal(
        hub, cache, name, HF_HUB_OFFLINE="1"
    )


def test_a_repository_with_only_pickled_weights_is_refused(hub, cache):
    said = refusal(hub, cache, "owner/pickled", load=True)
    assert "has no safetensors weights; pickle files" in said


def test_offline_with_half_a_model_in_the_cache_is_told(hub, cache):
    ask(hub, cache, "owner/half")
    said = refusal(hub, cache, "owner/half", load=True, HF_HUB_OFFLINE="1")
    assert said.endswith("the cache may hold only a part: go online once")
