"""Flags, the run file, exit codes and errors; the verbs on models are in test_cli_verbs.py."""

import json
import subprocess
import sys

import pytest

from agent_finetune import cli, hookimpl, plugins
from agent_finetune.contracts import Command
from agent_finetune.records import Section


@pytest.fixture
def fails(capsys):
    """Run a command that the user can fix; answer its one line."""

    def run(*argv):
        assert cli.main(list(map(str, argv))) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture
def trained(monkeypatch):
    """Catch the RunConfig that `train` resolves, without training."""
    from agent_finetune import train as training
    from agent_finetune.errors import TrainError

    caught = []

    def stop(config, settings, *, report):
        caught.append(config)
        raise TrainError("stopped by the test")

    monkeypatch.setattr(training, "run", stop)

    def resolve(*argv):
        assert cli.main(["train", *map(str, argv)]) == 2
        return caught.pop()

    return resolve


def test_help_and_plugins_import_neither_torch_nor_a_host():
    code = (
        "import sys; from agent_finetune.cli import main; main(['--help']); main(['plugins'])\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'agentscope', 'autogen',"
        " 'autogen_core', 'autogen_agentchat', 'ag2', 'modelscope', 'modelscope_agent'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "inspect" in done.stdout


def test_the_program_is_installed_under_its_name():
    done = subprocess.run(
        [sys.executable, "-m", "agent_finetune.cli", "train"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


def test_flags_become_the_config(trained):
    config = trained(
        "--model", "m", "--data", "d", "--out", "o", "--rank", 4, "--max-steps", 7, "--no-pack",
        "--sections", "tool-call", "stop", "--targets", "q_proj", "v_proj", "--learning-rate", 1e-3,
    )  # fmt: skip
    assert (config.model.model, config.data.data, config.out) == ("m", "d", "o")
    assert config.lora.rank == 4
    assert config.lora.targets == ("q_proj", "v_proj")
    assert (config.train.max_steps, config.train.pack) == (7, False)
    assert config.train.learning_rate == 1e-3
    assert config.data.sections == (Section.TOOL_CALL, Section.STOP)


def test_a_run_file_has_the_names_of_the_flags_and_a_flag_wins(trained, tmp_path):
    run = tmp_path / "run.toml"
    run.write_text(
        'model = "m"\ndata = "d"\nout = "o"\nmax-steps = 5\nbatch_size = 2\npack = false\n'
        'sections = ["tool_call", "stop"]\nlearning_rate = 0.001\n'
    )
    config = trained("--config", run, "--batch-size", 3)
    assert (config.train.max_steps, config.train.batch_size, config.train.pack) == (5, 3, False)
    assert config.data.sections == (Section.TOOL_CALL, Section.STOP)
    assert config.train.learning_rate == 0.001


def test_an_unknown_key_of_a_run_file_lists_the_known_ones(fails, tmp_path):
    run = tmp_path / "run.toml"
    run.write_text("lerning_rate = 1\n")
    line = fails("train", "--config", run, "--model", "m", "--data", "d", "--out", "o")
    assert f"{run}: unknown key 'lerning_rate'; keys are adapter, alpha, attention" in line
    assert "learning_rate" in line


def test_a_table_in_a_run_file_is_an_unknown_key(fails, tmp_path):
    run = tmp_path / "run.toml"
    run.write_text("[lora]\nrank = 1\n")
    assert "unknown key 'lora'" in fails("train", "--config", run, "--out", "o")


def test_a_run_file_of_another_verb_serves_too(fails, tmp_path):
    run = tmp_path / "run.toml"
    run.write_text(f'model = "m"\ndata = "{tmp_path}/none.jsonl"\nout = "o"\nrank = 4\n')
    assert "none.jsonl" in fails("inspect", "--config", run)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("a = = 1", "line 1"), ('max_steps = "many"', "max_steps")],
)
def test_a_run_file_that_cannot_be_used_is_named(fails, tmp_path, content, said):
    run = tmp_path / "run.toml"
    if content is not None:
        run.write_text(content)
    line = fails("train", "--config", run, "--model", "m", "--data", "d", "--out", "o")
    assert said in line
    assert "run.toml" in line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "--model", "m", "--data", "d"], "--out"),
        (["train", "--model", "m", "--data", "d", "--out", "o", "--pak"], "--pack?"),
        (["train", "--model", "m", "--data", "d", "--out", "o", "--dtype", "f8"], "bfloat16"),
        (["train", "--model", "m", "--data", "d", "--out", "o", "--rank", "0"], "rank is 0"),
        (["train", "--model", "m", "--data", "d", "--out", "o", "--rank", "x"], "--rank"),
        (
            ["train", "--model", "m", "--data", "d", "--out", "o", "--patience", "1"],
            "patience needs held-out data",
        ),
        (["trian"], "train"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_is_legal(fails, argv, said):
    assert said in fails(*argv)


def test_plugins_lists_who_answers_what(capsys):
    class Mine:
        @hookimpl
        def finetune_read_examples(self, source): ...

    with plugins.registered(Mine(), "mine"):
        assert cli.main(["plugins", "--json"]) == 0
        answered = json.loads(capsys.readouterr().out)["plugins"]
        assert cli.main(["plugins"]) == 0
    assert answered["mine"] == ["finetune_read_examples"]
    assert "finetune_train_adapter" in answered["kernel"]
    assert "mine: finetune_read_examples" in capsys.readouterr().out


def adding(name, run):
    class Adds:
        @hookimpl
        def finetune_add_commands(self):
            return [Command(name=name, help="What a plugin adds.", run=run)]

    return plugins.registered(Adds(), "adds")


def test_a_plugin_adds_a_verb_and_gets_its_arguments_untouched(capsys):
    seen = []
    with adding("serve", lambda words: seen.append(tuple(words)) or 3):
        assert cli.main(["serve", "--port", "80", "--help"]) == 3
        assert cli.main(["--help"]) == 0
    assert seen == [("--port", "80", "--help")]
    assert "What a plugin adds." in capsys.readouterr().out


def test_a_plugin_cannot_replace_a_verb_of_the_kernel(fails):
    with adding("train", lambda _: 0):
        assert "'train'" in fails("plugins")


def test_an_error_of_ours_keeps_its_traceback():
    def broken(_):
        raise KeyError("ours")

    with adding("serve", broken), pytest.raises(KeyError, match="ours"):
        cli.main(["serve"])


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupted_run_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    from agent_finetune import train as training

    monkeypatch.setattr(training, "run", interrupt)
    words = ["train", "--model", "m", "--data", "d", "--out", str(tmp_path)]
    assert cli.main(words) == 130
    assert capsys.readouterr().err == "interrupted before training began; nothing was written\n"
    run = {"config": {"model": {"model": "m"}, "train": {}}, "must_stay": {}}
    (tmp_path / "run.json").write_text(json.dumps({"status": "interrupted", "steps": 1} | run))
    assert cli.main(words) == 130
    assert "--resume begins again" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"} | run))
    assert cli.main(words) == 130
    assert f"interrupted when the run was done; it is whole: {tmp_path}" in capsys.readouterr().err
    with adding("serve", interrupt):
        assert cli.main(["serve"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_version_is_told(capsys):
    from agent_finetune import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
