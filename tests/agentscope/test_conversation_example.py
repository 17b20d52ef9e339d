"""The conversation example runs as a user would run it, on a tiny model."""

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from talkative import save_talkative_model

FOLDER = Path(__file__).parents[2] / "examples" / "conversation_with_agent_with_finetuned_model"
SCRIPT = FOLDER / "conversation_with_agent_with_finetuned_model.py"
SPEAKERS = ("Writer", "Critic", "Teacher")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("conversation_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """The shipped configurations, with steps so large that a tiny model changes."""
    entries = json.loads((FOLDER / "configs" / "model_configs.json").read_text("utf-8"))
    entries[0]["fine_tune_config"]["training_args"]["learning_rate"] = 0.05
    path = tmp_path_factory.mktemp("configs") / "model_configs.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def run(example, model, configs, tmp_path, capsys):
    def call(*words):
        chosen = ("--model", model, "--configs", configs, "--output-dir", tmp_path / "runs")
        code = example.main([*map(str, chosen), "--max-new-tokens", "8", *words])
        return code, capsys.readouterr().out

    return call


def facts(said):
    """The lines at the end, `name  what is said of it`."""
    return dict(re.findall(r"^(\w+) {2,}(\S.*)$", said, re.MULTILINE))


def speakers(said):
    return re.findall(r"^(?:user> )?─+ (\w+) ─+$", said, re.MULTILINE)  # a pipe shows no Enter


def test_the_question_is_asked_before_and_after_one_of_the_agents_is_fine_tuned(
    run, example, tmp_path
):
    code, said = run()
    assert code == 0, said
    assert speakers(said) == [*SPEAKERS * 3]
    asked = re.findall(r"^user> (.*)$", said, re.MULTILINE)
    assert asked == [example.QUESTION, example.MEANWHILE, example.QUESTION]
    table = said[said.index("┏") :]
    assert table.count("the same, word for word") == 2  # not the Writer's
    steps = re.findall(r"^  the Writer trains: step (\d), epoch .*, loss \d", said, re.MULTILINE)
    assert steps == list("12345678")
    told = facts(said)
    assert told["trained"].startswith("32 rows, 8 steps, ")
    assert told["others"] == "as before"
    assert told["reloaded"] == "says the same"
    (folder,) = (tmp_path / "runs").glob("sft_*")
    assert folder.name in told["folder"]
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "log_history.json").is_file()


def test_weights_in_4_bits_are_trained_and_come_back_from_disk_in_4_bits(run, tmp_path):
    code, said = run("--load-in-4bit", "--epochs", "1")
    assert code == 0, said
    (record,) = (tmp_path / "runs").glob("sft_*/run.json")
    assert json.loads(record.read_text())["config"]["model"]["quantization"] == "4bit"
    assert facts(said)["reloaded"] == "says the same"


def test_what_cannot_be_had_is_said_in_one_line(example, tmp_path, capsys):
    assert example.main(["--model", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "nothing") in error
    assert "Traceback" not in error


def start(model, configs, tmp_path, *words):
    """The example in a process of its own, with pipes for a keyboard and a screen."""
    chosen = ("--model", model, "--configs", configs, "--output-dir", tmp_path / "runs")
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, chosen), "--max-new-tokens", "8", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def read_until(stream, what):
    said = b""
    while what not in said:
        piece = os.read(stream.fileno(), 4096)
        assert piece, said
        said += piece
    return said.decode()


def test_a_person_talks_has_the_writer_trained_and_compares(model, configs, tmp_path):
    with start(model, configs, tmp_path, "--interactive") as process:
        process.stdin.write(b"Who are you?\n/tune\n")
        process.stdin.flush()
        read_until(process.stdout, b"has learned")
        process.stdin.write("And now, café?\n/quit\n".encode())
        process.stdin.flush()
        said = process.stdout.read().decode()
        assert process.wait(60) == 0, said + process.stderr.read().decode()
    assert "Who are you?" in said.replace("\n", " ")
    assert facts(said)["others"] == "as before"
    assert speakers(said)[-3:] == [*SPEAKERS]


def test_ctrl_c_at_the_prompt_ends_it_cleanly(model, configs, tmp_path):
    with start(model, configs, tmp_path, "--interactive") as process:
        read_until(process.stdout, b"user> ")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().decode().splitlines()[-1] == "stopped"


def test_ctrl_c_while_it_trains_ends_the_training_too(model, configs, tmp_path):
    with start(model, configs, tmp_path, "--interactive", "--epochs", "100000") as process:
        process.stdin.write(b"/tune\n")
        process.stdin.flush()
        read_until(process.stdout, b"trains: step 2")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read().decode()
    (history,) = (tmp_path / "runs").glob("sft_*/history.jsonl")
    written = history.stat().st_size
    time.sleep(1)
    assert history.stat().st_size == written


def test_in_the_pipeline_each_answers_the_user_and_then_hears_the_others(example):
    class Speaker:
        def __init__(self, name):
            self.name, self.heard = name, []

        async def observe(self, said):
            self.heard += [words.get_text_content() for words in said]

        async def reply_stream(self, inputs, *, yield_final_msg):
            assert yield_final_msg
            self.heard.append(inputs.get_text_content())
            yield example.UserMsg(self.name, f"I am {self.name}, and heard {len(self.heard)}")

    ann, bob = Speaker("Ann"), Speaker("Bob")

    async def talk():
        return [event async for event in example.RoundTable([ann, bob]).reply_stream(hello)]

    hello = example.UserMsg("user", "hello")
    assert asyncio.run(talk()) == []
    assert ann.heard == ["hello", "I am Bob, and heard 1"]
    assert bob.heard == ["hello", "I am Ann, and heard 1"]
