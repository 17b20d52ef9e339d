"""The AutoGens that tests run on: which is installed here, and what differs between them.

| module | of | sessions |
|---|---|---|
| autogen (classic) | pyautogen 0.2.35, pyautogen 0.9.0, ag2 0.14.0 | one each |
| autogen_agentchat | autogen-agentchat 0.7.5 | all |
| ag2 | ag2 1.2.1 | the one with pyautogen 0.9.0 |
"""

from __future__ import annotations

import os
import warnings
from types import ModuleType

import pytest

QUIET = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # 0.9 copies with pydantic's old way
    pytest.mark.filterwarnings("ignore:API key specified is not a valid:UserWarning"),
]
"""For the `pytestmark` of a test file: what hosts warn of while they run."""


def host(name: str) -> ModuleType:
    """A host's module; the test file is skipped where it is not installed. Hosts warn at import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ.setdefault("AUTOGEN_USE_DOCKER", "False")
        return pytest.importorskip(name)


def classic() -> ModuleType:
    """Classic AutoGen, of whatever distribution; `ag2` 1.x has no such module."""
    module = host("autogen")
    if not hasattr(module, "ConversableAgent"):
        pytest.skip("the module autogen is not the classic one", allow_module_level=True)
    return module


def agentchat() -> ModuleType:
    """AutoGen 0.4+."""
    return host("autogen_agentchat")


def ag2() -> ModuleType:
    """AG2 1.x."""
    return host("ag2")


def version(autogen: ModuleType) -> tuple[int, int]:
    """Of classic AutoGen: (0, 2), (0, 9) or (0, 14)."""
    major, minor, *_ = autogen.__version__.split(".")
    return int(major), int(minor)
