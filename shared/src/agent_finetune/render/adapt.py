"""Find out what a chat template loses, and adapt it.

Sentinels for everything an agent's conversation holds are rendered through the template.
Whatever raises or vanishes gets a named adaptation; each is tried, and taken only when the
adapted template then renders what the original lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import RenderError
from agent_finetune.records import Message, ToolCall
from agent_finetune.render import folds as jinja
from agent_finetune.render import turns
from agent_finetune.render.folds import Folds
from agent_finetune.render.messages import Tools, as_dicts
from agent_finetune.render.sections import Openings, without_thought
from agent_finetune.render.template import (
    Stop,
    Template,
    borrowed_stop,
    control_tokens,
    find_stop,
)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptation:
    """What was done to a model's chat template, and the template that came of it."""

    names: tuple[str, ...]
    """Empty when the template is used as it is."""
    template: str
    """The one string to render with, here, in plain Transformers or in vLLM."""
    reasons: tuple[str, ...]
    """One line for each name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """An adaptation, and what the probe learned on the way."""

    adaptation: Adaptation
    text_stop: Stop
    call_stop: Stop
    header: str
    """What the template prints to ask for an assistant turn."""
    openings: Openings


def adapt(tokenizer: PreTrainedTokenizerBase) -> Probed:
    """Probe a tokenizer's chat template, and adapt it where it loses anything.

    A template that carries an adaptation already is taken as it is.

    Raises:
        RenderError: The template cannot even express a user's words, or no adaptation helps.
    """
    original = _own_template(tokenizer)
    extra: tuple[str, ...] = ()
    if original is None:
        original, extra = _chatml(tokenizer), ("chatml",)
    names = jinja.adaptation_names(original)
    source = original
    if not names:
        folds = _Chooser(tokenizer, original).choose()
        names = tuple(n for n in jinja.REASONS if n in (*extra, *jinja.names(folds)))
        source = jinja.adapted(original, folds, extra=extra)
    return _learn(Template(tokenizer, source), names)


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's template as one string, also where it has one for tools and one without."""
    template = tokenizer.chat_template
    if not isinstance(template, dict):
        return template or None
    if "default" not in template:
        found = ", ".join(sorted(template))
        raise RenderError(f"the tokenizer has chat templates {found}, and none called 'default'")
    if "tool_use" not in template:
        return str(template["default"])
    plain, tools = (template[key].removesuffix("\n") for key in ("default", "tool_use"))
    return f"{{% if tools %}}{{{{ '' }}}}{tools}{{% else %}}{{{{ '' }}}}{plain}{{% endif %}}"


def _chatml(tokenizer: PreTrainedTokenizerBase) -> str:
    """ChatML for a tokenizer without a template: no new token, and an end that generation obeys.

    An assistant turn ends with `<|im_end|>` where that is one special token of the vocabulary,
    else with the end-of-sequence token that the model already knows.
    """
    known = "<|im_end|>" in control_tokens(tokenizer) or tokenizer.eos_token is None
    end = (
        "<|im_end|>"
        if known
        else "{{ eos_token if message['role'] == 'assistant' else '<|im_end|>' }}"
    )
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("a").input_ids[:1] == [bos]
    return ("{{ bos_token }}" if begins else "") + jinja.CHATML.format(end=end)


class _Chooser:
    """Tries adaptations one concern after another; each keeps what was found before."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, original: str) -> None:
        self._tokenizer = tokenizer
        self._original = original
        self._folds = Folds()

    def choose(self) -> Folds:
        """The rewrites that this template needs."""
        self._take(self._keeps_words, [{}, {"parts": True}], "a user's and an assistant's words")
        self._take(self._keeps_system, [{}, {"system": True}], "a system message")
        self._take(self._keeps_users, [{}, {"merge": True}], "two user messages in a row")
        tools = [{}, {"json_arguments": True}, {"tools": True}]
        self._take(self._keeps_tools, tools, "tools, tool calls and results")
        self._take(self._keeps_calls, [{}, {"one_call": True}], "two calls in one turn")
        self._take(self._keeps_thinking, list(self._thinking_options()), "thinking")
        words: list[dict[str, Any]] = [{}, {"call_text": "thinking"}, {"call_text": "out"}]
        self._take(self._keeps_call_text, words, "words beside a call")
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
            return keeps(Template(self._tokenizer, jinja.adapted(self._original, folds)))
        except RenderError:
            return False

    def _keeps_words(self, template: Template) -> bool:
        return _in_order(_text(template, [USER, TEXT]), USER.text, TEXT.text) and _in_order(
            _text(template, [USER, TEXT, USER_2], prompt=True), USER.text, TEXT.text, USER_2.text
        )

    def _keeps_system(self, template: Template) -> bool:
        return _in_order(_text(template, [SYSTEM, USER], prompt=True), SYSTEM.text, USER.text)

    def _keeps_users(self, template: Template) -> bool:
        return _in_order(_text(template, [USER, USER_2], prompt=True), USER.text, USER_2.text)

    def _keeps_tools(self, template: Template) -> bool:
        """Tools are listed, and two rounds of call and result come out whole and in order."""
        offered = _text(template, [USER], tools=True, prompt=True)
        first = _said(template, [USER], CALL, tools=True)
        rounds = [USER, CALL, RESULT, AGAIN, RESULT_2]
        second = _said(template, rounds[:3], AGAIN, tools=True)
        both = _text(template, rounds, tools=True, prompt=True)
        last = _said(template, rounds, TEXT, tools=True)
        words = (*CALL_WORDS, RESULT.text, *CALL_2_WORDS, RESULT_2.text)
        return (
            all(word in offered for word in TOOL_WORDS)
            and _in_order(first, *CALL_WORDS)
            and _in_order(second, *CALL_2_WORDS)
            and _in_order(both[both.index(USER.text) :], *words)
            and TEXT.text in last
        )

    def _keeps_calls(self, template: Template) -> bool:
        words = (*CALL_WORDS, *CALL_2_WORDS)
        results = [USER, CALLS, RESULT, RESULT_2]
        served = _text(template, results, tools=True, prompt=True)
        served = served[served.index(USER.text) :]
        if self._folds.one_call or "one-call-per-turn" in jinja.adaptation_names(template.source):
            return _in_order(served, *CALL_WORDS, RESULT.text, *CALL_2_WORDS, RESULT_2.text)
        said = _said(template, [USER], CALLS, tools=True)
        return _in_order(said, *words) and _in_order(served, *words, RESULT.text, RESULT_2.text)

    def _thinking_options(self) -> Iterator[dict[str, Any]]:
        template = Template(self._tokenizer, jinja.adapted(self._original, self._folds))
        header = turns.header(template)
        yield {}
        if "</think>" in header:
            yield {"thinking": "out"}
        opened = "<think>" in header
        markups = [m for m in (self._call_markup(template), jinja.THINK) if m]
        for markup in markups:
            for thinking in ("text", "hidden"):
                for beside in ("native",) if markup != jinja.THINK else ("text", "native", "out"):
                    yield {
                        "thinking": thinking,
                        "call_thinking": beside,
                        "open_thinking": opened,
                        "markup": markup,
                    }

    def _call_markup(self, template: Template) -> tuple[str, str] | None:
        """The template's own thinking markup, where it prints thinking before calls only."""
        try:
            with_it = _said(template, [USER], THOUGHT_CALL, tools=True)
            without = _said(template, [USER], CALL, tools=True)
        except RenderError:
            return None
        opened, found, rest = with_it.partition("thinkingwords7k")
        if not found or not rest.endswith(without):
            return None
        return opened, rest.removesuffix(without)

    def _keeps_thinking(self, template: Template) -> bool:
        folds_out = "thinking-left-out" in jinja.adaptation_names(template.source)
        if folds_out:
            return True
        thought, words = "thinkingwords7k", TEXT.text
        plain = _said(template, [USER], TEXT)
        if "<think>" in turns.header(template) and "</think>" not in plain:
            return False
        beside = "call-thinking-left-out" in jinja.adaptation_names(template.source) or _in_order(
            _said(template, [USER], THOUGHT_CALL, tools=True), thought, *CALL_WORDS
        )
        return (
            beside
            and _in_order(_said(template, [USER], THOUGHT), thought, words)
            and _in_order(
                _said(template, [USER, CALL, RESULT], THOUGHT, tools=True), thought, words
            )
        )

    def _keeps_call_text(self, template: Template) -> bool:
        """Words beside a call are said in that turn, and stand before the result afterwards."""
        names = jinja.adaptation_names(template.source)
        if "call-text-left-out" in names:
            return True
        turn = TEXT_CALL
        if not {"thinking-left-out", "call-thinking-left-out"} & set(names):
            turn = FULL_CALL
        for said_turn in (TEXT_CALL, turn):
            said = _said(template, [USER], said_turn, tools=True)
            served = _text(template, [USER, said_turn, RESULT], tools=True, prompt=True)
            if TEXT.text not in said or not _in_order(served, TEXT.text, RESULT.text):
                return False
            if not _in_order(said, *CALL_WORDS) or (
                said_turn.thinking and not _in_order(said, said_turn.thinking, TEXT.text)
            ):
                return False
        return True


def _text(
    template: Template, messages: Sequence[Message], *, tools: bool = False, prompt: bool = False
) -> str:
    return template.text(as_dicts(messages), [TOOL] if tools else None, prompt=prompt)


def _said(
    template: Template, before: Sequence[Message], turn: Message, *, tools: bool = False
) -> str:
    """What the model has to say for a turn to come out; empty when its prompt is not there."""
    try:
        offered: Tools = [TOOL] if tools else None
        return turns.say(template, before, turn, offered, turns.header(template)).said
    except RenderError:
        return ""


def _in_order(text: str, *words: str) -> bool:
    place = 0
    for word in words:
        place = text.find(word, place)
        if place < 0:
            return False
        place += len(word)
    return True


def _learn(template: Template, names: tuple[str, ...]) -> Probed:
    """Learn from the finished template how turns begin and end."""
    controls = control_tokens(template.tokenizer)
    ended = _text(template, [USER, TEXT]).rpartition(TEXT.text)[2]
    followed = _text(template, [USER, TEXT, USER_2]).rpartition(TEXT.text)[2]
    text_stop = find_stop(ended, followed.partition(USER_2.text)[0], controls)
    if text_stop is None:
        eos = template.tokenizer.eos_token
        if eos is None:
            raise RenderError("nothing ends a turn: no stop in the template, no eos token")
        text_stop = Stop(text=str(eos), rendered=False)
        names = (*names, "stop-with-eos")
    call_stop = _call_stop(template, text_stop, controls)
    return Probed(
        adaptation=Adaptation(
            names=names,
            template=template.source,
            reasons=tuple(jinja.REASONS[name] for name in names),
        ),
        text_stop=text_stop,
        call_stop=call_stop,
        header=turns.header(template),
        openings=Openings(
            text=_opening(template, TEXT, TEXT.text),
            call=_opening(template, CALL, CALL_1.name),
        ),
    )


def _opening(template: Template, turn: Message, value: str) -> str:
    said = _said(template, [USER], turn, tools=bool(turn.tool_calls))
    return without_thought(said.partition(value)[0])


def _call_stop(template: Template, text_stop: Stop, controls: Sequence[str]) -> Stop:
    whole = _text(template, [USER, CALL], tools=True)
    last = max(CALL_WORDS, key=whole.rfind)
    ended = whole.rpartition(last)[2]
    later = _text(template, [USER, CALL, RESULT], tools=True, prompt=True)
    followed = later.partition(RESULT.text)[0].rpartition(last)[2]
    if not text_stop.rendered:
        return borrowed_stop(ended, followed, controls) or text_stop
    stop = find_stop(ended, followed, controls)
    # Where stops are plain words, what ends the arguments would pass for a part of them.
    return text_stop if stop is None or text_stop.text in stop.text else stop
