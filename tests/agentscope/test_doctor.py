"""What `agent-finetune doctor` says of AgentScope."""

from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

from agent_finetune import plugins
from agent_finetune.contracts import Settings
from agent_finetune.doctor import packages
from agentscope_finetune_plugin import diagnosis


def distribution(name, number, *requires):
    return packages.Installed(
        name=name,
        version=number,
        extras=(),
        requires=tuple(map(Requirement, requires)),
        root=Path("site"),
        record="",
        source=None,
    )


def diagnosed(monkeypatch, *there):
    monkeypatch.setattr(packages, "installed", lambda: {each.name: each for each in there})
    return diagnosis.diagnose()


def test_the_agentscope_of_this_session_is_a_tested_one():
    answer = plugins.diagnose(Settings())["agentscope"]
    assert answer.title == "AgentScope"
    assert answer.facts["AgentScope"] == f"{version('agentscope')}, tested"
    assert answer.facts["agent service"] == "can run"
    assert not [finding for finding in answer.findings if finding.broken]


def test_a_version_that_nobody_tested_is_said_to_be_one(monkeypatch):
    answer = diagnosed(monkeypatch, distribution("agentscope", "2.0.99"))
    assert answer.facts["AgentScope"] == "2.0.99, not tested; 2.0.10 and 2.0.11 are"


def test_the_certifi_that_is_asked_for_and_never_imported_is_explained(monkeypatch):
    host = distribution("agentscope", "2.0.11", "certifi>=2026.10.19")
    (finding,) = diagnosed(monkeypatch, host, distribution("certifi", "2026.10.18")).findings
    assert "certifi>=2026.10.19" in finding.why
    assert not finding.broken
    assert not diagnosed(monkeypatch, host, distribution("certifi", "2026.11.1")).findings


def test_what_keeps_the_service_from_running_is_named(monkeypatch):
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None)
    assert diagnosis.diagnose().facts["agent service"] == (
        "not here, for want of fastapi, sqlalchemy, aiosqlite"
    )
