"""What `modelscope-agent-train` leaves behind holds no token, whoever echoes it."""

import http.server
import json
import threading
from pathlib import Path

import pytest
from planted import plant, traces

from agent_finetune import testing
from agent_finetune.contracts import Secret
from agent_finetune.errors import ModelError
from agent_finetune.evaluate import Asked
from agent_finetune.records import Message
from modelscope_agent_train import cli
from modelscope_agent_train.evaluation import EndpointAnswerer

KEY = "sk-" + "planted0123456789abcdef"


def test_sft_and_eval_leave_no_token_behind(tmp_path, monkeypatch, capfd, caplog):
    planted = plant(monkeypatch, tmp_path)
    monkeypatch.setenv("AGENT_FINETUNE_CACHE", str(tmp_path / "cache"))
    model = testing.save_tiny_model(tmp_path / "model")
    turns = [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]
    rows = [{"id": str(number), "conversations": turns} for number in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model_id_or_path", str(model), "--dataset", "rows.jsonl", "--output_dir", "runs"]
    quick = ["--max_steps", "1", "--dtype", "fp32", "--lora_rank", "2"]
    quick += ["--dataset_test_ratio", "0", "--evaluate", "false"]
    with caplog.at_level("DEBUG"):
        assert cli.main(["sft", *words, *quick]) == 0
        (run,) = {path.parent for path in Path("runs").rglob("sft_args.json")}
        checkpoint = next(run.rglob("adapter_config.json")).parent
        said = ["--ckpt_dir", str(checkpoint), "--dataset", "rows.jsonl"]
        evaluated = cli.main(["eval", *said, "--max_new_tokens", "2", "--output_dir", "report"])
    printed = capfd.readouterr()
    assert evaluated == 0, printed.err[-500:]
    assert not traces(planted, tmp_path, printed.out, printed.err, caplog.text)


class _Echo(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = f"Incorrect API key provided: {self.headers['Authorization']}".encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [200, 401])
def test_a_key_that_an_endpoint_echoes_and_a_password_in_its_url_are_in_no_error(status):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.status = status
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://me:planted_password@127.0.0.1:{server.server_port}/v1"
        answerer = EndpointAnswerer(url=url, model="m", key=Secret(KEY), attempts=1)
        asked = Asked(messages=(Message(role="user", text="q"),), tools=())
        with pytest.raises(ModelError, match="Incorrect API key provided") as told:
            answerer.answer([asked])
        server.shutdown()
    assert "planted" not in f"{told.value} {answerer.name} {answerer.key!r}"
