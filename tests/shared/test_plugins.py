"""The plugin manager: what is wrong with a plugin is said, and who is asked when is fixed."""

import inspect
import os
import subprocess
import sys

import pluggy
import pytest

from agent_finetune import hookimpl, hookspecs, plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import (
    Command,
    EngineConfig,
    Reading,
    ResolvedModel,
    Settings,
    Source,
)
from agent_finetune.errors import ConfigError, DataError, ModelError, PluginError
from agent_finetune.records import Section, Tokens

HOOKS = [name for name in vars(hookspecs) if name.startswith("finetune_")]
SOURCE = Source("mine.jsonl", None, list)


class Reader:
    """Answers for one format, and counts how often it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    @hookimpl
    def finetune_read_examples(self, format):
        self.asked += 1
        return Reading(format=self.answer, items=()) if format in ("auto", self.answer) else None


class Engines:
    engine = object()
    agent = object()

    @hookimpl
    def finetune_open_engine(self, config):
        return self.engine if config.model.model == "known" else None

    @hookimpl
    def finetune_connect_host(self, host, agent, engine):
        return (agent, engine) if host == "known" else None


class Models:
    loaded = object()

    @hookimpl
    def finetune_resolve_model(self, name):
        return ResolvedModel(name=name, location="here") if name == "known" else None

    @hookimpl
    def finetune_load_model(self, resolved):
        return self.loaded if resolved.location == "here" else None


class Redactor:
    def __init__(self, letter):
        self.letter = letter

    @hookimpl
    def finetune_redact_record(self, record):
        return {**record, "seen": record["seen"] + self.letter}


class Adder:
    def __init__(self, *names):
        self.names = names

    @hookimpl
    def finetune_add_commands(self):
        return [Command(name=name, help="", run=len) for name in self.names]


# What is wrong with a plugin


def test_a_misspelled_hook_is_an_error_that_names_it():
    class Misspelled:
        @hookimpl
        def finetune_read_exmples(self, source):
            return None

    with (
        pytest.raises(PluginError, match=r"'mine'.*finetune_read_exmples"),
        plugins.registered(Misspelled(), "mine"),
    ):
        pass
    assert "mine" not in plugins.plugin_hooks()


def test_a_wrong_argument_is_an_error_that_names_it():
    class Wrong:
        @hookimpl
        def finetune_read_examples(self, src):
            return None

    with (
        pytest.raises(PluginError, match=r"'mine'(.|\n)*'src'"),
        plugins.registered(Wrong(), "mine"),
    ):
        pass
    assert "mine" not in plugins.plugin_hooks()


def test_a_plugin_is_registered_for_the_block_only():
    with plugins.registered(Reader("mine"), "mine"):
        assert plugins.plugin_hooks()["mine"] == ("finetune_read_examples",)
    assert "mine" not in plugins.plugin_hooks()


def test_a_plugin_is_taken_out_after_an_error_in_the_block_too():
    with pytest.raises(KeyError), plugins.registered(Reader("mine"), "mine"):
        raise KeyError
    assert "mine" not in plugins.plugin_hooks()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import no_such_host", "No module named 'no_such_host'"),
        (
            "from agent_finetune import hookimpl\n"
            "@hookimpl\n"
            "def finetune_read_exmples(source): return None\n",
            "unknown hook 'finetune_read_exmples'",
        ),
    ],
)
def test_an_installed_plugin_that_does_not_load_is_named_in_one_line(tmp_path, module, reason):
    (tmp_path / "ill_plugin.py").write_text(module)
    metadata = tmp_path / "ill-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ill\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[agent_finetune]\nill = ill_plugin\n")
    result = subprocess.run(
        [sys.executable, "-m", "agent_finetune.cli", "plugins"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "plugin 'ill' (ill_plugin) does not load: " in line
    assert reason in line


# Who is asked when


def test_the_kernel_is_asked_last():
    assert list(plugins.plugin_hooks())[-1] == "kernel"
    mine = Reader("messages")
    with plugins.registered(mine, "mine"):
        assert plugins.read_examples(SOURCE, "messages").format == "messages"
    assert mine.asked == 1


def test_none_leaves_the_answer_to_the_next():
    mine = Reader("mine")
    with plugins.registered(mine, "mine"):
        assert plugins.read_examples(SOURCE, "messages").format == "messages"
    assert mine.asked == 1


def test_the_newest_plugin_is_asked_first_and_the_first_answer_stands():
    old, new = Reader("old"), Reader("new")
    with plugins.registered(old, "old"), plugins.registered(new, "new"):
        assert plugins.read_examples(SOURCE, "auto").format == "new"
        assert list(plugins.plugin_hooks())[:2] == ["new", "old"]
    assert old.asked == 0


def test_a_plugin_that_asks_to_be_first_is():
    class First(Reader):
        @hookimpl(tryfirst=True)
        def finetune_read_examples(self, format):
            return Reading(format=self.answer, items=())

    with plugins.registered(First("first"), "first"), plugins.registered(Reader("new"), "new"):
        assert plugins.read_examples(SOURCE, "auto").format == "first"
        assert list(plugins.plugin_hooks())[:2] == ["first", "new"]


def test_the_kernel_answers_for_data_models_batches_and_training():
    assert set(plugins.plugin_hooks()["kernel"]) >= {
        "finetune_resolve_model",
        "finetune_load_model",
        "finetune_read_examples",
        "finetune_collate_batch",
        "finetune_train_adapter",
    }


def test_collating_reaches_the_kernel():
    row = Tokens(ids=(1, 2), trained=(False, True), sections=(None, Section.TEXT))
    padded = plugins.collate_batch([row], pad_id=0, packed=False)
    packed = plugins.collate_batch([row, row], pad_id=0, packed=True)
    assert padded["labels"].tolist() == [[-100, 2]]
    assert packed["position_ids"].tolist() == [[0, 1, 0, 1]]


def test_a_model_is_resolved_and_then_loaded():
    with plugins.registered(Models(), "mine"):
        found = plugins.load_model(ModelConfig(model="known"), Settings())
    assert found is Models.loaded


# Nobody answers


def test_without_a_plugin_the_engine_lives_in_this_process():
    engine = plugins.open_engine(EngineConfig(model=ModelConfig(model="m")), Settings())
    assert type(engine).__name__ == "LocalEngine"
    engine.close()


def test_an_unknown_host_lists_the_plugins():
    with (
        plugins.registered(Engines(), "mine"),
        pytest.raises(ConfigError, match=r"no plugin connects host 'strange'.*mine"),
    ):
        plugins.connect_host("strange", object(), object())


def test_an_engine_and_a_host_are_answered_by_their_plugin():
    with plugins.registered(Engines(), "mine"):
        engine = plugins.open_engine(EngineConfig(model=ModelConfig(model="known")), Settings())
        assert engine is Engines.engine
        assert plugins.connect_host("known", Engines.agent, engine) == (Engines.agent, engine)


def test_what_nobody_can_do_is_said(monkeypatch):
    # Without the kernel's own answers, which no installation lacks.
    monkeypatch.setattr(plugins, "_manager", bare_manager)
    with pytest.raises(ModelError, match="no plugin can resolve the model 'm'"):
        plugins.resolve_model("m", None, Settings())
    with pytest.raises(DataError, match=r"mine\.jsonl: no reader knows format 'odd'"):
        plugins.read_examples(SOURCE, "odd")


def bare_manager():
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


# Everyone is asked


def test_each_redaction_sees_what_the_one_before_left():
    with plugins.registered(Redactor("a"), "first"), plugins.registered(Redactor("b"), "second"):
        assert plugins.redact_record({"seen": ""}) == {"seen": "ab"}


def test_a_redaction_that_answers_none_leaves_the_record():
    class Nothing:
        @hookimpl
        def finetune_redact_record(self, record):
            return None

    record = {"seen": "x"}
    with plugins.registered(Nothing(), "mine"):
        assert plugins.redact_record(record) is record


def test_commands_of_all_plugins_are_gathered():
    with plugins.registered(Adder("a"), "one"), plugins.registered(Adder("b", "c"), "two"):
        assert {command.name for command in plugins.commands()} >= {"a", "b", "c"}


def test_two_plugins_with_one_command_are_an_error_that_names_it():
    with (
        plugins.registered(Adder("same"), "one"),
        plugins.registered(Adder("same"), "two"),
        pytest.raises(PluginError, match="two plugins add the command 'same'"),
    ):
        plugins.commands()


# The specs


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_what_it_is_for_and_types_its_arguments(hook):
    spec = getattr(hookspecs, hook)
    signature = inspect.signature(spec)
    assert len(inspect.getdoc(spec)) > 30
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert str(signature.return_annotation).endswith("| None")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_typed_door_with_the_same_arguments(hook):
    door = {"add_commands": "commands"}.get(name := hook.removeprefix("finetune_"), name)
    asked = set(inspect.signature(getattr(hookspecs, hook)).parameters)
    given = set(inspect.signature(getattr(plugins, door)).parameters)
    # Loading resolves the name itself, since the two always go together.
    assert given == asked - ({"resolved"} if hook == "finetune_load_model" else set())


# Loading costs nothing

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "pyarrow", "matplotlib", "pandas")
HOSTS = ("autogen", "autogen_agentchat", "autogen_core", "ag2", "agentscope", "modelscope")


def loaded_modules(code):
    """Top-level names of the modules that a fresh Python holds after running some code."""
    code += "; import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(result.stdout.split())


def test_loading_all_plugins_imports_neither_torch_nor_a_host():
    found = loaded_modules("from agent_finetune import plugins; plugins.plugin_hooks()")
    assert "pluggy" in found
    assert found.isdisjoint(HEAVY + HOSTS)


def test_importing_the_package_is_light():
    found = loaded_modules("import agent_finetune")
    assert found.isdisjoint((*HEAVY, *HOSTS, "rich", "huggingface_hub", "numpy", "cyclopts"))
