from functools import partial

import pytest
from command_line import answer_of, run_verb

from agent_finetune.versions import Versions


@pytest.fixture
def store(tmp_path):
    versions = Versions(tmp_path / "store", "shopper")
    for number in (1, 2, 3):
        with versions.begin() as staging:
            (staging / "adapter").mkdir()
            (staging / "adapter" / "adapter_config.json").write_text("{}")
            versions.commit(staging, {"loss": number / 2, "revision": f"sha256:{number}"})
        versions.use(number)
    return tmp_path / "store"


run = partial(run_verb, "adapters")
answer = partial(answer_of, "adapters")


def test_the_adapters_of_a_store_are_listed(store, capsys):
    code, out, _ = run(capsys, "list", store)
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["adapter", "in", "use", "versions"],
        ["shopper", "3", "3"],
    ]
    listed = answer(capsys, "list", store)
    assert listed == {"adapters": [{"name": "shopper", "current": 3, "versions": 3}]}


def test_the_versions_of_an_adapter_are_listed(store, capsys):
    _, out, _ = run(capsys, "list", store, "shopper")
    lines = [line.split() for line in out.splitlines()]
    assert [(line[0], line[-2], line[-1]) for line in lines[1:]] == [
        ("1", "base", "sha256:1"),
        ("2", "1", "sha256:2"),
        ("3", "2", "sha256:3"),
    ]
    assert [line[1] == "*" for line in lines[1:]] == [False, False, True]
    versions = answer(capsys, "list", store, "shopper")["versions"]
    assert [version["facts"]["loss"] for version in versions] == [0.5, 1.0, 1.5]


def test_an_empty_store_says_so(tmp_path, capsys):
    assert run(capsys, "list", tmp_path) == (0, f"{tmp_path}: no adapters\n", "")


def test_a_version_is_shown_with_all_that_is_known_of_it(store, capsys):
    _, out, _ = run(capsys, "show", store, "shopper")
    assert out.startswith("shopper: version 3, in use\n")
    assert '"loss": 1.5' in out
    shown = answer(capsys, "show", store, "shopper", 1)
    assert (shown["number"], shown["current"], shown["parent"]) == (1, False, None)
    assert shown["adapter"] == str(store / "shopper" / "versions" / "0001" / "adapter")


def test_a_version_is_put_to_use_and_rolled_back(store, capsys):
    code, out, _ = run(capsys, "use", store, "shopper", 1)
    assert (code, out) == (0, "shopper: version 1 is in use, it was 3 before\n")
    assert answer(capsys, "rollback", store, "shopper") == {
        "name": "shopper",
        "before": 1,
        "current": 3,
    }
    assert answer(capsys, "rollback", store, "shopper")["current"] == 2
    assert Versions(store, "shopper").current() == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["use", "STORE", "shopper", "9"], "no version 9; there are 1, 2, 3"),
        (["show", "STORE", "cook"], "no adapter 'cook'; there are shopper"),
        (["rollback", "STORE", "../x"], "adapter name is '../x'"),
        (["use", "STORE", "shopper", "latest"], "latest"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(store, capsys, words, reason):
    code, out, err = run(capsys, *[store if word == "STORE" else word for word in words])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert reason in err
    assert err.count("\n") == 1


def test_without_a_version_in_use_one_has_to_be_named(store, capsys):
    (store / "shopper" / "current").unlink()
    code, _, err = run(capsys, "show", store, "shopper")
    assert code == 2
    assert "no version is in use; give a number" in err
    code, out, _ = run(capsys, "use", store, "shopper", 2)
    assert out == "shopper: version 2 is in use, none was before\n"


def test_the_verb_alone_shows_its_verbs(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert all(verb in out for verb in ("list", "show", "use", "rollback"))
