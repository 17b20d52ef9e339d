"""Cut a rendered conversation into what is served and what the model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent_finetune.errors import RenderError
from agent_finetune.records import Message, ToolCall
from agent_finetune.render.messages import Tools, as_dicts
from agent_finetune.render.template import Template, common_prefix

MARK = "\ue0f2"
"""A private-use character that no template prints by itself."""


_TAILS = (64, 48, 32, 24, 16, 8)
"""Characters of a prompt's end by which its place is found in another text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What the model is asked."""

    ids: tuple[int, ...]
    asking: str
    """What it ends with to ask for the assistant's turn; it may open thinking, or close it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One assistant turn as text."""

    served: str
    """The prompt, exactly as it is served."""
    said: str
    """What the template prints behind it for this turn, to the end of the conversation."""


def header(template: Template) -> str:
    """What the template prints to ask for an assistant turn; empty where it prints nothing."""
    asked = as_dicts([Message(role="user", text="hello")])
    bare = template.text(asked)
    served = template.text(asked, prompt=True)
    return served[len(common_prefix(bare, served)) :]


def asking(
    template: Template, messages: Sequence[Message], tools: Tools, served: str, usual: str
) -> str:
    """What a prompt ends with to ask for an assistant turn.

    Args:
        template: The template to render with.
        messages: Messages of the prompt.
        tools: Tools offered.
        served: The prompt.
        usual: The template's `header`.
    """
    if served.endswith(usual):
        return usual
    # Some ask otherwise behind a tool's result.
    bare = template.text(as_dicts(messages), tools)
    return served[len(common_prefix(bare, served)) :]


def say(
    template: Template,
    before: Sequence[Message],
    turn: Message,
    tools: Tools,
    asking: str,
) -> Said:
    """Cut the text of `[*before, turn]` at the point where the model begins to speak.

    Args:
        template: The template to render with.
        before: Messages of the prompt.
        turn: The assistant turn.
        tools: Tools offered.
        asking: The template's `header`.

    Raises:
        RenderError: The template refuses the messages, or does not let the turn be found.
    """
    served = template.text(as_dicts(before), tools, prompt=True)
    whole = template.text(as_dicts([*before, turn]), tools)
    if whole.startswith(served):
        rest = whole[len(served) :]
        # DiffusionGemma serves no header behind a tool's result, and prints one once the turn
        # is there; the model is not asked to say its own header.
        printed = asking if asking and not served.endswith(asking) else ""
        return Said(served=served, said=rest.removeprefix(printed))
    plain = as_dicts([*before, Message(role="assistant", text=MARK)])
    marked = template.text(plain, tools)
    # The prompt may end in more than a finished turn begins with: Nemotron serves "<think>\n"
    # and prints "<think></think>words". What differs is said behind the prompt as it is served.
    cut = len(common_prefix(served, marked))
    if len(served) - cut <= len(asking) and whole.startswith(marked[:cut]):
        return Said(served=served, said=whole[cut:])
    # The turn may change how earlier ones are printed: gpt-oss drops past thinking as soon as
    # there is a final answer, Mistral the system message when the user does not speak last. The
    # end of the prompt, found last before the turn's first words, still tells where it begins.
    shaped = template.text(as_dicts([*before, _shape(turn)]), tools)
    words = len(common_prefix(whole, shaped))
    for length in _TAILS:
        start = whole.rfind(served[-length:], 0, words)
        if start >= 0 and length >= len(asking):
            return Said(served=served, said=whole[start + len(served[-length:]) :])
    raise RenderError(
        f"the served prompt ends in {served[-60:]!r}, and the finished turn does not begin "
        f"there: {whole[cut : cut + 60]!r}"
    )


def _shape(turn: Message) -> Message:
    """The same kind of turn with other words."""
    return replace(
        turn,
        text=MARK if turn.text else "",
        thinking=MARK if turn.thinking else None,
        tool_calls=tuple(ToolCall(name=MARK, arguments={}, id=c.id) for c in turn.tool_calls),
    )
