"""README and pages say what the program does."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.flags import parse
from modelscope_agent_train.model_types import MODEL_TYPES
from modelscope_agent_train.sources import sample_names

PACKAGE = Path(__file__).parents[2] / "packages" / "modelscope-agent-train"
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
MODELS = (PACKAGE / "docs" / "models.md").read_text(encoding="utf-8")
DATA = (PACKAGE / "docs" / "data.md").read_text(encoding="utf-8")


def rows(text, beginning):
    """Cells of a table's rows whose first cell begins so."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def shown(default):
    if default is None or default == ():
        return "unset"
    return str(default).lower() if isinstance(default, bool) else str(default)


def section(title):
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_readme_lists_every_flag_with_its_default_and_what_help_says():
    listed = {}
    for names, default, what in rows(section("Flags"), "`--"):
        first, *others = re.findall(r"`--(\w+)`", names)
        listed[first] = (tuple(others), default, what)
    there_are = {
        one.name: (one.metadata["aliases"], shown(one.default), one.metadata["help"])
        for one in fields(SftArguments)
    }
    assert listed == there_are


def test_the_command_of_the_readme_is_read():
    block = section("The command").partition("```\n")[2].partition("```")[0]
    words = block.replace("\\\n", " ").split()[2:]
    arguments = parse(SftArguments, words, prog="llm_sft.py").arguments
    assert arguments.dataset == "msagent-sample"
    assert arguments.use_flash_attn is True


def test_what_changed_since_2023_names_flags_that_there_are():
    names = {one.name for one in fields(SftArguments)}
    names |= {alias for one in fields(SftArguments) for alias in one.metadata["aliases"]}
    told = re.findall(r"`--(\w+)`", section("What changed since 2023, and why"))
    assert told
    assert set(told) <= names


def test_the_page_of_models_lists_every_one():
    listed = [row for row in rows(MODELS, "") if row[0] not in ("model_type", "---")]
    there_are = [
        [named(one), one.id, one.revision or "", ", ".join(one.targets)]
        for one in MODEL_TYPES.values()
    ]
    assert listed == there_are


def named(one):
    return f"{one.name} (does not load today; take {one.today})" if one.own_code else one.name


@pytest.mark.parametrize("name", sample_names())
def test_the_page_of_data_names_every_sample(name):
    (row,) = rows(DATA, "`msagent-sample`")
    assert re.search(rf"\b{name.removesuffix('-sample')}\b", row[1])
