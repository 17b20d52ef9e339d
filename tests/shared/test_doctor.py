"""`agent-finetune doctor`: what is broken is said, why, and what mends it, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from probed import crash, hang, leave, speak
from sites import install

from agent_finetune import __version__, cli, doctor, hookimpl
from agent_finetune.cli.doctor import as_text
from agent_finetune.contracts import Diagnosis, Finding, Settings
from agent_finetune.doctor import (
    compilers,
    device,
    environment,
    modules,
    packages,
    places,
    probe,
)
from agent_finetune.models import hardware
from agent_finetune.plugins import registered

MACHINE = device.Machine(
    processor="P", cores=2, flags=("avx2",), memory=8 << 30, free=4 << 30, driver=None
)
H200 = device.Gpu(name="H200", total=140 << 30, free=139 << 30, capability="9.0", failure=None)


def run(shadow, *words, cwd=None, **environ):
    """The command in a process whose imports find the modules of a folder first."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "agent_finetune.cli", "doctor", *words],
        env={**os.environ, "PYTHONPATH": str(shadow), "OMP_NUM_THREADS": "1", **environ},
        cwd=cwd or shadow,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def answer(shadow, *words, **environ):
    done = run(shadow, "--json", *words, **environ)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["works"] else 1)
    return report


def broken(report):
    return [finding["what"] for finding in report["findings"] if finding["broken"]]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return doctor.examine(
        Settings(), [{"OMP_NUM_THREADS": "1"}], out=tmp_path_factory.mktemp("runs")
    )


# What is here


def test_torch_and_what_auto_means_are_what_this_process_finds(report):
    cpu = hardware.pick_device("auto")
    assert report.torch.version == torch.__version__
    assert report.torch.device == str(cpu)
    assert f"torch.{report.torch.dtype}" == str(hardware.pick_dtype("auto", cpu))
    assert report.torch.build.split()[0] == ("cuda" if torch.version.cuda else "cpu")


def test_the_kernel_its_plugins_and_what_they_ask_for_are_listed(report):
    listed = {package.name: package for package in report.packages}
    assert report.packages[0].name == "agent-finetune"
    assert listed["agent-finetune"].version == __version__
    assert torch.__version__.startswith(listed["torch"].version)  # the build may not be in it
    assert listed["torch"].extra is None
    assert listed["gguf"].extra == "gguf"
    assert all(listed[name].fits for name in ("torch", "transformers", "peft", "datasets"))


def test_memory_and_cores_are_what_the_system_says(report):
    assert 0 < report.machine.free <= report.machine.memory
    assert report.machine.cores == len(os.sched_getaffinity(0))


def test_every_section_is_in_the_text(report):
    text = as_text(report)
    for word in (
        "MACHINE",
        "PACKAGE",
        "FOLDER",
        "MODULE",
        "Environment",
        "auto means",
        "our cache",
    ):
        assert word in text


def test_help_needs_neither_torch_nor_a_plugin_that_loads(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch for --help')")
    done = run(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "would not work" in done.stdout


# What does not work


def test_a_torch_that_cannot_be_imported_is_told_with_its_own_words(tmp_path):
    (tmp_path / "torch.py").write_text("print('noise'); raise ImportError('libcudart.so.13: none')")
    report = answer(tmp_path)
    assert report["torch"] is None
    assert broken(report) == ["torch cannot be used: nothing loads, trains or answers"]
    assert report["findings"][0]["why"] == "ImportError: libcudart.so.13: none"


def test_a_plugin_that_does_not_load_is_named_and_the_others_are_still_asked(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('saves time')")
    install(tmp_path, "bad-plugin", "1.0", {"bad_plugin.py": "1 / 0"})
    entries = tmp_path / "bad-plugin-1.0.dist-info/entry_points.txt"
    entries.write_text("[agent_finetune]\nbad = bad_plugin\n")
    (tmp_path / "half_removed-1.0.dist-info").mkdir()
    report = answer(tmp_path)
    (told,) = [each for each in broken(report) if "plugin" in each]
    assert told == ("plugin 'bad' (bad_plugin) does not load: ZeroDivisionError: division by zero")
    assert "bad-plugin" in [package["name"] for package in report["packages"]]


def test_an_environment_that_every_verb_refuses_is_a_finding(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('saves time')")
    report = answer(tmp_path, HF_HUB_OFFLINE="perhaps")
    assert "every verb refuses this environment" in broken(report)
    assert "HF_HUB_OFFLINE is 'perhaps'" in json.dumps(report["findings"])


def test_a_token_is_yes_or_no_and_never_written(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('saves time')")
    (tmp_path / ".env").write_text("HUGGINGFACE_TOKEN=hf_planted_in_dotenv\n")
    secrets = {
        "HF_TOKEN": "hf_planted_token",
        "HF_ENDPOINT": "https://me:planted_password@mirror.test/hub?key=planted_key",
        "MODELSCOPE_API_TOKEN": "planted_modelscope",
        "MODELSCOPE_ENDPOINT": "https://me:planted_password@other.test",
        "https_proxy": "me:planted_password@proxy.test:3128",
    }
    for words in (("--json",), ()):
        done = run(tmp_path, *words, **secrets)
        assert "planted" not in done.stdout + done.stderr
        assert "yes, in HF_TOKEN" in done.stdout
        assert "https://mirror.test/hub" in done.stdout
        assert "https://other.test" in done.stdout
    assert done.returncode == 1
    assert "BROKEN: torch cannot be used" in done.stdout
    assert "mend: pip install --force-reinstall" in done.stdout


@pytest.mark.parametrize("first", ["HF_TOKEN", "HUGGINGFACE_TOKEN"])
def test_who_holds_the_token_is_told(first):
    told = environment.switches([{first: "x"}], logged_in=True)[environment.TOKEN]
    assert told == f"yes, in {first}"


def test_a_login_is_a_token_too():
    assert environment.switches([{}], logged_in=True) == {
        environment.TOKEN: "yes, of hf auth login"
    }
    assert environment.switches([{}], logged_in=False) == {environment.TOKEN: "no"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("1", "1"),
        ("", ""),
        ("/data/hub", "/data/hub"),
        ("user:secret@proxy:3128", "proxy:3128"),
        ("https://u:p@host:1/path?q=p#p", "https://host:1/path"),
        ("http://[broken", "not an address"),
    ],
)
def test_a_switch_is_shown_without_what_may_be_a_password(value, told):
    assert environment.shown(value) == told


# Processes of their own


def test_a_step_that_prints_is_silent_and_answers(capfd):
    (outcome,) = probe.run([("speak", speak)], seconds=60)
    assert (outcome.answer, outcome.failure) == (7, None)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("step", "seconds", "why"),
    [
        (crash, 60, "the process was ended by SIGSEGV"),
        (leave, 60, "the process ended with code 3"),
        (hang, 3, "it was not done after 3 seconds"),
    ],
)
def test_a_crash_or_a_hang_ends_the_steps_and_is_told(step, seconds, why):
    outcomes = probe.run([("one", step), ("two", speak)], seconds=seconds)
    assert [(outcome.name, outcome.failure) for outcome in outcomes] == [("one", why)]


def test_an_import_that_fails_leaves_the_others():
    steps = [(name, probe.Import(name)) for name in ("not_there", "json")]
    first, second = probe.run(steps, seconds=60)
    assert first.failure == "ModuleNotFoundError: No module named 'not_there'"
    assert second.failure is None


# Devices


def told(here, found, visible=None):
    outcome = probe.Outcome(name="torch", answer=found, failure=None, seconds=1.0)
    return [(finding.why, finding.broken) for finding in device.findings(here, outcome, visible)]


def torch_with(build, *gpus):
    return device.Torch(
        version="2", build=build, gpus=gpus, device="cpu", dtype="float32", attention=""
    )


def test_a_gpu_that_torch_uses_is_no_finding():
    assert told(MACHINE, torch_with("cuda 13.0", H200)) == []
    assert told(MACHINE, torch_with("cpu")) == []


def test_a_gpu_that_torch_cannot_use_is_broken():
    full = device.Gpu(name="H200", total=1, free=None, capability="9.0", failure="out of memory")
    assert told(MACHINE, torch_with("cuda 13.0", full)) == [("out of memory", True)]


def test_why_no_gpu_is_used_is_told():
    driver = device.Machine(processor="P", cores=2, flags=(), memory=1, free=1, driver="580.159.04")
    assert told(driver, torch_with("cpu")) == [("this torch is built for the CPU alone", False)]
    assert told(driver, torch_with("cuda 13.0")) == [
        ("torch is built for cuda 13.0, the driver is 580.159.04", False)
    ]
    assert told(driver, torch_with("cuda 13.0"), "") == [("CUDA_VISIBLE_DEVICES is ''", False)]
    assert told(MACHINE, torch_with("cuda 13.0")) == [
        ("torch is built for cuda 13.0, and there is no driver", False)
    ]


# Packages


def distribution(name, version, *requires, extras=()):
    return packages.Installed(
        name=name,
        version=version,
        extras=extras,
        requires=tuple(map(Requirement, requires)),
        root=Path("site"),
        record="",
        source=None,
    )


def found(*there):
    by_name = {each.name: each for each in there}
    listed = packages.packages(by_name)
    return [
        (finding.what, finding.broken)
        for finding in packages.findings(by_name, listed, frozenset())
    ]


def kernel(*requires, extras=()):
    return distribution("agent-finetune", "1", *requires, extras=extras)


def test_what_is_within_its_range_is_no_finding():
    assert found(kernel("a>=2"), distribution("a", "2.0")) == []


def test_what_is_missing_or_outside_its_range_is_broken():
    told = found(kernel("a>=2,<3", "b>=1"), distribution("a", "3.1"))
    assert told == [
        ("a is 3.1; our packages ask for >=2,<3", True),
        ("b is not installed; our packages ask for >=1", True),
    ]


def test_what_only_an_extra_asks_for_may_be_missing_but_not_of_another_version():
    asks = kernel("a>=2; extra == 'more'", extras=("more",))
    assert found(asks) == []
    assert found(asks, distribution("a", "1")) == [("a is 1; our packages ask for >=2", True)]


def test_one_of_the_ranges_of_several_extras_is_enough():
    asks = kernel("a<1; extra == 'old'", "a>=2; extra == 'new'", extras=("old", "new"))
    assert found(asks, distribution("a", "2.5")) == []
    assert found(asks, distribution("a", "1.5")) == [
        ("a is 1.5; our packages ask for <1 or >=2", True)
    ]


def test_what_a_plugin_judges_is_left_to_it():
    asks = kernel("a>=2; extra == 'more'", extras=("more",))
    there = {"agent-finetune": asks, "a": distribution("a", "1")}
    listed = packages.packages(there)
    assert list(packages.findings(there, listed, frozenset(["a"]))) == []


def test_what_others_need_is_looked_at_too():
    deep = distribution(
        "b", "1", "c>=2", "d", "e; extra == 'asked'", "f; extra == 'other'",
        extras=("asked", "other"),
    )  # fmt: skip
    told = found(kernel("a"), distribution("a", "1", "b[asked]"), deep, distribution("c", "1"))
    assert told == [
        ("b 1 asks for c>=2, installed is 1", False),
        ("b 1 asks for d, not installed", True),
        ("b 1 asks for e, not installed", True),
    ]


def test_what_nobody_of_ours_needs_is_nobodys_matter():
    assert found(kernel(), distribution("z", "1", "y>=3"), distribution("y", "1")) == []


def test_compilers_are_missed_only_where_deepspeed_is(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert list(compilers.findings({})) == []
    (finding,) = compilers.findings({"deepspeed": distribution("deepspeed", "0.19")})
    assert finding.why.startswith("what is missing: a C++ compiler, ninja")


# Modules


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    return tmp_path


def test_the_owner_of_a_module_is_who_lists_its_files(site):
    install(site, "owner-of-it", "1.2", {"a_module/__init__.py": ""})
    there = packages.installed()
    module = modules.examine("a_module", modules.claims(there), there)
    assert module.location == site / "a_module"
    assert module.owners == ("owner-of-it 1.2",)
    assert list(modules.findings([module], [])) == []


def test_a_module_of_nobody_is_told(site):
    (site / "a_module.py").write_text("")
    there = packages.installed()
    module = modules.examine("a_module", modules.claims(there), there)
    (finding,) = modules.findings([module], [])
    assert finding.what == f"the module a_module comes from {site / 'a_module.py'}"
    assert not finding.broken


def test_a_module_that_is_not_here_has_no_place(site):
    (site / "a_folder").mkdir()
    for name in ("not_there", "a_folder"):
        assert modules.examine(name, {}, {}).location is None


def test_an_editable_installation_owns_what_lies_in_its_source(report):
    there = packages.installed()
    assert modules.examine("agent_finetune", modules.claims(there), there).owners == (
        f"agent-finetune {__version__}",
    )


def test_files_that_two_wrote_differently_are_found_and_who_won(site):
    install(site, "first", "1", {"a_module/__init__.py": "1", "a_module/same.py": ""})
    install(site, "second", "2", {"a_module/__init__.py": "2", "a_module/same.py": ""})
    claimed = modules.claims(packages.installed())
    (overlap,) = modules.overlaps(claimed, {"second"})
    assert (overlap.module, overlap.files) == ("a_module", 1)
    assert overlap.intact == {"first 1": 0, "second 2": 1}
    (finding,) = modules.findings([], [overlap])
    assert finding.broken
    assert finding.mend.startswith("pip uninstall first second, remove the folder a_module")
    assert modules.overlaps(claimed, {"somebody-else"}) == ()


# Folders


def test_a_folder_is_measured_and_links_are_not_followed(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"12345")
    (tmp_path / "a/link").symlink_to(tmp_path / "a/b/file")
    (tmp_path / "a/round").symlink_to(tmp_path)
    place = places.examine("cache", tmp_path / "a")
    assert (place.bytes, place.whole, place.writable) == (5, True, True)
    assert place.free > 0


def test_measuring_ends_when_its_time_is_over(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}").mkdir()
    assert places.measure(tmp_path, -1.0) == (0, False)


def test_what_is_not_there_yet_has_the_room_of_the_folder_it_would_be_made_in(tmp_path):
    place = places.examine("runs", tmp_path / "not/there")
    assert (place.bytes, place.writable) == (None, True)


def test_where_nothing_can_be_written_is_broken(tmp_path):
    (tmp_path / "file").write_text("")
    place = places.examine("runs", tmp_path / "file/below")
    (finding,) = places.findings((place,))
    assert finding.broken
    assert "file/below" in finding.what


def test_little_room_is_told():
    place = places.Place(
        title="runs", path=Path("x"), bytes=0, whole=True, free=1 << 30, writable=True
    )
    (finding,) = places.findings((place,))
    assert finding.what == "1.0 GiB are free for x (runs)"


# Plugins


class Mine:
    def __init__(self, cache=None, error=None):
        self.cache, self.error = cache, error

    @hookimpl
    def finetune_diagnose(self, settings):
        if self.error is not None:
            raise self.error
        finding = Finding(what="it is blue", why="somebody painted it", mend="paint", broken=True)
        return Diagnosis(
            title="My host",
            modules=("json",),
            facts={"colour": "blue"},
            caches={"my cache": self.cache},
            findings=(finding,),
        )


def test_a_plugin_tells_of_its_host(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device, "ask_torch", no_torch)
    monkeypatch.chdir(tmp_path)
    with registered(Mine(tmp_path), "mine"):
        assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    for line in ("My host\n  colour: blue", "BROKEN: it is blue", "  mend: paint", "my cache"):
        assert line in said


def no_torch():
    return probe.Outcome(name="torch", answer=torch_with("cpu"), failure=None, seconds=0.0)


def test_a_plugin_that_fails_at_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device, "ask_torch", no_torch)
    monkeypatch.chdir(tmp_path)
    with registered(Mine(error=KeyError("x")), "mine"):
        assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert broken(report) == ["plugin 'mine' cannot say what works"]
    assert "KeyError: 'x'" in json.dumps(report["findings"])


def test_every_library_is_imported_when_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "ask_torch", no_torch)
    monkeypatch.setattr("agent_finetune.doctor.report.LIBRARIES", ("json", "not_there"))
    monkeypatch.setattr("agent_finetune.doctor.report.OPTIONAL", ())
    monkeypatch.setattr("agent_finetune.plugins.diagnose", lambda settings: {})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--imports"]) == 1
    said = capsys.readouterr().out
    assert "BROKEN: not_there cannot be imported" in said
