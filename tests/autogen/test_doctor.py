"""`agent-finetune doctor`, on folders of packages as pip leaves them."""

import json

import pytest
from autogen_hosts import classic
from sites import install, python, without_hosts

from agent_finetune import cli
from autogen_finetune import doctor

CLASSIC = {
    "autogen/__init__.py": "__version__ = '0.14.0'\nclass ConversableAgent: pass\n",
    "autogen/oai.py": "",
}


@pytest.fixture
def site(tmp_path):
    return without_hosts(tmp_path / "site")


def examined(site, cwd=None):
    code = "import sys; from agent_finetune.cli import main; sys.exit(main(['doctor', '--json']))"
    answer = python(site, code, cwd)
    assert answer.stderr == ""
    report = json.loads(answer.stdout)
    assert answer.returncode == (0 if report["fine"] else 1)
    return report


def module(report, name):
    return next(found for found in report["modules"] if found["module"] == name)


def test_an_autogen_that_was_tested_is_fine(site):
    install(site, "ag2", "0.14.0", CLASSIC)
    report = examined(site)
    assert report["fine"]
    assert module(report, "autogen") == {
        "module": "autogen",
        "title": "classic AutoGen",
        "installed": True,
        "owners": [{"name": "ag2", "version": "0.14.0", "tested": True}],
        "version": "0.14.0",
        "failure": None,
    }
    assert (report["overlaps"], report["advice"]) == ([], [])


def test_without_any_autogen_every_way_to_one_is_named(site):
    report = examined(site)
    assert not report["fine"]
    (advice,) = report["advice"]
    assert 'pip install "ag2<1"' in advice
    assert '"autogen-agentchat>=0.7,<0.8"' in advice


def test_pyautogen_of_today_is_called_what_it_is(site):
    install(site, "pyautogen", "0.10.0")
    assert "pyautogen 0.10.0 only stands for autogen-agentchat" in examined(site)["advice"][0]


def test_pyautogen_of_today_beside_a_classic_one_is_no_matter(site):
    install(site, "pyautogen", "0.10.0")
    install(site, "ag2", "0.14.0", CLASSIC)
    assert examined(site)["advice"] == []


def test_two_distributions_with_the_same_files_are_found_and_who_won(site):
    install(site, "pyautogen", "0.9", {**CLASSIC, "autogen/old.py": "old = 1"})
    other = {**CLASSIC, "autogen/__init__.py": CLASSIC["autogen/__init__.py"] + "\n"}
    install(site, "ag2", "0.14.0", other)
    report = examined(site)
    assert not report["fine"]
    (overlap,) = report["overlaps"]
    assert overlap["files"] == 2
    assert overlap["intact"] == {"ag2 0.14.0": 2, "pyautogen 0.9": 1}
    assert "ag2 0.14.0 and pyautogen 0.9 overwrote each other's files" in report["advice"][0]


def test_a_version_that_nobody_tested_is_said_to_be_one(site):
    install(site, "autogen", "0.14.1", CLASSIC)
    report = examined(site)
    assert module(report, "autogen")["owners"][0]["tested"] is False
    assert report["advice"][0].startswith("autogen: our tests run on pyautogen")


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import not_there", "the import fails: ModuleNotFoundError: No module named 'not_there'"),
        ("1 / 0", "the import fails: ZeroDivisionError: division by zero"),
        ("", "it has no ConversableAgent, so it is not classic AutoGen"),
    ],
)
def test_an_autogen_that_does_not_work_is_not_fine(site, code, failure):
    install(site, "ag2", "0.14.0", {"autogen/__init__.py": code})
    report = examined(site)
    assert not report["fine"]
    assert module(report, "autogen")["failure"] == failure
    assert failure in report["advice"][0]


def test_cached_answers_are_found_where_the_command_runs(site, tmp_path):
    old = {"autogen/__init__.py": CLASSIC["autogen/__init__.py"].replace("0.14.0", "0.2.35")}
    install(site, "pyautogen", "0.2.35", old)
    (tmp_path / ".cache/41").mkdir(parents=True)
    (tmp_path / ".cache/41/cache.db").write_bytes(b"12345")
    (tmp_path / ".cache/other").mkdir()
    report = examined(site, tmp_path)
    assert report["fine"]
    assert report["cached"] == {"41": 5}
    assert "classic AutoGen 0.2.35 caches answers unless" in report["advice"][0]
    assert "answers are cached in ./.cache (seeds 41)" in report["advice"][1]


def test_a_module_of_the_same_name_elsewhere_on_the_path_is_no_overlap(site, tmp_path):
    install(site, "ag2", "0.14.0", CLASSIC)
    install(tmp_path / "first", "pyautogen", "0.9", CLASSIC)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "first")!r})
from autogen_finetune import doctor
report = doctor.examine()
print(report.overlaps, [owner.name for owner in report.modules[0].owners])
"""
    assert python(site, code).stdout == "() ['pyautogen']\n"


def test_the_autogen_of_this_session_works(capsys, tmp_path, monkeypatch):
    version = classic().__version__
    monkeypatch.chdir(tmp_path)
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "autogen: classic AutoGen, " in said
    assert ": works; for it: HFModelClient, update_model, attach" in said
    report = doctor.examine()
    assert report.modules[0].version == version
    assert all(owner.tested for owner in report.modules[0].owners)


def test_the_report_for_people_has_a_line_for_each_thing():
    found = doctor.Module(
        module="autogen",
        title="classic AutoGen",
        installed=True,
        owners=(doctor.Owner(name="ag2", version="0.14.0", tested=True),),
        version="0.14.0",
        failure=None,
    )
    missing = doctor.Module(
        module="ag2", title="AG2 1.x", installed=False, owners=(), version=None, failure=None
    )
    overlap = doctor.Overlap(
        module="autogen", owners=("a 1", "b 2"), files=2, intact={"a 1": 0, "b 2": 2}
    )
    report = doctor.Report(
        modules=(found, missing), overlaps=(overlap,), cached={"41": 5}, advice=("Do this.",)
    )
    assert doctor.as_text(report).splitlines() == [
        "autogen: classic AutoGen, ag2 0.14.0: works; for it: HFModelClient, update_model, attach",
        "ag2: not installed (AG2 1.x)",
        "autogen: 2 files have several owners: 0 as a 1 has them, 2 as b 2 has them",
        "cache: ./.cache/41, 5 bytes",
        "- Do this.",
    ]


def test_the_command_is_listed_and_explains_itself(capsys):
    cli.main(["--help"])
    assert doctor.HELP in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main(["doctor", "--help"])
    assert "--json" in capsys.readouterr().out
