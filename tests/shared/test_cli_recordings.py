import json
from datetime import datetime
from functools import partial

import pytest
from command_line import answer_of, run_verb

from agent_finetune import readers
from agent_finetune.config import DataConfig
from agent_finetune.contracts import Exchange, Request, Result, Settings, Usage
from agent_finetune.recordings import Recordings
from agent_finetune.records import Message, ToolCall

DAY = datetime(2026, 1, 31).timestamp()


def exchange(id, text, *, time, adapter, finish="stop", calls=()):
    return Exchange(
        request=Request(messages=(Message(role="user", text="Capital?"),), adapter=adapter),
        result=Result(
            id=id,
            message=Message(role="assistant", text=text, tool_calls=calls),
            finish=finish,
            revision="sha256:1",
            usage=Usage(prompt_tokens=1, completion_tokens=1),
        ),
        time=time,
    )


@pytest.fixture
def path(tmp_path):
    recordings = Recordings(tmp_path / "recordings.db")
    call = (ToolCall(name="look_up", arguments={}),)
    for recorded in (
        exchange("a", "Paris", time=DAY - 5, adapter="shopper"),
        exchange("b", "It is\n\x1b[2JLyon " * 20, time=DAY, adapter="shopper"),
        exchange("c", "", time=DAY + 5, adapter=None, finish="tool_calls", calls=call),
        exchange("d", "Par", time=DAY + 6, adapter="cook", finish="length"),
    ):
        session = "monday" if recorded.result.id in "ab" else None
        recordings.add(recorded, model="smol", agent="Cook", session=session)
    recordings.feedback("a", value=True, reward=0.5, comment="yes")
    recordings.feedback("b", value=False, correction="Paris")
    return tmp_path / "recordings.db"


run = partial(run_verb, "recordings")
answer = partial(answer_of, "recordings")


def test_generations_are_listed_the_newest_first_with_their_feedback(path, capsys):
    code, out, _ = run(capsys, "list", path)
    assert code == 0
    lines = out.splitlines()
    assert [line[0] for line in lines[1:]] == ["d", "c", "b", "a"]
    assert lines[1].split()[-3:] == ["cook", "-", "Par"]
    assert lines[2].endswith("look_up()")
    assert "- corrected" in lines[3]
    assert lines[3].endswith("...")
    assert "\x1b" not in out
    assert "+ 0.5 comment" in lines[4]


def test_a_list_can_be_narrowed(path, capsys):
    def ids(*words):
        return [item["id"] for item in answer(capsys, "list", path, *words)["recordings"]]

    assert ids("--number", 2) == ["d", "c"]
    assert ids("--adapter", "shopper") == ["b", "a"]
    assert ids("--agent", "Cook", "--session", "monday") == ["b", "a"]
    assert ids("--agent", "Waiter") == []
    assert ids("--since", "2026-01-31") == ["d", "c", "b"]
    assert ids("--since", "2026-01-31", "--before", "2026-01-31T00:00:05") == ["b"]


def test_a_corrected_call_is_shown(path, capsys):
    better = Message(role="assistant", tool_calls=(ToolCall(name="look_up", arguments={"a": 1}),))
    Recordings(path).feedback("c", correction=better)
    shown = answer(capsys, "show", path, "c")
    assert shown["feedback"][0]["correction"]["tool_calls"][0]["arguments"] == {"a": 1}


def test_one_generation_is_shown_whole(path, capsys):
    shown = answer(capsys, "show", path, "b")
    assert shown["request"]["messages"] == [{"role": "user", "text": "Capital?"}]
    assert (shown["model"], shown["revision"], shown["redacted"]) == ("smol", "sha256:1", None)
    assert shown["feedback"][0]["correction"] == "Paris"
    _, out, _ = run(capsys, "show", path, "b")
    assert json.loads(out) == shown
    assert "\x1b" not in out


def test_exported_answers_are_read_back_as_training_data(path, capsys, tmp_path):
    out = tmp_path / "rows.jsonl"
    answered = answer(capsys, "export", path, "--out", out)
    assert answered == {"exported": 3, "left_out": 1, "out": str(out)}
    read = readers.read_configured(DataConfig(data=str(out)), Settings())
    assert [example.id for example in read.examples] == ["a", "b", "c"]
    assert read.format == "messages"


def test_exported_feedback_goes_to_standard_output_and_the_count_to_the_log(path, capsys):
    code, out, err = run(capsys, "export", path, "--format", "feedback", "--adapter", "shopper")
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["a", "b"]
    assert err == "2 exported, 0 left out: not judged, or redacted\n"


def test_nothing_to_export_is_an_empty_file(path, capsys, tmp_path):
    out = tmp_path / "rows.jsonl"
    assert run(capsys, "export", path, "--adapter", "nobody")[:2] == (0, "")
    run(capsys, "export", path, "--adapter", "nobody", "--out", out)
    assert out.read_text() == ""


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--id", "a", "b"], ["c", "d"]),
        (["--adapter", "shopper"], ["c", "d"]),
        (["--before", "2026-01-31"], ["b", "c", "d"]),
        (["--adapter", "cook", "--before", "2026-01-31"], ["a", "b", "c", "d"]),
        (["--all"], []),
    ],
)
def test_generations_are_deleted_by_what_is_said(path, capsys, words, left):
    deleted = answer(capsys, "delete", path, *words)["deleted"]
    assert [recording.id for recording in Recordings(path).read()] == left
    assert deleted == 4 - len(left)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["delete", "PATH"], "say what to delete"),
        (["show", "PATH", "x"], "no generation 'x' is recorded"),
        (["list", "PATH.none"], "no such file"),
        (["export", "PATH", "--format", "xml"], "xml"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(path, capsys, words, reason):
    code, out, err = run(capsys, *[word.replace("PATH", str(path)) for word in words])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert reason in err
    assert err.count("\n") == 1


def test_an_empty_file_lists_nothing(tmp_path, capsys):
    Recordings(tmp_path / "new.db")
    assert run(capsys, "list", tmp_path / "new.db")[1] == f"{tmp_path / 'new.db'}: no recordings\n"
