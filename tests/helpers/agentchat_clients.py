"""Clients of `autogen_finetune.agentchat` on a script or on tiny weights.

Imported before anything of AutoGen, it skips the test file where AutoGen 0.4+ is not installed.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from autogen_hosts import agentchat
from scripted_engine import Answer, ScriptedEngine
from scripted_engine import Cut as Cut

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.versions import Versions
from autogen_finetune.live import LiveModel

agentchat()

from autogen_finetune.agentchat import HFChatCompletionClient  # noqa: E402


def calling(name: str, arguments: str) -> str:
    """What a model of the ChatML family says to call a tool."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


CALL = calling("get_weather", '{"city": "Paris"}')


def scripted(*answers: Answer, **options) -> HFChatCompletionClient:
    """A client that says what the test wrote; `asked(client)` is what it was asked."""
    live = LiveModel(
        ModelConfig(model="scripted"), engine=ScriptedEngine(*answers), settings=Settings()
    )
    return HFChatCompletionClient("scripted", live=live, settings=Settings(), **options)


def asked(client: HFChatCompletionClient) -> list:
    """Requests that a scripted client's engine got."""
    return client.live.engine.requests


def open_client(folder: Path, **options) -> HFChatCompletionClient:
    """A client on a folder's tiny model; an answer has 12 tokens at most."""
    held = {"device": "cpu", "dtype": "float32", "max_tokens": 12, "settings": Settings()}
    return HFChatCompletionClient(str(folder), **{**held, **options})


def learned(client: HFChatCompletionClient, adapter: Path) -> None:
    """Leave in a client's store what an accepted update leaves there."""
    versions = Versions(client.live.store, client.live.name or "")
    with versions.begin() as staging:
        shutil.copytree(adapter, staging / "adapter")
        versions.use(versions.commit(staging, {}))


def freed(client: HFChatCompletionClient, seconds: float = 20.0) -> str | None:
    """Wait for the worker to have nothing to do; how the last answer ended."""
    engine = client.live.engine
    until = time.monotonic() + seconds
    while engine._hold.worker.call(lambda served: served.busy):
        if time.monotonic() > until:
            raise AssertionError("the worker is still busy")
        time.sleep(0.01)
    recent = engine.recent()
    return recent[-1].result.finish if recent else None
