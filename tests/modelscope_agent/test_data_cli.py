"""`validate` and `convert`, as they are typed."""

import json

import pytest

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Row
from agent_finetune.settings import read_settings
from modelscope_agent_train import data_cli

BROKEN = {
    "conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "user", "value": "a"},
        {"from": "assistant", "value": "<|startofthink|>"},
    ]
}


def questions(path, count):
    """Questions of the leaderboard's form, each with a function of its own."""
    with path.open("w") as file:
        for n in range(count):
            function = {
                "name": f"tool_{n}",
                "description": "d",
                "parameters": {
                    "type": "dict",
                    "properties": {"a": {"type": "integer"}},
                    "required": ["a"],
                },
            }
            row = {
                "id": f"q{n}",
                "question": [[{"role": "user", "content": f"question {n} " + "x" * 20 * n}]],
                "function": [function],
                "ground_truth": [{f"tool_{n}": {"a": [n, 99]}}],
            }
            file.write(json.dumps(row) + "\n")
    return str(path)


def read(path):
    return readers.read(str(path), settings=Settings(offline=True)).examples


def test_a_clean_file_exits_with_0_and_a_dirty_one_with_1(tmp_path, capsys):
    dirty = tmp_path / "dirty.jsonl"
    dirty.write_text(json.dumps(BROKEN))
    assert data_cli.validate(["msagent-sample"]) == 0
    assert "no problem found" in capsys.readouterr().out
    assert data_cli.validate([str(dirty), "--format", "msagent"]) == 1
    assert f"{dirty}:1: conversations[2]: <|startofthink|>" in capsys.readouterr().out


def test_an_allowed_kind_is_no_failure_and_repairs_fail_when_strict(tmp_path):
    dirty = tmp_path / "dirty.jsonl"
    dirty.write_text(json.dumps(BROKEN))
    words = [str(dirty), "--format", "msagent", "--allow", "unbalanced_tags"]
    assert data_cli.validate(words) == 0
    assert data_cli.validate(["ms_agent-sample"]) == 0
    assert data_cli.validate(["ms_agent-sample", "--strict", "true"]) == 1


def test_the_report_can_be_had_as_json(capsys):
    assert data_cli.validate(["--dataset", "msagent-sample,xlam-sample", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)["reports"]
    assert [one["format"] for one in reports] == ["msagent", "xlam"]


def test_the_leaderboard_becomes_msagent_rows_split_by_tool(tmp_path, capsys):
    data = questions(tmp_path / "q.jsonl", 40)
    out, held = tmp_path / "train.jsonl", tmp_path / "held_out.jsonl"
    words = ["--dataset", data, "--output", str(out), "--test_output", str(held)]
    words += ["--test_ratio", "0.25", "--split_by", "tools", "--max_chars", "1000"]
    assert data_cli.convert(words) == 0
    train, test = read(out), read(held)
    assert len(test) == round(0.25 * len(train + test))
    assert {n for e in train for n in e.tool_names}.isdisjoint(
        n for e in test for n in e.tool_names
    )
    told = capsys.readouterr().out
    assert f"{held}: {len(test)} rows, {len(test)} steps, {len(test)} of them calls" in told
    assert f"{40 - len(train + test)} rows left out, longer than 1000 characters" in told
    assert "rows lost other right answers than the first" in told
    originals = {e.id: e for e in read(data)}
    for example in (*train, *test):
        assert example.messages == originals[example.id].messages
        assert example.tools == originals[example.id].tools


@pytest.mark.real
def test_every_question_of_the_leaderboard_survives(tmp_path):
    """The real data, fetched as the kernel fetches it: 1911 questions, not one call lost."""
    from modelscope_agent_train.formats import msagent
    from modelscope_agent_train.writing import to_msagent

    examples = readers.read("bfcl", settings=read_settings()).examples
    assert len(examples) == 1911
    for example in examples:
        back = msagent.read_row(Row(source=example.source, data=to_msagent(example)))
        assert [(m.role, m.text.strip(), m.tool_calls) for m in back.messages] == [
            (m.role, m.text.strip(), m.tool_calls) for m in example.messages
        ]
        assert [t["function"]["parameters"]["properties"] for t in back.tools] == [
            t["function"]["parameters"]["properties"] for t in example.tools
        ]


def test_dirty_data_is_converted_without_the_rows_that_do_not_read(tmp_path, capsys):
    dirty = tmp_path / "dirty.jsonl"
    good = json.dumps(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    )
    dirty.write_text(f"{good}\noops\n")
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"dirty\.jsonl:2"):
        data_cli.convert(["--dataset", str(dirty), "--output", str(out)])
    assert not out.exists()
    assert (
        data_cli.convert(["--dataset", str(dirty), "--output", str(out), "--on_bad_row", "skip"])
        == 0
    )
    assert len(read(out)) == 1
    assert "1 rows left out, not JSON" in capsys.readouterr().out


def test_chat_messages_can_be_written_too(tmp_path):
    out = tmp_path / "out.jsonl"
    assert (
        data_cli.convert(["--dataset", "msagent-sample", "--to", "messages", "--output", str(out)])
        == 0
    )
    found = readers.read(str(out), settings=Settings(offline=True))
    assert (found.format, len(found.examples)) == ("messages", 24)


@pytest.mark.parametrize(
    ("verb", "words", "reason"),
    [
        (data_cli.validate, [], "nothing to look at"),
        (data_cli.validate, ["a", "--allow", "typos"], "--allow 'typos': legal are unreadable"),
        (data_cli.validate, ["a", "--jsn"], "there is no flag --jsn; did you mean --json"),
        (data_cli.convert, [], "--dataset is missing"),
        (data_cli.convert, ["--dataset", "a", "--max_chars", "0"], "--max_chars is 0"),
        (
            data_cli.convert,
            ["--dataset", "a", "--test_output", "b", "--test_ratio", "1"],
            "--test_ratio is 1.0",
        ),
    ],
)
def test_a_wrong_flag_is_named(verb, words, reason):
    with pytest.raises(ConfigError, match=reason):
        verb(words)


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        data_cli.convert(["--dataset", "xlam-sample", "--output", str(tmp_path)])
