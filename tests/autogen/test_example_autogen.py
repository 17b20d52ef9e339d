"""The examples for AutoGen run as a user would run them, on a tiny model."""

import importlib.util
import re
from pathlib import Path

import pytest
from autogen_hosts import QUIET, agentchat, classic
from live_engines import close_all
from talkative import save_talkative_model
from updating_host import QUICK

FOLDER = Path(__file__).parents[2] / "examples" / "autogen_update_model"

classic()
agentchat()
pytestmark = QUIET


@pytest.fixture(scope="module", params=["autogen_update_model", "agentchat_update_model"])
def example(request):
    path = FOLDER / f"{request.param}.py"
    spec = importlib.util.spec_from_file_location("autogen_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.LEARNING = QUICK
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


def test_the_answer_changes_with_what_was_learned_and_comes_back_with_the_roll_back(
    example, model, tmp_path, capsys
):
    store = tmp_path / "adapters"
    code = example.main(["--model", str(model), "--store", str(store), "--max-tokens", "8"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert re.search(r"^  step \d, epoch \d, loss \d", said, re.MULTILINE)
    assert re.search(r"^update of 'assistant-.*': accepted$", said, re.MULTILINE)
    told = dict(re.findall(r"^(before|wanted|after|rolled|adapter) +(\S.*)$", said, re.MULTILINE))
    assert told["wanted"] == repr(example.BETTER)
    assert told["before"] != told["after"]
    assert told["rolled"] == "back to what it was"
    assert (Path(told["adapter"]) / "adapter_model.safetensors").is_file()
    assert Path(told["adapter"]).is_relative_to(store)


def test_what_cannot_be_had_is_said_in_one_line(example, tmp_path, capsys):
    assert example.main(["--model", str(tmp_path / "nothing")]) == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err.splitlines()[-1]
