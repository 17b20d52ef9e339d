"""AgentScope's agent service, run for real: uvicorn on loopback, SQLite, no Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from agentscope.app import create_app
from agentscope.app.message_bus import InMemoryMessageBus
from agentscope.app.storage import AsyncSQLAlchemyStorage
from agentscope.app.workspace_manager import LocalWorkspaceManager

LONGEST = 40.0
"""Seconds that a turn may take before a test fails."""


class User:
    """What one user's browser does."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self.http = http
        self.headers = {"X-User-ID": name}

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, path, headers=self.headers, **options)

    async def made(self, path: str, body: dict[str, Any], key: str) -> str:
        answer = await self.ask("POST", path, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()[key]

    async def credential(self, **data: Any) -> str:
        body = {"data": {"type": "transformers_credential", "name": "local", **data}}
        return await self.made("/credential/", body, "credential_id")

    async def session(
        self, model: str, *, agent: str | None = None, type: str = "transformers_credential", **data
    ) -> Session:
        """An agent and a chat with it, on a credential of its own."""
        parameters = {"max_tokens": 16, **data.pop("parameters", {})}
        chosen = {
            "type": type,
            "credential_id": await self.credential(**data),
            "model": model,
            "parameters": parameters,
        }
        prompt = {"name": "Ann", "system_prompt": "You are Ann."}
        agent = agent or await self.made("/agent/", prompt, "agent_id")
        body = {"agent_id": agent, "name": "talk", "chat_model_config": chosen}
        return Session(self, agent, await self.made("/sessions/", body, "session_id"))


class Session:
    """A chat of a user with an agent."""

    def __init__(self, user: User, agent: str, id: str) -> None:
        self.user, self.agent, self.id = user, agent, id
        self._seen: set[str] = set()

    async def send(self, text: str) -> httpx.Response:
        message = {"name": "user", "role": "user", "content": [{"type": "text", "text": text}]}
        body = {"agent_id": self.agent, "session_id": self.id, "input": message}
        return await self.user.ask("POST", "/chat/", json=body)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Events of the chat as the service streams them, up to the end of a reply."""
        params = {"agent_id": self.agent}
        path = f"/sessions/{self.id}/stream"
        headers = self.user.headers
        async with self.user.http.stream("GET", path, headers=headers, params=params) as stream:
            assert stream.status_code == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["id"] in self._seen:  # replayed from a turn before
                    continue
                self._seen.add(event["id"])
                yield event
                if event["type"] == "REPLY_END":
                    return

    async def say(self, text: str) -> list[dict[str, Any]]:
        """A turn: the events of its reply, once that has ended and the session is idle."""
        answer = await self.send(text)
        assert answer.status_code == 200, answer.text
        events = await self.reply()
        await self.idle()
        return events

    async def reply(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(LONGEST):
            return [event async for event in self.events()]

    async def idle(self) -> None:
        """Wait until the service has stored what came of a turn."""
        path, params = f"/sessions/{self.id}/status", {"agent_id": self.agent}
        async with asyncio.timeout(LONGEST):
            while (await self.user.ask("GET", path, params=params)).json()["status"] != "idle":
                await asyncio.sleep(0.01)

    async def interrupt(self) -> httpx.Response:
        path, params = f"/sessions/{self.id}/interrupt", {"agent_id": self.agent}
        return await self.user.ask("POST", path, params=params)


def pieces(events: list[dict[str, Any]]) -> list[str]:
    return [event["delta"] for event in events if event["type"] == "TEXT_BLOCK_DELTA"]


def ending(events: list[dict[str, Any]]) -> str:
    return events[-1]["finished_reason"]


@asynccontextmanager
async def serve(folder: Path, options: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """The service in this event loop, and a client of it."""
    app = create_app(
        storage=AsyncSQLAlchemyStorage(f"sqlite+aiosqlite:///{folder / 'service.db'}"),
        message_bus=InMemoryMessageBus(),
        workspace_manager=LocalWorkspaceManager(basedir=str(folder / "workspaces")),
        **options,
    )
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the service did not start"
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=LONGEST) as client:
            yield client
    finally:
        server.should_exit = True
        await running
