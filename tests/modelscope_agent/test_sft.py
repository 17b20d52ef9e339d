import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from agent_finetune import testing
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError, FinetuneError
from agent_finetune.train import folder
from modelscope_agent_train import run_folders
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.sft import main, sft

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/modelscope_agent_train/llm_sft.py"
COMMAND = (
    "--model_type smollm2-135m-instruct --sft_type lora --output_dir runs --dataset rows.jsonl "
    "--dataset_sample 20000 --dataset_test_ratio 0.02 --max_length 2048 --dtype bf16 "
    "--lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.1 --batch_size 1 --learning_rate 1e-4 "
    "--gradient_accumulation_steps 16 --eval_steps 50 --save_steps 50 --save_total_limit 2 "
    "--logging_steps 20 --use_flash_attn true"
)
"""The documented command, with a small model and a local file."""


def row(number):
    plugin = {"name": "weather", "description": "Tells it", "parameters": []}
    call = json.dumps({"api_name": "weather", "parameters": {"city": f"City {number}"}})
    answer = (
        f"<|startofthink|>```JSON\n{call}\n```<|endofthink|>\n\n"
        f'<|startofexec|>```JSON\n{{"c": {number}}}\n```<|endofexec|>\nIt is {number}.'
    )
    turns = [
        {"from": "system", "value": f"You can call:\n1. {json.dumps(plugin)}"},
        {"from": "user", "value": f"How warm is City {number}?"},
        {"from": "assistant", "value": answer},
    ]
    return {"id": str(number), "conversations": turns}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = testing.tiny_tokenizer()
    testing.tiny_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data in it, in which the process stands."""
    rows = [json.dumps(row(number)) for number in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(model, **given):
    few = {
        "model_id_or_path": model,
        "dataset": "rows.jsonl",
        "dtype": "fp32",
        "gradient_checkpoint": False,
        "gradient_accumulation_steps": 2,
        "dataset_test_ratio": 0.2,
        "evaluate": False,
        "warmup_ratio": 0.0,
    }
    return SftArguments(**(few | given))


def history(result):
    text = (result.output_dir / "history.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_documented_command_trains_saves_and_measures(model, place, capsys):
    assert main([*COMMAND.split(), "--model_id_or_path", model, "--max_new_tokens", "4"]) == 0
    captured = capsys.readouterr()
    (run,) = (place / "runs/smollm2-135m-instruct").iterdir()
    assert re.fullmatch(r"v0-\d{8}-\d{6}", run.name)
    assert (run / "adapter/adapter_model.safetensors").is_file()
    assert folder.read_run(run)["status"] == "finished"
    assert (run / "evaluation/metrics.json").is_file()
    assert json.loads((run / "sft_args.json").read_text())["lora_rank"] == 8
    assert {"README.md", "configuration.json"} <= {p.name for p in (run / "adapter").iterdir()}
    assert re.search("--use_flash_attn +true +no GPU: SDPA of torch is used", captured.err)
    assert "right tool names" in captured.out


@pytest.mark.real
@pytest.mark.slow
def test_the_documented_command_trains_the_real_model_on_the_shipped_sample(place, capsys):
    assert main(COMMAND.replace("rows.jsonl", "msagent-sample").split()) == 0
    assert "right tool names" in capsys.readouterr().out
    (run,) = (place / "runs/smollm2-135m-instruct").iterdir()
    assert folder.read_run(run)["steps"] == 2


def test_what_came_of_it_is_printed_after_what_each_flag_did(model, place, capsys):
    given = {"evaluate": "true", "max_new_tokens": "4", "dataset": "rows.jsonl"}
    given |= {"model_id_or_path": model, "dtype": "fp32", "output_dir": "out"}
    given |= {"gradient_accumulation_steps": "16", "max_steps": "1", "lora_rank": "2"}
    assert main([word for name, value in given.items() for word in (f"--{name}", value)]) == 0
    captured = capsys.readouterr()
    flags = [line.split()[0] for line in captured.err.splitlines() if line.startswith("--")]
    assert set(given) <= {flag.removeprefix("--") for flag in flags}
    assert captured.err.index("--lora_rank") < captured.err.index("training:")
    assert "right tool names" in captured.out
    assert "adapter: out/" in captured.out


def test_it_is_called_from_python(model, place):
    told = []
    result = sft(small(model, max_steps=2), settings=Settings(), report=told.append)
    assert result.adapter_dir == result.output_dir / "adapter"
    assert result.output_dir.parent == Path("runs") / Path(model).name
    assert result.metrics["eval_loss"] > 0
    assert {one.flag for one in result.effects if one.given} >= {"dataset", "max_steps"}
    assert any("held out: 2 rows" in line for line in told)


def test_flags_reach_the_run(model, place):
    result = sft(small(model, max_steps=3, logging_steps=1, eval_steps=2, lora_rank=3))
    run = folder.read_run(result.output_dir)
    assert run["config"]["lora"]["rank"] == 3
    assert run["data"]["max_length"] == 1024
    assert [line["step"] for line in history(result) if "loss" in line] == [1, 2, 3]
    assert [line["step"] for line in history(result) if "eval_loss" in line] == [0, 2, 3]
    assert [path.name for path in sorted((result.output_dir / "checkpoints").iterdir())] == [
        "checkpoint-2",
        "checkpoint-3",
    ]


def test_a_run_shorter_than_every_interval_still_leaves_an_adapter(model, place):
    result = sft(small(model, max_steps=1, logging_steps=20, eval_steps=50, save_steps=50))
    assert (result.adapter_dir / "adapter_model.safetensors").is_file()
    assert [line["step"] for line in history(result) if "loss" in line] == [1]


def test_every_weight_is_trained_where_that_is_asked_for(model, place):
    result = sft(small(model, sft_type="full", max_steps=1, evaluate=True, max_new_tokens=2))
    assert result.adapter_dir.name == "model"
    assert (result.adapter_dir / "model.safetensors").is_file()
    assert "name_accuracy" in result.metrics


def test_a_run_goes_on_from_a_checkpoint_and_reaches_the_same_losses(model, place):
    given = {"max_steps": 4, "logging_steps": 1, "eval_steps": 2, "save_steps": 2}
    whole = sft(small(model, **given))
    checkpoint = whole.output_dir / "checkpoints/checkpoint-2"
    again = sft(small(model, **given, resume_from_ckpt=str(checkpoint)))
    assert again.output_dir.name.startswith("v1-")
    told = {one.flag: one.told for one in again.effects}["resume_from_ckpt"]
    assert "checkpoint-2" in told
    first, second = ([(e["step"], e.get("loss")) for e in history(r)] for r in (whole, again))
    assert first == second
    assert folder.read_run(whole.output_dir)["status"] == "finished"


@pytest.mark.parametrize("word", ["true", "last"])
def test_the_newest_run_is_gone_on_from(model, place, word):
    given = {"logging_steps": 1, "eval_steps": 1, "save_steps": 1}
    sft(small(model, **given, max_steps=2, lr_scheduler_type="constant"))
    longer = small(model, **given, max_steps=3, lr_scheduler_type="constant")
    result = sft(replace(longer, resume_from_ckpt=word))
    assert [line["step"] for line in history(result) if "loss" in line] == [1, 2, 3]


def test_a_checkpoint_that_is_none_is_an_error_that_names_those_there_are(model, place):
    run = sft(small(model, max_steps=2, eval_steps=1)).output_dir
    wrong = run / "checkpoints/checkpoint-9"
    wrong.mkdir()
    with pytest.raises(ConfigError, match=r"not a whole checkpoint.*checkpoint-2"):
        sft(small(model, resume_from_ckpt=str(wrong)))
    with pytest.raises(ConfigError, match="no such folder"):
        sft(small(model, resume_from_ckpt="nowhere"))
    with pytest.raises(ConfigError, match="no run in"):
        sft(small(model, resume_from_ckpt="true", output_dir="empty"))


def test_runs_are_numbered_and_never_share_a_folder(tmp_path):
    now = datetime(2026, 11, 21, 9, 8, 7)
    (tmp_path / "v9-20260101-000000").mkdir()
    (tmp_path / "notes").mkdir()
    names = [run_folders.new_run(tmp_path, now=now).name for _ in range(2)]
    assert names == ["v10-20261121-090807", "v11-20261121-090807"]


def test_a_run_that_fails_before_it_begins_leaves_no_folder(model, place):
    with pytest.raises(DataError, match=r"nothing\.jsonl: no such file"):
        sft(small(model, dataset="nothing.jsonl"))
    assert list((place / "runs").rglob("v0-*")) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no model: give --model_type"),
        (["--model_type", "smollm2-135m-instruct"], "no data: give --dataset"),
        (["--model_type", "qwen-7b", "--dataset", "rows.jsonl"], "Transformers 4.31"),
        (["--lora_rnak", "8"], "did you mean --lora_rank?"),
        (["--model_id_or_path", "./none", "--dataset", "rows.jsonl"], "no such file or folder"),
    ],
)
def test_what_the_user_can_mend_is_one_line(place, capsys, words, told):
    assert main(words) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert captured.out == ""


def test_what_cannot_be_sent_is_told_before_the_run(model, place, monkeypatch):
    monkeypatch.setenv("AGENT_TRAIN_OFFLINE", "1")
    with pytest.raises(ConfigError, match="hub_model_id is None"):
        sft(small(model, push_to_hub=True))
    with pytest.raises(ConfigError, match="AGENT_TRAIN_OFFLINE"):
        sft(small(model, push_to_hub=True, hub_model_id="me/mine"))
    assert not (place / "runs").exists()


def test_the_text_of_2023_is_trained_and_measured(model, place):
    result = sft(small(model, legacy_format=True, max_steps=1, evaluate=True, max_new_tokens=2))
    template = (result.adapter_dir / "chat_template.jinja").read_text()
    assert "<|startofthink|>" in template
    assert "name_accuracy" in result.metrics


def test_deepspeed_without_a_launcher_names_the_way_out(model, place):
    (place / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    with pytest.raises(FinetuneError, match="torchrun"):
        sft(small(model, deepspeed="ds.json"))


def test_the_shipped_file_is_the_same_script(place):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--lora_rnak", "8"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "did you mean --lora_rank?" in done.stderr
    assert "Traceback" not in done.stderr
