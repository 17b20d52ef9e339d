"""What `service_options` answers, and what its parts do; the service itself runs in
`test_service_http`.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from agentscope.agent import Agent
from agentscope.middleware import MiddlewareBase
from talkative import save_talkative_model

from agent_finetune.errors import ConfigError
from agentscope_finetune import (
    ConversationRecorder,
    FineTuneAgent,
    TransformersCredential,
    policy,
    service_options,
)
from agentscope_finetune.service import Refusals

SERVE = Path(__file__).parents[2] / "examples" / "agentscope_service" / "serve.py"
OURS = "transformers_credential"


@pytest.fixture(autouse=True)
def policy_as_it_was():
    yield
    policy.allow_models()


def made(**options):
    make = service_options(**options)["extra_agent_middlewares"]
    return asyncio.run(make("ann", "agent", "session", None))


def answered(body, *, method="POST", pieces=1, kind="http"):
    """What the application behind `Refusals` read, and the status and words that came back."""
    size = -(-len(body) // pieces) or 1
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    inbox = [
        {"type": "http.request", "body": part, "more_body": n < len(parts) - 1}
        for n, part in enumerate(parts)
    ]
    read, sent = [], []

    async def receive():
        return inbox.pop(0)

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        while True:
            message = await receive()
            read.append(message["body"])
            if not message["more_body"]:
                return

    asyncio.run(Refusals(app)({"type": kind, "method": method}, receive, send))
    if not sent:
        return b"".join(read), None, None
    return b"".join(read), sent[0]["status"], json.loads(sent[1]["body"])["detail"]


def test_it_names_our_credential_and_our_agent(tmp_path):
    options = service_options(model_roots=[tmp_path])
    assert options["extra_credentials"] == [TransformersCredential]
    assert options["custom_agent_cls"] is FineTuneAgent
    assert service_options(fine_tunable=False)["custom_agent_cls"] is Agent


def test_it_says_what_credentials_may_reach(tmp_path):
    service_options(model_roots=[tmp_path], trust_remote_code=True)
    assert policy.allowed().roots == (tmp_path.resolve(),)
    assert policy.allowed().trust_remote_code
    service_options()
    assert policy.allowed() == policy.Policy()
    with pytest.raises(ConfigError, match="roots has"):
        service_options(model_roots=[tmp_path / "nothing"])


def test_the_recorder_stands_last_and_only_where_it_is_asked_for(tmp_path):
    class Mine(MiddlewareBase):
        pass

    async def mine(user, agent, session, workspace):
        return [Mine()]

    kinds = [type(each) for each in made(record_to=tmp_path / "r.sqlite", middlewares=mine)]
    assert kinds[-2:] == [Mine, ConversationRecorder]
    assert ConversationRecorder not in [type(each) for each in made(middlewares=mine)]


def test_what_is_none_of_ours_passes_unread_or_whole():
    other = json.dumps({"data": {"type": "openai_credential", "api_key": "x"}}).encode()
    for body in (b"", b"{", other, f'{{"{OURS}"'.encode(), b"x" * (1 << 21)):
        assert answered(body, pieces=5) == (body, None, None)
    assert answered(other, method="PATCH") == (other, None, None)


def test_a_model_is_refused_wherever_it_stands_in_a_request():
    chosen = {"type": OURS, "credential_id": "1", "model": "/etc", "parameters": {}}
    for body in ({"fallback_chat_model_config": chosen}, [{"steps": [{"model": chosen}]}]):
        read, status, words = answered(json.dumps(body).encode(), pieces=3)
        assert read == b""
        assert status == 422
        assert "model is '/etc'" in words
    chosen["type"] = "transformers_chat"
    assert answered(json.dumps(chosen).encode())[1] == 422
    chosen["model"] = "smollm2-135m-instruct"
    body = json.dumps(chosen).encode()
    assert answered(body) == (body, None, None)


def test_an_empty_model_is_refused_in_words():
    body = json.dumps({"type": OURS, "credential_id": "1", "model": ""}).encode()
    assert answered(body)[1] == 422


def run_example(tmp_path, *words):
    return subprocess.run(
        [sys.executable, SERVE, "--port", "0", "--data", tmp_path / "service", *words],
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_example_serves_asks_itself_and_ends(tmp_path):
    model = save_talkative_model(tmp_path / "models" / "talkative")
    kept = tmp_path / "kept.sqlite"
    words = ("--model", model, "--root", model.parent, "--record-to", kept, "--ask", "hello")
    run = run_example(tmp_path, *words)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) > 5
    assert kept.is_file()


def test_the_example_says_what_is_refused(tmp_path):
    run = run_example(tmp_path, "--model", tmp_path, "--ask", "hello")
    assert run.returncode == 1
    assert "allow_models" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.real
def test_the_example_knows_the_capital_of_france(tmp_path):
    words = ("--model", "smollm2-135m-instruct", "--ask", "What is the capital of France?")
    run = run_example(tmp_path, *words)
    assert run.returncode == 0, run.stderr
    assert "Paris" in run.stdout
