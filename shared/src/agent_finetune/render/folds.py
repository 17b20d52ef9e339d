"""The adaptations that there are: their settings, names and reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

THINK = ("<think>\n", "\n</think>\n\n")
"""What opens and closes a thinking block, unless a model has its own markup."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """Which rewrites a template needs; all off is the template as it is."""

    parts: bool = False
    """Message content as a list of text parts, as templates of vision models read it."""
    system: bool = False
    """The system message becomes the beginning of the first user message."""
    merge: bool = False
    """Neighbouring user messages become one."""
    tools: bool = False
    """Tools, calls and results as text."""
    json_arguments: bool = False
    """Arguments of a call as a JSON string."""
    one_call: bool = False
    """Several calls of one turn become several turns, each followed by its result."""
    thinking: Literal["native", "text", "hidden", "out"] = "native"
    """`hidden` writes it past a template that cuts thinking out of content, in the last turn
    only: what such a template does to earlier turns is the model's design."""
    call_thinking: Literal["native", "text", "out"] = "native"
    """The same for turns that call a tool, when these differ."""
    open_thinking: bool = False
    """The generation prompt opens a thinking block, so that every turn must close it."""
    markup: tuple[str, str] = field(default=THINK)
    """What opens and closes a thinking block."""
    call_text: Literal["native", "thinking", "out"] = "native"
    """Words beside a call."""


REASONS = {
    "chatml": "the tokenizer has no chat template",
    "content-as-parts": "the template reads message content as a list of parts",
    "system-as-user": "the template has no place for a system message",
    "merge-user-turns": "the template refuses two user turns in a row",
    "tools-as-text": "the template loses tools, tool calls or tool results",
    "arguments-as-json": "the template reads arguments as a JSON string",
    "one-call-per-turn": "the template can say one call a turn",
    "thinking-as-text": "the template loses the thinking of the turn that is being said",
    "thinking-left-out": "the served prompt closes the thinking block, or has no place for one",
    "call-thinking-left-out": "the template has no place for thinking before a call",
    "call-text-as-thinking": "the template loses words beside a call, and keeps thinking there",
    "call-text-left-out": "the template has no place for words beside a call",
    "stop-with-eos": "the template ends an assistant turn with nothing that could stop it",
}
"""Name of every adaptation, and why it is made."""


def names(folds: Folds) -> tuple[str, ...]:
    """Names of the adaptations that `folds` makes, in the order of `REASONS`."""
    made = {
        "content-as-parts": folds.parts,
        "system-as-user": folds.system,
        "merge-user-turns": folds.merge,
        "tools-as-text": folds.tools,
        "arguments-as-json": folds.json_arguments,
        "one-call-per-turn": folds.one_call,
        "thinking-as-text": folds.thinking in ("text", "hidden"),
        "thinking-left-out": folds.thinking == "out",
        "call-thinking-left-out": folds.call_thinking == "out" and folds.thinking != "out",
        "call-text-as-thinking": folds.call_text == "thinking",
        "call-text-left-out": folds.call_text == "out",
    }
    return tuple(name for name in REASONS if made.get(name))
