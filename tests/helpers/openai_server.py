"""A stand-in for a hosted model: a server on loopback that speaks OpenAI's chat API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agentscope.credential import OpenAICredential
from agentscope.model import OpenAIChatModel


class Teacher:
    """Says what it is told to say, one answer after the other, and keeps what it was asked."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.url = ""

    def model(self, *, stream: bool) -> OpenAIChatModel:
        credential = OpenAICredential(api_key="not-a-key", base_url=self.url)
        return OpenAIChatModel(
            credential=credential, model="teacher", stream=stream, max_retries=0, context_size=8192
        )


@contextmanager
def teacher(*answers: Any) -> Iterator[Teacher]:
    """A server with answers: texts, lists of (id, name, arguments) for calls, or an error code."""
    told = Teacher(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.asked.append(asked)
            answer = told.answers.pop(0)
            if isinstance(answer, int):
                self.send(answer, "application/json", b'{"error": {"message": "no"}}')
            elif asked.get("stream"):
                self.send(200, "text/event-stream", b"".join(_events(answer, len(told.asked))))
            else:
                whole = json.dumps(_whole(answer, len(told.asked))).encode()
                self.send(200, "application/json", whole)

        def send(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")  # clients are never closed by the host
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def _message(answer: Any) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in answer
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _whole(answer: Any, number: int) -> dict[str, Any]:
    reason = "stop" if isinstance(answer, str) else "tool_calls"
    choice = {"index": 0, "message": _message(answer), "finish_reason": reason}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher",
        "choices": [choice],
        "usage": USAGE,
    }


def _events(answer: Any, number: int) -> Iterator[bytes]:
    whole = _message(answer)
    deltas: list[dict[str, Any]] = []
    if isinstance(answer, str):
        half = len(answer) // 2
        deltas += [{"role": "assistant", "content": answer[:half]}, {"content": answer[half:]}]
    else:
        for index, call in enumerate(whole["tool_calls"]):
            deltas.append({"tool_calls": [{"index": index, **call}]})
    choices: list[list[dict[str, Any]]] = [[{"index": 0, "delta": delta}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    for number_, choice in enumerate([*choices, []]):
        chunk = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "teacher",
            "choices": choice,
        }
        if number_ == len(choices):
            chunk["usage"] = USAGE
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    yield b"data: [DONE]\n\n"
