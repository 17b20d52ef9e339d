import argparse
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import entry_points

import pytest

from agent_finetune import testing
from agent_finetune.config import AdapterConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel
from modelscope_agent_train import cli, modelscope_cli, sft


def test_every_verb_is_told(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in cli.VERBS)


def test_no_verb_is_an_error(capsys):
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_an_unknown_verb_is_an_error(capsys):
    assert cli.main(["train"]) == 2
    assert "'train' is not a verb; legal are sft, infer" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["sft", "infer", "eval", "validate", "convert", "export"])
def test_every_verb_lists_its_flags(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["sft", "infer", "eval", "convert", "export"])
def test_a_typo_is_an_error_in_every_verb(verb, capsys):
    assert cli.main([verb, "--no_such_flag", "1"]) == 2
    assert "there is no flag --no_such_flag" in capsys.readouterr().err


def test_the_command_of_modelscope_hands_over_every_word(monkeypatch):
    seen = []
    monkeypatch.setattr(sft, "main", lambda words, prog: seen.append((words, prog)) or 3)
    subparsers = (parser := argparse.ArgumentParser()).add_subparsers(dest="command")
    modelscope_cli.AgentSft.register(subparsers)
    words = ["--model_type", "qwen-7b", "--lora_rank", "4", "--help"]
    args = parser.parse_args(["agent-sft", *words])
    with pytest.raises(SystemExit) as left:
        args._command(args).execute()
    assert left.value.code == 3
    assert seen == [(words, "modelscope agent-sft")]


def test_modelscope_finds_the_command_by_its_entry_point():
    (found,) = entry_points(group="modelscope_hub.cli_plugins", name="agent-sft")
    assert found.load() is modelscope_cli.AgentSft


def test_a_wrong_flag_is_told_by_modelscopes_own_program(capsys):
    pytest.importorskip("modelscope_hub")
    from modelscope_hub.cli.main import run_cmd

    assert run_cmd(["agent-sft", "--lora_rnak", "8"]) == 2
    assert "did you mean --lora_rank?" in capsys.readouterr().err


def test_three_ways_to_call_the_script_list_the_same_flags(capsys):
    from modelscope_hub.cli.main import run_cmd

    shown = []
    for call in (
        lambda: cli.main(["sft", "--help"]),
        lambda: run_cmd(["agent-sft", "--help"]),
        lambda: sft.main(["--help"]),
    ):
        with suppress(SystemExit):
            assert call() == 0
        shown.append(capsys.readouterr().out.partition("\n")[::2])
    usages, flags = zip(*shown, strict=True)
    assert [usage.split()[1:-3] for usage in usages] == [
        ["modelscope-agent-train", "sft"],
        ["modelscope", "agent-sft"],
        ["llm_sft.py"],
    ]
    assert len(set(flags)) == 1


def test_reading_flags_costs_no_torch():
    code = (
        "import sys; from modelscope_agent_train.cli import main; main(['sft', '--rnak', '8']);"
        "heavy = 'torch', 'transformers', 'datasets', 'modelscope';"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def run(tmp_path):
    """A run's folder with an adapter in it, of a base beside it."""
    from agent_finetune import adapters

    base = tmp_path / "base"
    tokenizer = testing.tiny_tokenizer()
    model = testing.tiny_model(tokenizer)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        resolved=ResolvedModel(name=str(base), location=str(base)),
        config=adapters.ModelConfig(model=str(base)),
        device="cpu",
        dtype="float32",
        digest="sha256:0",
    )
    adapters.save(adapters.attach(loaded, AdapterConfig(rank=2)), tokenizer, tmp_path / "adapter")
    return tmp_path


def test_an_adapter_becomes_a_model_that_loads_alone(run, capsys):
    from transformers import AutoModelForCausalLM

    assert cli.main(["export", "--ckpt_dir", str(run)]) == 0
    merged = run / "merged"
    assert capsys.readouterr().out.strip() == str(merged)
    assert AutoModelForCausalLM.from_pretrained(merged).num_parameters() > 0
    assert (merged / "configuration.json").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [([], "--ckpt_dir is missing"), (["--ckpt_dir", "nowhere"], "no adapter in it")],
)
def test_what_cannot_be_exported_says_why(words, told, capsys):
    assert cli.main(["export", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(run, tmp_path, capsys):
    (tmp_path / "a file").touch()
    below = str(tmp_path / "a file" / "below")
    for words in (
        ["convert", "--dataset", "xlam-sample", "--output", below],
        ["export", "--ckpt_dir", str(run), "--output_dir", below],
    ):
        assert cli.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / 'a file'}: ")
