"""Promises of the repository as a whole."""

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

from agent_finetune import cli, hookspecs
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, TrainConfig

ROOT = Path(__file__).parents[1]
PROJECTS = {
    path.parent.name: tomllib.loads(path.read_text())["project"]
    for path in [ROOT / "shared/pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]
}
NAMES = {project["name"] for project in PROJECTS.values()}
OVERLAYS = re.findall(r'"([\w-]+==[\w.]+)"', (ROOT / "noxfile.py").read_text())
PINS = {}
for line in [*(ROOT / "constraints.txt").read_text().splitlines(), *OVERLAYS]:
    if line and not line.startswith("#"):
        PINS.setdefault(canonical(Requirement(line).name), []).append(Requirement(line))


def requirements(project):
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(r) for r in [*project["dependencies"], *(r for e in extras for r in e)]]


def tracked_texts():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file():
            yield name, path.read_bytes().decode("utf-8", errors="replace")


def test_there_are_three_packages_beside_the_kernel():
    expected = {
        "agent-finetune",
        "agentscope-finetune",
        "autogen-finetune",
        "modelscope-agent-train",
    }
    assert expected == NAMES


def test_all_packages_have_one_version():
    from agent_finetune import __version__

    assert {project["version"] for project in PROJECTS.values()} == {__version__}


def test_siblings_are_pinned_to_their_own_version():
    for name, project in PROJECTS.items():
        pins = [r for r in requirements(project) if r.name in NAMES]
        assert [str(pin.specifier) for pin in pins] == [f"=={project['version']}"] * len(pins), name
        assert bool(pins) == (name != "shared"), name


def test_constraints_pin_every_direct_dependency_within_its_range():
    for name, project in PROJECTS.items():
        for requirement in requirements(project):
            if requirement.name in NAMES:
                continue
            pins = PINS.get(canonical(requirement.name), [])
            assert pins, f"{name}: {requirement} is pinned nowhere"
            versions = [s.version for pin in pins for s in pin.specifier]
            assert any(map(requirement.specifier.contains, versions)), f"{name}: {requirement}"


@pytest.mark.parametrize("member", sorted(PROJECTS))
def test_whatever_is_imported_is_a_declared_dependency(member):
    folder = ROOT / member if member == "shared" else ROOT / "packages" / member
    needed = set()
    for path in folder.glob("src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                needed.add(node.module.partition(".")[0])
    own = {path.parent.name for path in folder.glob("src/*/__init__.py")}
    declared = {canonical(r.name) for r in requirements(PROJECTS[member])}
    sources = metadata.packages_distributions()
    for name in sorted(needed - own - sys.stdlib_module_names):
        dists = {canonical(dist) for dist in sources.get(name, [name])}
        assert dists & declared, f"{name} is imported, and not among the dependencies"


def test_every_hook_is_documented_with_its_exact_arguments():
    documented = dict(
        re.findall(r"^\| `(finetune_\w+)\((.*?)\)`", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    )
    declared = {
        name: ", ".join(inspect.signature(function).parameters)
        for name, function in vars(hookspecs).items()
        if name.startswith("finetune_")
    }
    assert documented == declared


def test_the_order_of_the_layers_is_documented_as_it_is_checked():
    told = re.search(r"^`(cli, .*)`$", (ROOT / "CONTRIBUTING.md").read_text(), re.M).group(1)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in contracts["contracts"] if c["name"] == "kernel layers"]
    checked = [set(re.findall(r"\w+", layer)) for layer in layers]
    assert [set(re.findall(r"\w+", layer)) for layer in told.split(" > ")] == checked


def test_every_nox_session_is_documented():
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.M)
    documented = re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert sorted(documented) == sorted(sessions)


def test_every_field_of_a_run_is_a_flag_of_train_and_the_other_way_round(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["train", "--help"]) == 0
    shown = set(re.findall(r"--([a-z][a-z0-9-]*)", capsys.readouterr().out.replace("\n", " ")))
    known = {
        spec.name.replace("_", "-")
        for config in (ModelConfig, DataConfig, AdapterConfig, TrainConfig)
        for spec in fields(config)
    }
    assert known - shown == set()
    own = {"out", "config", "json", "help", "version"}
    assert {flag for flag in shown - known - own if not flag.startswith("no-")} == set()


def test_no_page_installs_our_packages_from_an_index():
    # `autogen-finetune` on the index is somebody else's.
    bare = re.compile(rf"pip3? install\b[^\n]*?(?<![\w/.])({'|'.join(NAMES)})(?!-\d|/)\b")
    told = [
        f"{name}: {match.group()}"
        for name, text in tracked_texts()
        if name.endswith((".md", ".py", ".toml", ".txt"))
        for match in bare.finditer(text)
    ]
    assert told == []


@pytest.mark.parametrize("place", ["/" + "work/", "/tmp" + "/w/", "/opt" + "/pypi"])
def test_no_file_names_a_place_of_the_machine_it_was_written_on(place):
    assert [name for name, text in tracked_texts() if place in text] == []


def test_ci_can_be_started():
    assert os.access(ROOT / ".ci/run", os.X_OK)
