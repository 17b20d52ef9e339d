"""Everything there is to run here. `nox` alone runs lint, layers, types and tests; `nox -l` lists.

pip, not uv: an unpinned torch pulls gigabytes, and every install goes through constraints.txt.
"""

import hashlib
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
PLUGINS = sorted(ROOT.glob("packages/*/pyproject.toml"))
MEMBERS = ("shared", *(f"packages/{path.parent.name}" for path in PLUGINS))
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt")
TEST_TOOLS = (
    *("hatchling", "pytest", "pytest-cov", "pytest-xdist", "hypothesis", "pydantic"),
    # What hosts have beside what they require: a terminal interface, a cache on disk.
    *("textual", "diskcache"),
)
# In the order of conftest.py, which puts long files first.
PARALLEL = ("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "--durations=20")
EXTRAS = {
    "shared": "[gguf,quantization]",
    "packages/agentscope-finetune": "[service]",
    "packages/autogen-finetune": "[classic,agentchat,cache]",
    "packages/modelscope-agent-train": "[deepspeed,tensorboard]",
}


class Overlay(NamedTuple):
    """Another version of a host, with what it needs that the shared environment has not."""

    tests: str
    packages: tuple[str, ...]


OVERLAYS = {
    # It asks for a certifi that some indexes do not have, and never imports it.
    "agentscope-2.0.11": Overlay(
        "tests/agentscope",
        (
            "agentscope==2.0.11",
            "mcp==2.3.0",
            "mcp-types==2.3.0",
            "httpx2==2.16.2",
            "httpcore2==2.16.2",
            "truststore==0.10.5",
        ),
    ),
    # Before numpy 2, and with it before the pandas and pyarrow that need one.
    "autogen-0.2": Overlay(
        "tests/autogen",
        (
            "pyautogen==0.2.35",
            "diskcache==5.6.3",
            "docker==7.2.0",
            "flaml==2.7.0",
            "tiktoken==0.14.0",
            "numpy==1.26.4",
            "pandas==2.2.3",
            "pyarrow==22.0.0",
            "pytz==2026.6",
        ),
    ),
    "autogen-0.9-ag2-1.2": Overlay(
        "tests/autogen",
        (
            "pyautogen==0.9.0",
            "ag2==1.2.1",
            "asyncer==0.0.8",
            "fast-depends==3.0.9",
            "diskcache==5.6.3",
            "docker==7.2.0",
            "tiktoken==0.14.0",
        ),
    ),
}

# What the oldest versions need of packages that we do not ask for ourselves.
BESIDE_OLDEST = (
    *("pandas==2.2.3", "pytz==2026.6", "dill==0.4.0", "multiprocess==0.70.18"),
    "sentencepiece==0.2.3",  # or gguf cannot be imported, and its tests are skipped
)
# Newer than constraints.txt, where ModelScope holds it back; who has no ModelScope gets this.
NEWEST = ("datasets==5.2.0",)
# What stands on that one, and then on the others.
RANGE_TESTS = {
    "newest": ("readers_files", "train_job", "train_preferences"),
    "oldest": (
        *("readers_files", "models_hub", "models_loading", "adapters", "train_job"),
        *("render_parse", "render_rows", "render_templates", "toolcalls", "collate"),
        *("models_quantization", "models_gguf", "engine_contract", "engine_lora"),
        "train_preferences",
    ),
}


def oldest() -> tuple[str, ...]:
    """Everything that the kernel asks for, at the lowest version of its range.

    But torch, of which a build for the CPU alone is to be had in one version.
    """
    project = tomllib.loads((ROOT / "shared" / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["quantization"], *extras["gguf"]]
    bounds = [re.match(r"([\w-]+)>=([\w.]+)", line).groups() for line in wanted]
    return tuple(f"{name}=={version}" for name, version in bounds if name != "torch")


_installed: set[tuple[bool, tuple[str, ...]]] = set()
"""What this run has put into the shared environment."""


def kernel(session: nox.Session, *tools: str, whole: bool = False) -> str:
    """Install the four packages into one environment; answer its `bin` folder.

    The sessions that need torch share it, since each copy costs 1.5 GB and minutes. The packages
    are installed in one command: they pin each other by `==` and are in no index. With `whole`,
    their extras come along, AutoGen among them, which only tests and types need.
    """
    home = session.cache_dir.parent / "kernel"
    if (whole, tools) in _installed:
        return str(home / "bin")
    if not (home / "bin" / "python").exists():
        session.log("making the environment; the first time this takes a few minutes")
        session.run(sys.executable, "-m", "venv", "--clear", str(home), external=True)
    wanted = EXTRAS if whole else {"shared": "[gguf]"}
    editable = [word for member in MEMBERS for word in ("-e", member + wanted.get(member, ""))]
    session.run(str(home / "bin" / "python"), *PIP, *editable, *tools, external=True)
    _installed.add((whole, tools))
    return str(home / "bin")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format, by ruff."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def layers(session: nox.Session) -> None:
    """Who may import whom, by import-linter; reads the sources and imports nothing."""
    session.install("-c", "constraints.txt", "import-linter")
    roots = ":".join(str(ROOT / member / "src") for member in MEMBERS)
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": roots})


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Types, by mypy --strict on the four source trees."""
    bin_ = kernel(session, "mypy", "types-regex", whole=True)
    session.run(
        f"{bin_}/mypy",
        "--num-workers",
        "2",
        *(f"{member}/src" for member in MEMBERS),
        external=True,
    )


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Every quick test, with coverage of the kernel. Arguments go to pytest."""
    pytest(session, "-m", "not slow", "--cov", "--cov-report=term-missing:skip-covered")


@nox.session(venv_backend="none", default=False)
def slow(session: nox.Session) -> None:
    """The tests that take minutes, on a real model. Arguments go to pytest."""
    pytest(session, "-m", "slow")


def pytest(session: nox.Session, *options: str) -> None:
    """Run pytest in the shared environment, a process per core; any argument takes over."""
    bin_ = kernel(session, *TEST_TOOLS, whole=True)
    chosen = session.posargs or [*options, *PARALLEL]
    # One thread each: the processes are the parallelism, and sums then come out the same anywhere.
    session.run(
        f"{bin_}/python", "-m", "pytest", *chosen, env={"OMP_NUM_THREADS": "1"}, external=True
    )


@nox.parametrize("version", [nox.param(name, id=name) for name in OVERLAYS])
@nox.session(venv_backend="none")
def hosts(session: nox.Session, version: str) -> None:
    """A plugin's tests on another version of its host: `nox -s 'hosts(autogen-0.2)'`.

    It is laid over the shared environment in a folder of its own, so that torch is there once.
    """
    overlay = OVERLAYS[version]
    over(session, version, overlay.packages, overlay.tests)


@nox.parametrize("end", [nox.param(name, id=name) for name in RANGE_TESTS])
@nox.session(venv_backend="none")
def ranges(session: nox.Session, end: str) -> None:
    """The kernel on the oldest or newest versions that its pyproject.toml promises."""
    packages = (*oldest(), *BESIDE_OLDEST) if end == "oldest" else NEWEST
    tests = (f"tests/shared/test_{name}.py" for name in RANGE_TESTS[end])
    # What an old library warns of in a newer neighbour is between the two.
    over(session, end, packages, *tests, "-W", "default")


def over(session: nox.Session, name: str, packages: Sequence[str], *words: str) -> None:
    """Run pytest with other packages laid over the shared environment."""
    bin_ = kernel(session, *TEST_TOOLS, whole=True)
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    folder = session.cache_dir.parent / f"{name}-{digest}"
    if not folder.is_dir():
        made = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(made, ignore_errors=True)
        into = (*PIP[:-2], "--no-deps", "--target", str(made))
        session.run(f"{bin_}/python", *into, *packages, external=True)
        made.rename(folder)
    chosen = (*words, "-m", "not slow and not real", *PARALLEL)
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    session.run(f"{bin_}/python", "-m", "pytest", *chosen, env=env, external=True)


@nox.session(venv_backend="none", default=False)
def quickstart(session: nox.Session) -> None:
    """A real model learns to call tools. Arguments: --model, --minutes, --out, --seed."""
    bin_ = kernel(session)
    session.run(f"{bin_}/agent-finetune", "quickstart", *session.posargs, external=True)


@nox.session(venv_backend="none", default=False)
def multi_llm(session: nox.Session) -> None:
    """Planner, caller and summarizer against one model that does it all; --seeds, --tokens, ..."""
    bin_ = kernel(session)
    session.run(f"{bin_}/python", "benchmarks/multi_llm.py", *session.posargs, external=True)


@nox.session(venv_backend="none", default=False)
def benchmark(session: nox.Session) -> None:
    """Run a script of benchmarks/: `nox -s benchmark -- speed --help`."""
    names = sorted(path.stem for path in ROOT.glob("benchmarks/*.py"))
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"name one of {', '.join(names)}: nox -s benchmark -- NAME ...")
    bin_ = kernel(session)
    name, *arguments = session.posargs
    session.run(f"{bin_}/python", f"benchmarks/{name}.py", *arguments, external=True)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Make the four wheels in dist/, and prove in a clean environment that they work."""
    dist = ROOT / "dist"
    for old in dist.glob("*.whl"):
        old.unlink()
    session.run(
        "pip", "wheel", "--quiet", "--no-deps", "-w", str(dist), *(f"./{m}" for m in MEMBERS)
    )
    clean = session.create_tmp() + "/clean"
    session.run("python", "-m", "venv", "--clear", clean)
    wheels = sorted(str(wheel) for wheel in dist.glob("*.whl"))
    session.run(f"{clean}/bin/python", *PIP, *wheels, external=True)
    for member in MEMBERS:
        for path in (ROOT / member / "src").glob("*/__init__.py"):
            code = f"import {path.parent.name}"
            session.run(f"{clean}/bin/python", "-I", "-c", code, external=True)
    session.run(f"{clean}/bin/agent-finetune", "--help", external=True, silent=True)
    session.run(f"{clean}/bin/agent-finetune", "plugins", external=True)
