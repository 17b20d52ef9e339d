"""What `agent-finetune doctor` is told of AgentScope, read from metadata alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from packaging.version import Version

from agent_finetune.contracts import Diagnosis, Finding
from agent_finetune.doctor import packages

TESTED = ("2.0.10", "2.0.11")
_WITH_CERTIFI = Version("2.0.11")
"""From here on AgentScope asks for a certifi that some indexes do not have."""
_SERVICE = ("fastapi", "sqlalchemy", "aiosqlite")
"""What the extra `service` brings, of what the agent service does not start without."""


def diagnose() -> Diagnosis:
    """Look at what is installed."""
    there = packages.installed()
    host = there.get("agentscope")
    missing = [name for name in _SERVICE if find_spec(name) is None]
    facts = {
        "agent service": f"not here, for want of {', '.join(missing)}" if missing else "can run",
        "credentials reach": "hub ids and shipped models; folders once allow_models names them",
    }
    if host is not None:
        state = "tested" if host.version in TESTED else f"not tested; {' and '.join(TESTED)} are"
        facts = {"AgentScope": f"{host.version}, {state}", **facts}
    return Diagnosis(
        title="AgentScope",
        modules=("agentscope",),
        facts=facts,
        findings=tuple(_findings(there)),
    )


def _findings(there: packages.There) -> Iterator[Finding]:
    host, certifi = there.get("agentscope"), there.get("certifi")
    if host is None or certifi is None or Version(host.version) < _WITH_CERTIFI:
        return
    wanted = next((each for each in host.requires if each.name == "certifi"), None)
    if wanted is not None and not wanted.specifier.contains(certifi.version):
        yield Finding(
            what=f"pip will not resolve agentscope {host.version} together with what is here",
            why=(
                f"it asks for certifi{wanted.specifier}, which some indexes do not have, and never "
                "imports it: it works all the same"
            ),
            mend="none needed; pip install 'agentscope==2.0.10' resolves everywhere",
            broken=False,
        )
