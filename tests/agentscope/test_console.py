"""AgentScope's console and full-screen interface on a local model, in a terminal."""

import asyncio
import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

import pytest
from agentscope.message import SystemMsg, UserMsg
from live_engines import close_all
from talkative import save_talkative_model

from agentscope_finetune import TransformersChatModel

CHAT = Path(__file__).parents[2] / "examples" / "agentscope_service" / "chat.py"
PATIENCE = 90.0
ESCAPES = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[PX^_].*?\x1b\\|.)")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("models") / "talkative")


@pytest.fixture(scope="module")
def answer(model):
    """What the agent answers to hello, as a pattern of what a screen shows."""
    speaks = TransformersChatModel(
        model=str(model), parameters=TransformersChatModel.Parameters(max_tokens=12), stream=False
    )
    asked = [SystemMsg("system", "You are Friday."), UserMsg("user", "hello")]
    [words] = asyncio.run(speaks(asked)).content
    close_all()
    return r"\s+".join(map(re.escape, words.text.split()))


class Terminal:
    """What a person sees and types."""

    def __init__(self, end):
        self.end = end
        self.shown = b""

    def type(self, keys):
        os.write(self.end, keys.encode())

    def wait_for(self, pattern):
        """Read until the screen has shown this, and forget what came before it."""
        give_up = time.monotonic() + PATIENCE
        while (
            re.search(pattern, text := ESCAPES.sub(b" ", self.shown).decode(errors="ignore"))
            is None
        ):
            assert time.monotonic() < give_up, text[-2000:]
            if select.select([self.end], [], [], 1.0)[0]:
                self.shown += os.read(self.end, 65536)
        self.shown = b""


@contextmanager
def chat(model, *words):
    """The example in a terminal of its own."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, CHAT, "--model", model, "--max-tokens", "12", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_the_console_talks_with_a_local_model(model, answer):
    with chat(model) as (terminal, process):
        terminal.wait_for("user> ")
        terminal.type("hello\r")
        terminal.wait_for(rf"{answer}[\s\S]*tokens: \d+ in / 12 out[\s\S]*user> ")
        terminal.type("and now?\r")
        terminal.wait_for(r"tokens: \d+ in / 12 out[\s\S]*user> ")
        terminal.type("exit\r")
        assert process.wait(PATIENCE) == 0


def test_the_full_screen_interface_talks_with_a_local_model(model, answer):
    pytest.importorskip("textual")
    with chat(model, "--tui") as (terminal, process):
        terminal.wait_for("Enter send")
        terminal.type("hello\r")
        terminal.wait_for(answer)
        terminal.type("/exit\r")
        assert process.wait(PATIENCE) == 0
