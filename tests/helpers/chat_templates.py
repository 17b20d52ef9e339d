"""The serving chat templates that TRL ships, each with a tokenizer that holds its markers."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import trl

from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_tokenizer

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(p.stem for p in TEMPLATES.glob("*.jinja") if not p.stem.endswith("_training"))
CONTROL = re.compile(
    r"<[|\uff5c][^<>\s]{1,40}?>|<[a-z_]{1,40}\|>|\[gMASK\]|\[/?INST\]|</s>"
    r"|</?(?:sop|bos|think|tool_call|tool_response|start_of_turn|end_of_turn|end_of_utterance)>"
)
"""Control tokens as the templates name them; each is a special token of the test's tokenizer."""


@cache
def renderer(name: str) -> Renderer:
    return Renderer(tokenizer(name))


@cache
def tokenizer(name: str) -> Any:
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    special = sorted(set(CONTROL.findall(template)) | {"<bos>"})
    made = tiny_tokenizer(special=special, eos="</s>", template=template)
    made.bos_token = "<bos>"
    return made
