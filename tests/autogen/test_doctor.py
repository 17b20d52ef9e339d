"""What `agent-finetune doctor` says of AutoGen, on folders of packages as pip leaves them."""

import json

import pytest
from autogen_hosts import classic
from sites import install, python, without_hosts

from agent_finetune import plugins
from agent_finetune.contracts import Settings
from autogen_finetune import diagnosis

AGENT = "class ConversableAgent: pass\n"
CLASSIC = {
    "autogen/__init__.py": "raise ImportError('the doctor imports no host')",
    "autogen/agentchat/conversable_agent.py": AGENT,
}


@pytest.fixture
def site(tmp_path):
    return without_hosts(tmp_path / "site")


def diagnosed(site, cwd=None):
    """What our plugin says, and what the doctor says of modules."""
    code = """
import json
from dataclasses import asdict
from agent_finetune.doctor import modules, packages
from autogen_finetune.diagnosis import diagnose
answer, there = diagnose(), packages.installed()
claimed = modules.claims(there)
overlaps = modules.overlaps(claimed, set(answer.speaks_for))
found = [modules.examine(name, claimed, there) for name in answer.modules]
print(json.dumps({
    "facts": answer.facts,
    "findings": [asdict(finding) for finding in answer.findings],
    "owners": {module.name: module.owners for module in found},
    "overlaps": [asdict(overlap) for overlap in overlaps],
}))
"""
    answer = python(site, code, cwd)
    assert answer.stderr == ""
    return json.loads(answer.stdout)


def whats(found):
    return [finding["what"] for finding in found["findings"]]


def test_an_autogen_that_was_tested_is_fine(site):
    install(site, "ag2", "0.14.0", CLASSIC)
    found = diagnosed(site)
    assert found["facts"]["classic AutoGen"].startswith("tested; for it: HFModelClient")
    assert found["facts"]["AG2 1.x"] == "not installed"
    assert found["owners"]["autogen"] == ["ag2 0.14.0"]
    assert (found["findings"], found["overlaps"]) == ([], [])


def test_without_any_autogen_every_way_to_one_is_named(site):
    (finding,) = diagnosed(site)["findings"]
    assert not finding["broken"]
    assert 'pip install "ag2<1"' in finding["mend"]
    assert '"autogen-agentchat>=0.7,<0.8"' in finding["mend"]


def test_pyautogen_of_today_is_called_what_it_is(site):
    install(site, "pyautogen", "0.10.0")
    found = diagnosed(site)
    assert whats(found)[0] == "pyautogen 0.10.0 brings no module autogen"
    assert "uninstall pyautogen" in found["findings"][0]["mend"]


def test_pyautogen_of_today_beside_a_classic_one_is_no_matter(site):
    install(site, "pyautogen", "0.10.0")
    install(site, "ag2", "0.14.0", CLASSIC)
    assert diagnosed(site)["findings"] == []


def test_two_distributions_with_the_same_files_are_found_and_who_won(site):
    install(site, "pyautogen", "0.9", {**CLASSIC, "autogen/old.py": "old = 1"})
    other = {"autogen/__init__.py": "1", "autogen/agentchat/conversable_agent.py": "2"}
    install(site, "ag2", "0.14.0", other)
    (overlap,) = diagnosed(site)["overlaps"]
    assert (overlap["module"], overlap["files"]) == ("autogen", 2)
    assert overlap["intact"] == {"ag2 0.14.0": 2, "pyautogen 0.9": 0}


def test_a_version_that_nobody_tested_is_said_to_be_one(site):
    install(site, "autogen", "0.14.1", CLASSIC)
    found = diagnosed(site)
    (finding,) = found["findings"]
    assert "is of autogen 0.14.1, and nobody looked" in finding["what"]
    assert finding["why"].startswith("our tests run on pyautogen")
    assert not finding["broken"]


def test_a_module_of_the_name_that_is_no_classic_autogen_is_broken(site):
    install(site, "ag2", "0.14.0", {"autogen/__init__.py": ""})
    (finding,) = diagnosed(site)["findings"]
    assert finding["broken"]
    assert finding["what"] == "the module autogen is not classic AutoGen"


def test_cached_answers_are_found_where_the_command_runs(site, tmp_path):
    install(site, "pyautogen", "0.2.35", CLASSIC)
    (tmp_path / ".cache/41").mkdir(parents=True)
    (tmp_path / ".cache/41/cache.db").write_bytes(b"12345")
    (tmp_path / ".cache/other").mkdir()
    found = diagnosed(site, tmp_path)
    assert found["facts"]["answers cached here"] == "in .cache, seeds 41 (5 bytes)"
    assert whats(found) == [
        "classic AutoGen 0.2.35 caches answers that nobody asked it to cache",
        "answers are cached in .cache, seeds 41",
    ]


def test_a_module_of_the_same_name_elsewhere_on_the_path_is_no_overlap(site, tmp_path):
    install(site, "ag2", "0.14.0", CLASSIC)
    install(tmp_path / "first", "pyautogen", "0.9", CLASSIC)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "first")!r})
from agent_finetune.doctor import modules, packages
there = packages.installed()
claimed = modules.claims(there)
print(modules.overlaps(claimed, {{"ag2"}}), modules.examine("autogen", claimed, there).owners)
"""
    assert python(site, code).stdout == "() ('pyautogen 0.9',)\n"


def test_the_autogen_of_this_session_works(tmp_path):
    answer = diagnosis.diagnose(tmp_path)
    version = classic().__version__
    assert answer.facts["classic AutoGen"].startswith("tested; ")
    assert not [finding for finding in answer.findings if finding.broken]
    assert diagnosis.installed_version("ag2") or diagnosis.installed_version("pyautogen")
    assert version


def test_the_doctor_asks_this_plugin():
    assert plugins.diagnose(Settings())["autogen"].title == "AutoGen"
