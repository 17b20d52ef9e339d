"""Which AutoGen is installed: three generations, under five names on the package index.

The module `autogen` comes from distributions of several names, some of which overwrite each other,
and one of which (`pyautogen` from 0.10) has no module at all. Nothing of AutoGen is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A generation of AutoGen."""

    module: str
    """What it is imported as."""
    title: str
    serves: str
    """Names of this package that are for it."""
    tested: dict[str, SpecifierSet]
    """Distributions that bring the module, and the versions that our tests run on or between."""
    install: str

    def is_tested(self, distribution: str, version: str) -> bool:
        """Whether our tests run on this version, or on versions around it."""
        versions = self.tested.get(distribution)
        return versions is not None and version in versions


HOSTS = {
    host.module: host
    for host in (
        Host(
            module="autogen",
            title="classic AutoGen",
            serves="HFModelClient, update_model, attach",
            tested={
                "pyautogen": SpecifierSet(">=0.2.35,<0.10"),
                "ag2": SpecifierSet(">=0.9.10,<1"),
            },
            install='pip install "ag2<1"',
        ),
        Host(
            module="autogen_core",
            title="AutoGen 0.4 and later",
            serves="agentchat.HFChatCompletionClient, agentchat.update_model",
            tested={"autogen-core": SpecifierSet(">=0.7,<0.8")},
            install='pip install "autogen-agentchat>=0.7,<0.8"',
        ),
        Host(
            module="ag2",
            title="AG2 1.x",
            serves="ag2.HFConfig, ag2.update_model",
            tested={"ag2": SpecifierSet(">=1.2,<2")},
            install='pip install "ag2>=1.2,<2"',
        ),
    )
}


def location_of(module: str) -> Path | None:
    """The folder that a top-level package would be imported from, or None where there is none.

    A folder without code, as an uninstall may leave it behind, is none.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def is_installed(module: str) -> bool:
    """Whether a top-level package can be imported."""
    return location_of(module) is not None


def installed_version(distribution: str) -> Version | None:
    """The version of a distribution, or None where it is not installed."""
    try:
        return Version(version(distribution))
    except PackageNotFoundError:
        return None


def is_proxy(distribution: str, number: Version) -> bool:
    """Whether this is the `pyautogen` that only pulls in autogen-agentchat."""
    return distribution == "pyautogen" and number >= Version("0.10")


def require(module: str, name: str) -> None:
    """Say what is missing, before a name of this package is used.

    Args:
        module: The module of the AutoGen that it is for.
        name: What was asked for.

    Raises:
        ImportError: It is not installed; with what is, and the ways on.
    """
    if not is_installed(module):
        raise ImportError(f"autogen_finetune.{name} {_reason(module)}", name=module)


def _reason(module: str) -> str:
    host = HOSTS[module]
    needs = f"is for {host.title}, and there is no module {module!r} here"
    if module != "autogen":
        return f"{needs}; {host.install}"
    pyautogen, ag2 = installed_version("pyautogen"), installed_version("ag2")
    if pyautogen is not None and is_proxy("pyautogen", pyautogen):
        return f"{needs}: pyautogen {pyautogen}, which is installed, only stands for {_PROXY}"
    if ag2 is not None and ag2 >= Version("1"):
        return f"{needs}: AG2 {ag2}, which is installed, has another API. {_AG2}"
    return f'{needs}; {host.install}, or "pyautogen>=0.2.35,<0.3" for the API of 2024'


_PROXY = """autogen-agentchat. Two ways on:
1. Stay with what you have, whose agents take a client:
       from autogen_agentchat.agents import AssistantAgent
       from autogen_finetune.agentchat import HFChatCompletionClient, update_model
       agent = AssistantAgent("assistant", HFChatCompletionClient("smollm2-135m-instruct"))
       result = await agent.run(task="Hello")
2. Get the API with register_model_client:
       pip uninstall pyautogen, then pip install "ag2<1" (or "pyautogen>=0.2.35,<0.3")"""
_AG2 = """Two ways on:
1. Stay with what you have: Agent("assistant", config=HFConfig("smollm2-135m-instruct")),
   with HFConfig and update_model from autogen_finetune.ag2
2. Get the classic API: pip install "ag2<1" in its place, or "pyautogen>=0.9,<0.10" beside it"""
