"""Checkpoints of all makers, measured through the command line."""

import json

import pytest
from openai_server import teacher
from peft import LoraConfig, get_peft_model

from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.records import Example, Message
from agent_finetune.settings import read_settings
from agent_finetune.testing import save_tiny_model, tiny_model, tiny_tokenizer
from modelscope_agent_train import cli
from modelscope_agent_train.arguments import InferArguments
from modelscope_agent_train.evaluation import checkpoints
from modelscope_agent_train.evaluation.cli import EvalArguments, idle, main
from modelscope_agent_train.flags import parse

SHORT = ["--dataset", "msagent-sample#2", "--max_new_tokens", "4", "--dtype", "fp32"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def swift_run(base, tmp_path_factory):
    """What ms-swift 4.6 leaves behind: PEFT's adapter, no tokenizer, and the run's arguments.

    The base that the adapter names is a path of the machine that trained it.
    """
    run = tmp_path_factory.mktemp("output") / "v0-20260822-101500"
    for step in (9, 10):
        folder = run / f"checkpoint-{step}"
        tokenizer = tiny_tokenizer()
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj"])
        model = get_peft_model(tiny_model(tokenizer), lora)
        model.peft_config["default"].base_model_name_or_path = "/mnt/workspace/.cache/modelscope/x"
        model.save_pretrained(str(folder), save_embedding_layers=False)
        args = {
            "swift_version": "4.6.0",
            "model": str(base),
            "model_type": "llama",
            "model_revision": None,
            "tuner_type": "lora",
            "torch_dtype": "bfloat16",
            "quant_method": None,
            "quant_bits": None,
            "template": "chatml",
            "agent_template": "hermes",
            "system": "You are a helpful assistant.",
            "hub_token": "ms-secret",
            "output_dir": str(run),
        }
        (folder / "args.json").write_text(json.dumps(args, indent=2))
        (folder / "additional_config.json").write_text('{"lora_dtype": null}')
    (run / "args.json").write_text(json.dumps(args))
    return run


NO_KEY = ["--endpoint_key_file", "/none"]


def configure(base=None, ckpt_dir=None, **flags):
    arguments = InferArguments(model_id_or_path=base and str(base), **flags)
    said = []
    config, found = checkpoints.configure(
        arguments, ckpt_dir and str(ckpt_dir), read_settings(), say=said.append
    )
    return config, found, said


def test_a_checkpoint_of_ms_swift_is_measured(swift_run, tmp_path, capsys):
    assert main(["--ckpt_dir", str(swift_run), *SHORT, "--output_dir", str(tmp_path / "o")]) == 0
    out, err = capsys.readouterr()
    assert "answers cut off" in out
    assert "made by ms-swift 4.6.0" in err
    assert "agent template 'hermes'" in err
    assert "ms-secret" not in out + err
    rows = (tmp_path / "o" / "steps.jsonl").read_text().splitlines()
    assert len(rows) >= 2
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["counts"]["examples"] == 2


def test_a_checkpoint_of_ms_swift_answers_with_its_own_system_message(swift_run, capsys):
    words = ["infer", "--ckpt_dir", str(swift_run), "--dtype", "fp32", "--max_new_tokens", "3"]
    assert cli.main([*words, "--query", "hello"]) == 0
    with_its_own = capsys.readouterr().err
    assert cli.main([*words, "--query", "hello", "--system", "x"]) == 0
    assert prompt_tokens(capsys.readouterr().err) < prompt_tokens(with_its_own)


def prompt_tokens(told):
    return int(told.rpartition(" prompt tokens")[0].split()[-1])


def test_the_newest_checkpoint_of_a_run_is_taken_and_its_base_from_args(swift_run, base):
    config, found, said = configure(ckpt_dir=swift_run)
    assert config.adapter == str((swift_run / "checkpoint-10").resolve())
    assert config.model == str(base)
    assert found.system == "You are a helpful assistant."
    assert any("checkpoint-10" in line for line in said)


def test_a_model_given_by_a_flag_goes_before_the_base_of_args(swift_run, tmp_path):
    other = save_tiny_model(tmp_path / "other")
    config, _, _ = configure(base=other, ckpt_dir=swift_run / "checkpoint-9")
    assert config.model == str(other)
    assert config.adapter.endswith("checkpoint-9")


def test_the_bits_of_a_quantized_run_are_kept_unless_flags_say_others(swift_run, tmp_path):
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    for path in (swift_run / "checkpoint-10").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    args = json.loads((folder / "args.json").read_text()) | {"quant_bits": 4, "quant_method": "bnb"}
    (folder / "args.json").write_text(json.dumps(args))
    assert configure(ckpt_dir=folder)[0].quantization == "4bit"
    assert configure(ckpt_dir=folder, quantization_bit=8)[0].quantization == "8bit"


def test_whole_weights_are_a_checkpoint_too(base):
    config, found, said = configure(ckpt_dir=base)
    assert (config.model, config.adapter, found.adapter, said) == (str(base), None, None, [])


def test_a_system_message_is_put_where_there_is_none():
    with_one = Example(messages=(Message(role="system", text="own"), Message(role="user")))
    without = Example(messages=(Message(role="user"),))
    first, second = checkpoints.with_system([with_one, without], "theirs")
    assert first is with_one
    assert [m.text for m in second.messages] == ["theirs", ""]
    assert checkpoints.with_system([without], None) == [without]


def test_a_folder_without_weights_says_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"no weights in it .* there is notes\.txt"):
        checkpoints.find(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        checkpoints.find(tmp_path / "none")


def test_args_that_do_not_parse_are_named(swift_run, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "args.json").write_text("{")
    with pytest.raises(ModelError, match=r"args\.json: cannot be read"):
        checkpoints.find(tmp_path)


# The command line


def test_the_command_measures_runs_and_2023_and_names_idle_flags(base, tmp_path, capsys):
    words = ["eval", "--model_id_or_path", str(base), *SHORT, "--free_run", "--legacy_metrics"]
    assert cli.main([*words, "--max_length", "8"]) == 0
    out, err = capsys.readouterr()
    assert "runs on the model's own turns" in out
    assert "action_em" in out
    assert "--max_length does nothing here" in err


def test_the_text_of_2023_is_measured_in_its_own_form(base, capsys):
    words = ["--model_id_or_path", str(base), *SHORT, "--legacy_format", "--legacy_metrics"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "in the text form of 2023: 2 examples" in out
    assert main([*words, "--free_run"]) == 2
    assert "need a chat template" in capsys.readouterr().err


def test_an_endpoint_is_measured_from_the_command_line(tmp_path, capsys):
    (tmp_path / "key").write_text("secret-key\n")
    said = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "it is gone"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    with teacher("it is gone") as told:
        words = ["--endpoint", told.url, "--endpoint_model", "m", "--legacy_metrics"]
        words += ["--dataset", str(tmp_path / "rows.jsonl")]
        assert main([*words, "--endpoint_key_file", str(tmp_path / "key")]) == 0
    out, err = capsys.readouterr()
    assert any(
        line.split()[:5] == ["Rouge-L", "of", "the", "words", "1.000"] for line in out.splitlines()
    )
    assert "secret-key" not in out + err


def test_a_model_in_modelscopes_cache_is_measured_without_a_network(
    base, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "models" / "owner--tiny" / "snapshots" / "master"
    folder.mkdir(parents=True)
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    words = ["--model_id_or_path", "owner/tiny", *SHORT, "--local_files_only"]
    assert main(words) == 0
    assert str(folder) in capsys.readouterr().err


def test_prompts_beyond_the_context_are_counted(base, capsys, tmp_path):
    said = [{"role": "user", "content": "a b " * 1200}, {"role": "assistant", "content": "gone"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    words = ["--model_id_or_path", str(base), "--dataset", str(tmp_path / "rows.jsonl")]
    assert main([*words, "--max_new_tokens", "1"]) == 0
    assert "1 steps have a prompt beyond the model's context of 2048" in capsys.readouterr().err


def test_what_sft_holds_out_is_measured_by_the_same_flags(base, capsys):
    words = ["--model_id_or_path", str(base), "--dataset", "msagent-sample"]
    words += ["--dataset_test_ratio", "0.1", "--max_new_tokens", "2"]
    assert main(words) == 0
    assert "rows are held out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "msagent-sample"], "no model"),
        (["--model_id_or_path", "x"], "no data"),
        (["--ref_path", "a"], "--ref_path and --pred_path go together"),
        (["--endpoint", "http://h"], "--endpoint and --endpoint_model go together"),
        (["--batch_size", "0"], "--batch_size is 0"),
        (["--fre_run"], "did you mean --free_run"),
        (
            ["--endpoint", "h", "--endpoint_model", "m", "--legacy_format", "true"],
            "needs the model itself",
        ),
        (
            ["--endpoint=h", "--endpoint_model=m", "--dataset=msagent-sample", *NO_KEY],
            "--endpoint_key_file /none",
        ),
    ],
)
def test_what_does_not_go_together_is_said(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_two_files_need_no_model_and_say_which_flags_rest(tmp_path, capsys):
    path = tmp_path / "said.json"
    path.write_text('["words"]')
    words = ["--ref_path", str(path), "--pred_path", str(path), "--dataset", "x"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "Rouge-L" in out
    assert "--dataset does nothing here" in err


def test_no_flag_that_matters_is_called_idle():
    parsed = parse(EvalArguments, ["--dataset", "x", "--seed", "1"], prog="eval")
    assert [line.split()[0] for line in idle(parsed.arguments, parsed.given)] == ["--seed"]
