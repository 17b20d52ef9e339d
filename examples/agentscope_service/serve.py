"""AgentScope's agent service on a local model, in one process: no Redis, no API key.

It serves until Ctrl+C. With --ask it asks itself over HTTP, shows the answer as it comes, and ends.
"""

import argparse
import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from agentscope.app import create_app
from agentscope.app.message_bus import InMemoryMessageBus
from agentscope.app.storage import AsyncSQLAlchemyStorage
from agentscope.app.workspace_manager import LocalWorkspaceManager

from agent_finetune.errors import FinetuneError
from agentscope_finetune import service_options

USER = "me"
HELLO = """\
{url} serves {model} ({url}/docs shows every route). In another terminal:

curl -N -H 'X-User-ID: {user}' '{url}/sessions/{session}/stream?agent_id={agent}' &
curl -H 'X-User-ID: {user}' -H 'Content-Type: application/json' {url}/chat/ -d '{body}'
"""


def make_app(options):
    """The host's application: its storage in SQLite, its bus in memory, our models."""
    options.data.mkdir(parents=True, exist_ok=True)
    return create_app(
        storage=AsyncSQLAlchemyStorage(f"sqlite+aiosqlite:///{options.data / 'service.db'}"),
        message_bus=InMemoryMessageBus(),
        workspace_manager=LocalWorkspaceManager(basedir=str(options.data / "workspaces")),
        **service_options(
            model_roots=options.root,
            record_to=options.record_to,
            tools=options.tool,  # a small model can do nothing with sixteen of them,
            runtime_state=False,  # and takes the time of day for the question
        ),
    )


@asynccontextmanager
async def serving(app, port):
    """Serve on loopback only: the host takes whoever sends X-User-ID for that user."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=5
        )
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        if running.done():
            sys.exit(f"port {port} cannot be had")
        await asyncio.sleep(0.05)
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}", running
    finally:
        server.should_exit = True
        await running


async def begin(client, model):
    """What a web page does before a chat: a credential, an agent, and a session of the two."""

    async def make(path, body):
        answer = await client.post(path, json=body)
        if answer.is_error:
            sys.exit(f"{path}: {answer.text}")
        return next(iter(answer.json().values()))

    credential = await make("/credential/", {"data": {"type": "transformers_credential"}})
    agent = await make("/agent/", {"name": "Friday", "system_prompt": "You are Friday."})
    chosen = {
        "type": "transformers_credential",
        "credential_id": credential,
        "model": model,
        "parameters": {"max_tokens": 128},
    }
    session = await make("/sessions/", {"agent_id": agent, "chat_model_config": chosen})
    return agent, session


def message(agent, session, text):
    """The body of a turn."""
    said = {"name": "user", "role": "user", "content": [{"type": "text", "text": text}]}
    return {"agent_id": agent, "session_id": session, "input": said}


async def ask(client, agent, session, text):
    """Ask, and show the words of the answer as they come; whether it is whole."""
    (await client.post("/chat/", json=message(agent, session, text))).raise_for_status()
    path = f"/sessions/{session}/stream"
    async with client.stream("GET", path, params={"agent_id": agent}) as stream:
        async for line in stream.aiter_lines():
            event = json.loads(line[6:]) if line.startswith("data: ") else {"type": ""}
            if event["type"] == "TEXT_BLOCK_DELTA":
                print(event["delta"], end="", flush=True)
            if event["type"] == "REPLY_END":
                print()
                return event["finished_reason"] == "completed"
    return False


async def main(options):
    """Serve; the exit code."""
    async with serving(make_app(options), options.port) as (url, running):
        headers = {"X-User-ID": USER}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600) as client:
            agent, session = await begin(client, options.model)
            if options.ask is not None:
                return 0 if await ask(client, agent, session, options.ask) else 1
        body = json.dumps(message(agent, session, "Who are you?"))
        known = {"url": url, "user": USER, "model": options.model}
        print(HELLO.format(**known, agent=agent, session=session, body=body), flush=True)
        await running
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--root", action="append", default=[], type=Path, help="of local models")
    parser.add_argument("--record-to", type=Path, help="database for what is asked and answered")
    parser.add_argument("--tool", action="append", default=[], help="that agents keep, as Read")
    parser.add_argument("--data", type=Path, default=Path("service"), help="folder of the service")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--ask", help="ask this, show the answer, and end")
    try:
        sys.exit(asyncio.run(main(parser.parse_args())))
    except FinetuneError as error:
        sys.exit(str(error))
