"""Importing the package, with and without an AutoGen beside it."""

import pytest
from sites import install, python, without_hosts


@pytest.fixture
def site(tmp_path):
    return without_hosts(tmp_path / "site")


def asking_for(site, name):
    code = (
        f"import autogen_finetune\ntry: autogen_finetune.{name}\nexcept ImportError as e: print(e)"
    )
    answer = python(site, code)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_package_is_imported_without_torch_and_without_any_autogen(site):
    code = """
import sys
import autogen_finetune
import autogen_finetune.plugin
import autogen_finetune.update_model
heavy = {"torch", "transformers", "autogen", "autogen_core", "ag2"}
print(sorted(heavy & sys.modules.keys()), autogen_finetune.__version__)
"""
    answer = python(site, code)
    assert (answer.stdout, answer.stderr) == ("[] 0.1.0\n", "")


def test_who_installed_pyautogen_is_told_what_that_is_and_both_ways_on(site):
    install(site, "pyautogen", "0.10.0")
    said = asking_for(site, "HFModelClient")
    assert "pyautogen 0.10.0, which is installed, only stands for autogen-agentchat" in said
    assert "from autogen_finetune.agentchat import HFChatCompletionClient, update_model" in said
    assert 'pip install "ag2<1" (or "pyautogen>=0.2.35,<0.3")' in said


@pytest.mark.parametrize("name", ["update_model", "attach", "llm_config"])
def test_every_classic_name_says_so(site, name):
    install(site, "pyautogen", "0.10.0")
    assert f"autogen_finetune.{name} is for classic AutoGen" in asking_for(site, name)


def test_who_has_ag2_1_is_told_of_its_own_api(site):
    install(site, "ag2", "1.2.1")
    said = asking_for(site, "update_model")
    assert "AG2 1.2.1, which is installed, has another API" in said
    assert '"pyautogen>=0.9,<0.10" beside it' in said


def test_who_has_nothing_is_told_what_to_install(site):
    assert 'pip install "ag2<1"' in asking_for(site, "attach")
    assert '"autogen-agentchat>=0.7,<0.8"' in asking_for(site, "HFChatCompletionClient")
    assert '"ag2>=1.2,<2"' in asking_for(site, "HFConfig")


def test_a_folder_that_an_uninstall_left_behind_is_no_autogen(site):
    (site / "autogen").mkdir()
    assert "there is no module 'autogen' here" in asking_for(site, "HFModelClient")


def test_update_model_is_the_function_whatever_was_imported_first(site):
    install(site, "ag2", "0.14.0", {"autogen/__init__.py": ""})
    code = """
import autogen_finetune.update_model
from autogen_finetune import update_model
from autogen_finetune.update_model import update_model as same
print(update_model is same, callable(update_model))
"""
    answer = python(site, code)
    assert (answer.stdout, answer.stderr) == ("True True\n", "")


def test_update_model_cannot_be_replaced_unnoticed():
    import autogen_finetune

    with pytest.raises(AttributeError, match="cannot be replaced"):
        autogen_finetune.update_model = print


def test_a_name_that_does_not_exist_is_no_attribute():
    import autogen_finetune

    with pytest.raises(AttributeError, match="has no attribute 'HFModel'"):
        autogen_finetune.HFModel  # noqa: B018
    assert {"HFModelClient", "HFConfig", "attach"} <= set(dir(autogen_finetune))


def test_a_thumb_needs_no_certain_autogen(site):
    assert asking_for(site, "thumbs_up") == ""
