"""Agents of three roles on a script, their tools, and how they are talked to."""

from __future__ import annotations

import json
from pathlib import Path

from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.tool import FunctionTool, Toolkit
from agentscope_models import Answer, scripted_model

from agent_finetune.roles.prompts import ROLES, SYSTEM
from agentscope_finetune.multi_role import MultiRoleAgent

ALLOWED = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="fine")
ASK = PermissionDecision(behavior=PermissionBehavior.ASK, message="may I?")
CALL, CONCLUDE, GIVE_UP = "Next: caller.", "Next: conclusion.", "Next: give up."


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    if a == 13:
        raise ValueError("13 is not a number I like")
    return a + b


def adder(permission: PermissionDecision = ALLOWED) -> Toolkit:
    return Toolkit(tools=[FunctionTool(add, permission=permission)])


def call(a: int = 2, b: int = 3, name: str = "add") -> str:
    """A call as the tiny tokenizer's template has it."""
    text = json.dumps({"name": name, "arguments": {"a": a, "b": b}})
    return f"<tool_call>\n{text}\n</tool_call>"


def team(*answers: Answer, stream: bool = True, **options) -> MultiRoleAgent:
    """An agent whose roles say what the test wrote, in the order in which they are asked."""
    options.setdefault("toolkit", adder())
    model = scripted_model(*answers, stream=stream)
    return MultiRoleAgent("Friday", "You add.", model, **options)


def asked_roles(agent: MultiRoleAgent) -> list[str]:
    """Who was asked, by what each was told first."""
    told = {SYSTEM[part]: part.value for part in ROLES}
    firsts = [request.messages[0].text for request in agent.model.engine.requests]
    return [next(told[words] for words in told if text.startswith(words)) for text in firsts]


def said(agent: MultiRoleAgent) -> list[tuple[str, str]]:
    """The conversation as speakers and words; of a call its input, of a result its output."""
    words = []
    for message in agent.conversation():
        for block in message.content:
            if block.type == "tool_result":
                output = block.output
                text = output if isinstance(output, str) else "".join(b.text for b in output)
                words.append((f"{message.name}'s {block.name}", text))
            else:
                words.append(
                    (message.name, block.input if block.type == "tool_call" else block.text)
                )
    return words


def adapter_folders(folder: Path) -> dict[str, Path]:
    """Three folders that look like adapters, for engines that do not open them."""
    made = {}
    for part in ROLES:
        made[part.value] = folder / part / "adapter"
        made[part.value].mkdir(parents=True)
        (made[part.value] / "adapter_config.json").write_text("{}")
    return made


def write_manifest(folder: Path, model: Path | str = "some/model", **changes) -> Path:
    """roles.json as `agent-finetune roles train` writes it."""
    manifest = {
        "version": 1,
        "layout": "roles",
        "method": "lora",
        "stage_one": True,
        "model": {"model": str(model)} | changes.pop("held", {}),
        "parts": {part.value: f"{part}/adapter" for part in ROLES},
    }
    (folder / "roles.json").write_text(json.dumps(manifest | changes))
    return folder
