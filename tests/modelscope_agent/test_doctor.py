"""What `agent-finetune doctor` says of ModelScope."""

import subprocess
import sys

import pytest

from agent_finetune import plugins
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from modelscope_agent_train_plugin import diagnosis


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    for name in ("TOKEN", "API_TOKEN", "ENDPOINT", "DOMAIN", "PREFER_AI_SITE", "CACHE"):
        monkeypatch.delenv(f"MODELSCOPE_{name}", raising=False)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_versions_hub_and_cache_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AGENT_TRAIN_OFFLINE", "1")
    answer = plugins.diagnose(Settings())["modelscope"]
    assert answer.facts["versions"].startswith("modelscope 1.")
    assert answer.facts["hub"].endswith(", offline")
    assert answer.caches == {"ModelScope's cache": tmp_path / "cache"}
    assert "DeepspeedHook" in answer.facts["names of its own that do not work"]


def test_a_token_is_told_without_its_value(tmp_path, monkeypatch):
    assert diagnosis.diagnose().facts["token for the hub"] == "no"
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/cookies").write_bytes(b"a pickle that nobody reads")
    assert diagnosis.diagnose().facts["token for the hub"] == "yes, of modelscope login"
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "planted")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://me:planted@hub.test")
    answer = diagnosis.diagnose()
    assert answer.facts["token for the hub"] == "yes, in MODELSCOPE_API_TOKEN"
    assert "planted" not in str(answer)


def test_a_switch_that_is_none_is_the_plugins_failure(monkeypatch):
    monkeypatch.setenv("AGENT_TRAIN_OFFLINE", "perhaps")
    answer = plugins.diagnose(Settings())["modelscope"]
    assert isinstance(answer, ConfigError)


def test_the_doctor_imports_no_modelscope():
    code = (
        "import sys; from modelscope_agent_train_plugin.diagnosis import diagnose; diagnose(); "
        "print({'modelscope', 'modelscope_hub', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == "set()\n"
