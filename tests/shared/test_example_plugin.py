"""The plugin in examples/ is installed as a user would, and works through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "examples" / "third-party-plugin"
READ = """
import json, sys
from agent_finetune.contracts import Settings
from agent_finetune.readers import read
found = read(sys.argv[1], on_bad_row="skip", settings=Settings())
chats = [[(m.role, m.text) for m in e.messages] for e in found.examples]
print(json.dumps({"format": found.format, "chats": chats, "bad": [b.reason for b in found.bad]}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a Python in which the plugin is installed, and nothing else changed."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    options = ("--no-deps", "--no-build-isolation", "--target", str(target))
    subprocess.run([*pip, "install", *options, str(PLUGIN)], check=True, timeout=120)
    return os.environ | {"PYTHONPATH": str(target)}


def run(environment, *words):
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def test_the_plugin_is_listed_with_its_hook_and_before_the_kernel(environment):
    listed = json.loads(run(environment, "-m", "agent_finetune.cli", "plugins", "--json"))
    assert listed["plugins"]["chatlog"] == ["finetune_read_examples"]
    assert list(listed["plugins"])[-1] == "kernel"


def test_its_file_type_is_recognised_and_read(environment):
    found = json.loads(run(environment, "-c", READ, str(PLUGIN / "example.chatlog")))
    assert found["format"] == "chatlog"
    assert found["bad"] == []
    assert [len(chat) for chat in found["chats"]] == [4, 2]
    assert found["chats"][1] == [["user", "Say hello."], ["assistant", "Hello!"]]


def test_a_chat_that_it_cannot_read_is_a_bad_row(environment, tmp_path):
    file = tmp_path / "two.chatlog"
    file.write_text("me: hi\nbot: hello\n\nyou: who?\n")
    found = json.loads(run(environment, "-c", READ, str(file)))
    assert len(found["chats"]) == 1
    assert found["bad"] == ["'you' begins a line; expected 'me: words' or 'bot: words'"]


def test_every_other_file_is_left_to_the_kernel(environment, tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"prompt": "2 + 2", "completion": "4"}) + "\n")
    assert json.loads(run(environment, "-c", READ, str(file)))["format"] == "prompt_completion"


def test_the_module_is_as_short_as_it_is_said_to_be():
    code = (PLUGIN / "chatlog_finetune.py").read_text().splitlines()
    written = [line for line in code if line and not line.startswith(("#", '"""', "from "))]
    assert len(written) <= 18
