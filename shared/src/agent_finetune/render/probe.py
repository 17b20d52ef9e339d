"""Which rewrites a chat template needs, found by sentinels.

A sentinel stands for each thing that an agent's conversation holds: the system message, a tool,
a call, its result, thinking, words. What does not come out of the template, or not in order, is
lost; the first rewrite that brings it through is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import RenderError
from agent_finetune.records import Message, ToolCall
from agent_finetune.render import turns
from agent_finetune.render.folds import THINK, Folds
from agent_finetune.render.messages import Tools, as_dicts
from agent_finetune.render.preamble import adaptation_names, adapted
from agent_finetune.render.sandbox import CutOffError
from agent_finetune.render.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOOL: dict[Any, Any] = {
    "type": "function",
    "function": {
        "name": "toolname7k",
        "description": "tooldescription7k",
        "parameters": {
            "type": "object",
            "properties": {"toolparam7k": {"type": "string", "description": "paramtext7k"}},
            "required": ["toolparam7k"],
        },
    },
}
SYSTEM = Message(role="system", text="systemwords7k")
USER = Message(role="user", text="userwords7k")
USER_2 = Message(role="user", text="moreuserwords7k")
TEXT = Message(role="assistant", text="textwords7k")
THOUGHT = Message(role="assistant", text="textwords7k", thinking="thinkingwords7k")
CALL_1 = ToolCall(name="toolname7k", arguments={"argkey7k": "argvalue7k"}, id="callid07k")
CALL_2 = ToolCall(name="secondname7k", arguments={"secondkey7k": "secondvalue7k"}, id="callid27k")
CALL = Message(role="assistant", tool_calls=(CALL_1,))
AGAIN = Message(role="assistant", tool_calls=(CALL_2,))
CALLS = Message(role="assistant", tool_calls=(CALL_1, CALL_2))
TEXT_CALL = replace(CALL, text="textwords7k")
THOUGHT_CALL = replace(CALL, thinking="thinkingwords7k")
FULL_CALL = replace(CALL, text="textwords7k", thinking="thinkingwords7k")
RESULT = Message(role="tool", text="resultwords7k", tool_call_id="callid07k")
RESULT_2 = Message(role="tool", text="secondresult7k", tool_call_id="callid27k")

CALL_WORDS = ("toolname7k", "argkey7k", "argvalue7k")
CALL_2_WORDS = ("secondname7k", "secondkey7k", "secondvalue7k")
TOOL_WORDS = ("toolname7k", "tooldescription7k", "toolparam7k")


def choose(tokenizer: PreTrainedTokenizerBase, original: str) -> Folds:
    """The rewrites that a template needs; none where it keeps everything.

    Raises:
        RenderError: It loses even a user's and an assistant's plain words.
    """
    return _Chooser(tokenizer, original).choose()


class _Chooser:
    """Tries adaptations one concern after another; each keeps what was found before."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, original: str) -> None:
        self._tokenizer = tokenizer
        self._original = original
        self._folds = Folds()

    def choose(self) -> Folds:
        """The rewrites that this template needs."""
        self._take(_keeps_words, [{}, {"parts": True}], "a user's and an assistant's words")
        self._take(_keeps_system, [{}, {"system": True}], "a system message")
        self._take(_keeps_users, [{}, {"merge": True}], "two user messages in a row")
        tools = [{}, {"json_arguments": True}, {"tools": True}]
        self._take(_keeps_tools, tools, "tools, tool calls and results")
        calls = [{}, {"one_call": True}, {"tools": True, "json_arguments": False}]
        self._take(_keeps_calls, calls, "two calls in one turn")
        self._take(_keeps_thinking, list(self._thinking_options()), "thinking")
        words: list[dict[str, Any]] = [{}, {"call_text": "thinking"}, {"call_text": "out"}]
        self._take(_keeps_call_text, words, "words beside a call")
        return self._folds

    def _take(
        self,
        keeps: Callable[[Template], bool],
        options: Sequence[dict[str, Any]],
        what: str,
    ) -> None:
        for option in options:
            folds = replace(self._folds, **option)
            if self._holds(keeps, folds):
                self._folds = folds
                return
        raise RenderError(f"the chat template loses {what}, and no adaptation of it helps")

    def _holds(self, keeps: Callable[[Template], bool], folds: Folds) -> bool:
        try:
            return keeps(Template(self._tokenizer, adapted(self._original, folds)))
        except CutOffError:  # no rewrite helps, and each may take as long
            raise
        except RenderError:
            return False

    def _thinking_options(self) -> Iterator[dict[str, Any]]:
        template = Template(self._tokenizer, adapted(self._original, self._folds))
        header = turns.header(template)
        yield {}
        if "</think>" in header:
            yield {"thinking": "out"}
        opened = "<think>" in header
        markups = [m for m in (_call_markup(template), THINK) if m]
        for markup in markups:
            for thinking in ("text", "hidden"):
                for beside in ("native",) if markup != THINK else ("text", "native", "out"):
                    yield {
                        "thinking": thinking,
                        "call_thinking": beside,
                        "open_thinking": opened,
                        "markup": markup,
                    }
        yield {"thinking": "out"}


def _call_markup(template: Template) -> tuple[str, str] | None:
    """The template's own thinking markup, where it prints thinking before calls only."""
    with_it = say(template, [USER], THOUGHT_CALL, tools=True)
    without = say(template, [USER], CALL, tools=True)
    opened, found, rest = with_it.partition("thinkingwords7k")
    if not found or not rest.endswith(without):
        return None
    return opened, rest.removesuffix(without)


def _keeps_words(template: Template) -> bool:
    return in_order(shown(template, [USER, TEXT]), USER.text, TEXT.text) and in_order(
        shown(template, [USER, TEXT, USER_2], prompt=True), USER.text, TEXT.text, USER_2.text
    )


def _keeps_system(template: Template) -> bool:
    return in_order(shown(template, [SYSTEM, USER], prompt=True), SYSTEM.text, USER.text)


def _keeps_users(template: Template) -> bool:
    return in_order(shown(template, [USER, USER_2], prompt=True), USER.text, USER_2.text)


def _keeps_tools(template: Template) -> bool:
    """Tools are listed, and two rounds of call and result come out whole and in order."""
    offered = shown(template, [USER], tools=True, prompt=True)
    first = say(template, [USER], CALL, tools=True)
    rounds = [USER, CALL, RESULT, AGAIN, RESULT_2]
    second = say(template, rounds[:3], AGAIN, tools=True)
    both = shown(template, rounds, tools=True, prompt=True)
    last = say(template, rounds, TEXT, tools=True)
    words = (*CALL_WORDS, RESULT.text, *CALL_2_WORDS, RESULT_2.text)
    return (
        all(word in offered for word in TOOL_WORDS)
        and in_order(first, *CALL_WORDS)
        and in_order(second, *CALL_2_WORDS)
        and in_order(both.partition(USER.text)[2], *words)
        and TEXT.text in last
    )


def _keeps_calls(template: Template) -> bool:
    words = (*CALL_WORDS, *CALL_2_WORDS)
    results = [USER, CALLS, RESULT, RESULT_2]
    served = shown(template, results, tools=True, prompt=True)
    served = served.partition(USER.text)[2]
    if "one-call-per-turn" in adaptation_names(template.source):
        return in_order(served, *CALL_WORDS, RESULT.text, *CALL_2_WORDS, RESULT_2.text)
    said = say(template, [USER], CALLS, tools=True)
    return in_order(said, *words) and in_order(served, *words, RESULT.text, RESULT_2.text)


def _keeps_thinking(template: Template) -> bool:
    names = adaptation_names(template.source)
    if "thinking-left-out" in names:
        return True
    thought, words = "thinkingwords7k", TEXT.text
    plain = say(template, [USER], TEXT)
    if "<think>" in turns.header(template) and "</think>" not in plain:
        return False
    beside = "call-thinking-left-out" in names or in_order(
        say(template, [USER], THOUGHT_CALL, tools=True), thought, *CALL_WORDS
    )
    return (
        beside
        and in_order(say(template, [USER], THOUGHT), thought, words)
        and in_order(say(template, [USER, CALL, RESULT], THOUGHT, tools=True), thought, words)
    )


def _keeps_call_text(template: Template) -> bool:
    """Words beside a call are said in that turn, and stand before the result afterwards."""
    names = adaptation_names(template.source)
    if "call-text-left-out" in names:
        return True
    turn = TEXT_CALL
    if not {"thinking-left-out", "call-thinking-left-out"} & set(names):
        turn = FULL_CALL
    for said_turn in (TEXT_CALL, turn):
        said = say(template, [USER], said_turn, tools=True)
        served = shown(template, [USER, said_turn, RESULT], tools=True, prompt=True)
        if TEXT.text not in said or not in_order(served, TEXT.text, RESULT.text):
            return False
        if not in_order(said, *CALL_WORDS) or (
            said_turn.thinking and not in_order(said, said_turn.thinking, TEXT.text)
        ):
            return False
    return True


def shown(
    template: Template, messages: Sequence[Message], *, tools: bool = False, prompt: bool = False
) -> str:
    """A conversation as the template prints it.

    Raises:
        RenderError: The template refuses it.
    """
    return template.text(as_dicts(messages), [TOOL] if tools else None, prompt=prompt)


def say(
    template: Template, before: Sequence[Message], turn: Message, *, tools: bool = False
) -> str:
    """What the model has to say for a turn to come out; empty when its prompt is not there."""
    try:
        offered: Tools = [TOOL] if tools else None
        return turns.say(template, before, turn, offered, turns.header(template)).said
    except CutOffError:
        raise
    except RenderError:
        return ""


def in_order(text: str, *words: str) -> bool:
    """Whether all words are in the text, each behind the one before it."""
    place = 0
    for word in words:
        place = text.find(word, place)
        if place < 0:
            return False
        place += len(word)
    return True
