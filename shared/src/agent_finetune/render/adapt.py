"""Find out what a chat template loses, and adapt it.

Sentinels for everything an agent's conversation holds are rendered through the template.
Whatever raises or vanishes gets a named adaptation; each is tried, and taken only when the
adapted template then renders what the original lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_finetune.errors import RenderError
from agent_finetune.records import Message
from agent_finetune.render import probe, turns
from agent_finetune.render.folds import REASONS, names
from agent_finetune.render.preamble import CHATML, adaptation_names, adapted
from agent_finetune.render.probe import CALL, CALL_1, CALL_WORDS, RESULT, TEXT, USER, USER_2
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
    made = adaptation_names(original)
    source = original
    if not made:
        folds = probe.choose(tokenizer, original)
        made = (*extra, *names(folds))
        source = adapted(original, folds, extra=extra)
    return learn(Template(tokenizer, source), made)


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
    return ("{{ bos_token }}" if begins else "") + CHATML.format(end=end)


def learn(template: Template, made: tuple[str, ...]) -> Probed:
    """Learn from the finished template how turns begin and end.

    Args:
        template: The adapted one.
        made: Names of its adaptations.
    """
    controls = control_tokens(template.tokenizer)
    ended = probe.shown(template, [USER, TEXT]).rpartition(TEXT.text)[2]
    followed = probe.shown(template, [USER, TEXT, USER_2]).rpartition(TEXT.text)[2]
    text_stop = find_stop(ended, followed.partition(USER_2.text)[0], controls)
    if text_stop is None:
        eos = template.tokenizer.eos_token
        if eos is None:
            raise RenderError("nothing ends a turn: no stop in the template, no eos token")
        text_stop = Stop(text=str(eos), rendered=False, instead=ended)
        made = (*made, "stop-with-eos")
    call_stop = _call_stop(template, text_stop, controls)
    return Probed(
        adaptation=Adaptation(
            names=made,
            template=template.source,
            reasons=tuple(REASONS[name] for name in made),
        ),
        text_stop=text_stop,
        call_stop=call_stop,
        header=turns.header(template),
        openings=Openings(
            text=_opening(template, TEXT, TEXT.text),
            call=_opening(template, CALL, CALL_1.name),
            closing=ended.partition(text_stop.text)[0] if text_stop.rendered else "",
        ),
    )


def _opening(template: Template, turn: Message, value: str) -> str:
    said = probe.say(template, [USER], turn, tools=bool(turn.tool_calls))
    return without_thought(said.partition(value)[0])


def _call_stop(template: Template, text_stop: Stop, controls: Sequence[str]) -> Stop:
    whole = probe.shown(template, [USER, CALL], tools=True)
    last = max(CALL_WORDS, key=whole.rfind)
    ended = whole.rpartition(last)[2]
    later = probe.shown(template, [USER, CALL, RESULT], tools=True, prompt=True)
    followed = later.partition(RESULT.text)[0].rpartition(last)[2]
    if not text_stop.rendered:
        return borrowed_stop(ended, followed, controls) or text_stop
    stop = find_stop(ended, followed, controls)
    # Where stops are plain words, what ends the arguments would pass for a part of them.
    return text_stop if stop is None or text_stop.text in stop.text else stop
