"""Example to Tokens: what is trained is what is served."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune import toolcalls
from agent_finetune.config import OverlongPolicy
from agent_finetune.errors import DataError, RenderError
from agent_finetune.records import (
    Example,
    Message,
    PairTokens,
    Preference,
    Section,
    Tokens,
    Verdict,
    VerdictTokens,
)
from agent_finetune.render import origin, pairs, turns
from agent_finetune.render import sections as cutting
from agent_finetune.render import tokens as encoding
from agent_finetune.render.adapt import Adaptation, adapt, learn
from agent_finetune.render.fit import FitResult, fit
from agent_finetune.render.messages import Tools, as_dicts, one_call_per_turn, plain_tools
from agent_finetune.render.parser import Parser
from agent_finetune.render.steps import Step, join, runs
from agent_finetune.render.stream import TurnStream
from agent_finetune.render.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Renderer:
    """Renders conversations with one tokenizer's chat template, adapted where it loses things.

    Every row is the prompt's ids exactly as they are served at that step, followed by the ids
    that the model has to produce, its stop included.

    Args:
        tokenizer: A tokenizer of Transformers; it is not changed.
        sections: Parts of the model's turns that are trained.

    Raises:
        RenderError: No adaptation lets the template express a conversation.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sections: Collection[Section] = tuple(Section),
    ) -> None:
        self._tokenizer = tokenizer
        self._sections = frozenset(Section(section) for section in sections)
        self._probed = adapt(tokenizer)
        self._template = Template(tokenizer, self.adaptation.template)
        self._parser = Parser(tokenizer, self._probed, self.stop_ids)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that it was made with."""
        return self._tokenizer

    @property
    def adaptation(self) -> Adaptation:
        """What was done to the tokenizer's chat template, and the template that came of it."""
        return self._probed.adaptation

    @cached_property
    def digest(self) -> str:
        """Digest of tokenizer and adapted template: ids of one digest are ids of the other."""
        return origin.digest(self._tokenizer, self.adaptation.template)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end a served turn and are no single token."""
        return tuple(text for text in self._stops() if len(self._ids(text)) != 1)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a served turn; the end-of-sequence token is always among them."""
        ids = [self._ids(text)[0] for text in self._stops() if len(self._ids(text)) == 1]
        if self._tokenizer.eos_token_id is not None:
            ids.append(self._tokenizer.eos_token_id)
        return tuple(dict.fromkeys(ids))

    def thinking(self, wanted: bool | None) -> Renderer:
        """This renderer for prompts that ask for thinking, or ask for none; itself with None.

        The template is the same, with `enable_thinking` given to it; one that does not know that
        asks for what it always asks for.
        """
        if wanted is None or "enable_thinking" not in self._template.source:
            return self
        other = copy.copy(self)
        other._template = Template(self._tokenizer, self._template.source, thinking=wanted)
        other._probed = learn(other._template, self.adaptation.names)
        other._parser = Parser(self._tokenizer, other._probed, other.stop_ids)
        return other

    def prompt_text(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The prompt as text, exactly as it is served.

        Raises:
            RenderError: The template cannot express these messages.
        """
        return self._template.text(as_dicts(messages), plain_tools(tools), prompt=True)

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, ...]:
        """The prompt as ids, exactly as it is served, the assistant's header included.

        Raises:
            RenderError: The template cannot express these messages.
        """
        return encoding.prompt_ids(self._tokenizer, self.prompt_text(messages, tools))

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> turns.Prompt:
        """The prompt as ids, and how it asks for the assistant's turn.

        Raises:
            RenderError: The template cannot express these messages.
        """
        text = self.prompt_text(messages, tools)
        header, plain = self._probed.header, plain_tools(tools)
        return turns.Prompt(
            ids=encoding.prompt_ids(self._tokenizer, text),
            asking=turns.asking(self._template, messages, plain, text, header),
        )

    def rows(self, example: Example) -> tuple[Tokens, ...]:
        """Training rows of an example, oldest first; most have one.

        Turns share a row where each prompt begins with the ids of the row so far, as a cache at
        serving time would; a turn whose template rewrites its past begins a new row.

        Raises:
            RenderError: The template cannot express the example.
            DataError: No turn of it has a token to train.
        """
        rows = [join(run, example.source) for run in runs(self.steps(example))]
        if not rows:
            chosen = ", ".join(sorted(self._sections))
            raise DataError(
                f"{example.source or 'example'}: nothing to train: no assistant turn that is "
                f"trained has any of the sections {chosen}"
            )
        return tuple(rows)

    def fit(self, example: Example, max_length: int, policy: OverlongPolicy) -> FitResult:
        """Rows of an example, none longer than `max_length` tokens.

        See `agent_finetune.render.fit.fit` for what becomes of the others.

        Raises:
            RenderError: The template cannot express the example.
            DataError: Nothing to train, or a row is too long and the policy is `error`.
        """
        own = replace(example, messages=origin.own(example.messages, self.digest))
        return fit(self, own, max_length, policy)

    def pair(self, preference: Preference) -> PairTokens:
        """A preference as ids: the prompt as served, and all that the model says in each answer.

        Raises:
            RenderError: The template cannot express it.
            DataError: Both answers are the same, or stand behind different prompts.
        """
        chosen, rejected = origin.own((preference.chosen, preference.rejected), self.digest)
        own = replace(preference, chosen=chosen, rejected=rejected)
        return pairs.pair(own, self._as_asked(own)._answer, self._text)

    def verdict(self, verdict: Verdict) -> VerdictTokens:
        """A judged answer as ids: the prompt as served, and all that the model says.

        Raises:
            RenderError: The template cannot express it.
            DataError: It is no assistant turn, or holds no token.
        """
        (completion,) = origin.own((verdict.completion,), self.digest)
        return pairs.verdict(replace(verdict, completion=completion), self._answer)

    def parse(
        self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()
    ) -> toolcalls.ParsedTurn:
        """Turn generated ids into thinking, words and calls; never raises for what they say.

        Where the model's family has a response template and its chat template is used for tools
        as it is, calls are read in the family's form first. What that does not read is read as
        `toolcalls.parse` reads it.

        Args:
            ids: What was generated, with or without its stop.
            tools: Tools that were offered; XML-like formats need them to type the arguments.
        """
        return self._parser.parse(ids, tools)

    def open_turn(
        self,
        tools: Sequence[Mapping[str, Any]] = (),
        stop: Sequence[str] = (),
        *,
        calls: bool = True,
        asking: str | None = None,
    ) -> TurnStream:
        """Take a turn apart while it is generated; what comes out adds up to `parse`.

        Args:
            tools: Tools that were offered.
            stop: Strings that end the turn besides `stop_strings`.
            calls: False for an answer that is held to a schema: JSON that looks like a call is
                none then, but the answer.
            asking: How the prompt ends (`turns.Prompt`); None is as it does behind a user.
        """
        return self._parser.open(tools, stop, calls=calls, asking=asking)

    def said(self, turn: Message, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[str, str]:
        """What the model says for an assistant turn behind a user's, and the stop that ends it.

        Raises:
            RenderError: The template cannot express the turn.
        """
        before = [Message(role="user", text="hello")]
        offered = plain_tools(tools)
        said = turns.say(self._template, before, turn, offered, self._probed.header).said
        text, stop = self._ended(said, turn)
        return text[:stop], text[stop:]

    def steps(self, example: Example) -> list[Step]:
        """The trained assistant turns of an example, each with its own prompt."""
        messages = self.said_messages(example.messages)
        tools = plain_tools(example.tools)
        steps = []
        for place, message in enumerate(messages):
            if message.role != "assistant" or not message.trained:
                continue
            try:
                step = self._step(messages[:place], message, tools)
            except RenderError as error:
                where = f"{example.source or 'example'}: message {place + 1}"
                raise RenderError(f"{where}: {error}") from error
            if any(step.trained):
                steps.append(step)
        return steps

    def said_messages(self, messages: Sequence[Message]) -> list[Message]:
        """Messages as the adapted template says them: several calls one after another."""
        own = origin.own(messages, self.digest)
        if "one-call-per-turn" in self.adaptation.names:
            return one_call_per_turn(own)
        return list(own)

    def save(self, folder: Path) -> None:
        """Write the tokenizer with the adapted chat template into a folder."""
        saved = copy.copy(self._tokenizer)
        saved.chat_template = self.adaptation.template
        saved.save_pretrained(folder)

    def _answer(
        self, prompt: Sequence[Message], turn: Message, tools: Sequence[Mapping[str, Any]]
    ) -> Step:
        return self._step(self.said_messages(prompt), turn, plain_tools(tools))

    def _as_asked(self, preference: Preference) -> Renderer:
        """This renderer, asking for thinking or for none as the recorded answer was asked."""
        recorded = preference.rejected.generation or preference.chosen.generation
        if recorded is None:
            return self
        asked, said = self._text(recorded.prompt_ids), self.said_messages(preference.prompt)
        for renderer in (self, self.thinking(False), self.thinking(True)):
            if renderer.prompt_text(said, preference.tools) == asked:
                return renderer
        return self

    def _text(self, ids: Sequence[int]) -> str:
        return encoding.decode(self._tokenizer, ids)

    def _step(self, before: Sequence[Message], turn: Message, tools: Tools) -> Step:
        if turn.generation:
            return self._recorded(turn, len(before))
        said = turns.say(self._template, before, turn, tools, self._probed.header)
        text, stop = self._ended(said.said, turn)
        shown = self._shown(turn)

        def resay(variant: Message) -> str:
            return turns.say(self._template, before, variant, tools, self._probed.header).said

        spans = cutting.spans(shown, text, stop, self._probed.openings, resay)
        prompt = encoding.prompt_ids(self._tokenizer, said.served)
        encoded = encoding.completion(self._tokenizer, said.served, prompt, text)
        labels, trained = cutting.per_token(encoded.offsets, spans, self._sections)
        return Step(
            place=len(before),
            prompt=prompt,
            ids=encoded.ids,
            sections=tuple(labels),
            trained=tuple(trained),
        )

    def _recorded(self, turn: Message, place: int) -> Step:
        """A turn that this model produced: its own ids, whatever its text would tokenize to."""
        assert turn.generation is not None
        ids = turn.generation.ids
        text = encoding.decode(self._tokenizer, ids)
        ended = bool(ids) and ids[-1] in self.stop_ids
        stop = len(encoding.decode(self._tokenizer, ids[:-1])) if ended else len(text)
        shown = replace(turn, generation=None)
        try:
            spans = cutting.spans(shown, text, stop, self._probed.openings, lambda variant: "")
        except RenderError:
            # The record's text is not what was generated, word for word; its kind still is.
            kind = Section.TOOL_CALL if turn.tool_calls else Section.FINAL_ANSWER
            spans = [cutting.Span(start=0, end=stop, section=kind)]
            spans.append(cutting.Span(start=stop, end=len(text), section=Section.STOP))
        offsets = encoding.decoded_offsets(self._tokenizer, ids)
        labels, trained = cutting.per_token(offsets, spans, self._sections)
        return Step(
            place=place,
            prompt=turn.generation.prompt_ids,
            ids=ids,
            sections=tuple(labels),
            trained=tuple(trained),
        )

    def _ended(self, said: str, turn: Message) -> tuple[str, int]:
        """What the model says up to its stop, and where the stop begins.

        Template text behind the stop belongs to the next prompt.
        """
        if len(turn.tool_calls) > 1 and "one-call-per-turn" in self.adaptation.names:
            raise RenderError(
                f"{len(turn.tool_calls)} calls in one turn, and no results to say them one "
                "after another; this template can say one call a turn"
            )
        stop = self._probed.call_stop if turn.tool_calls else self._probed.text_stop
        if not stop.rendered:
            said = said.removesuffix(stop.instead)
            return said + stop.text, len(said)
        place = said.rfind(stop.text)
        if place < 0:
            raise RenderError(f"the turn does not end with {stop.text!r}: {said[-60:]!r}")
        return said[: place + len(stop.text)], place

    def _shown(self, turn: Message) -> Message:
        """The turn as the adapted template prints it: without what was left out."""
        names = self.adaptation.names
        if "thinking-left-out" in names or (turn.tool_calls and "call-thinking-left-out" in names):
            turn = replace(turn, thinking=None)
        if turn.tool_calls and "call-text-left-out" in names:
            turn = replace(turn, text="")
        if turn.tool_calls and turn.text and "call-text-as-thinking" in names:
            thought = "\n\n".join(filter(None, (turn.thinking, turn.text)))
            turn = replace(turn, thinking=thought, text="")
        return turn

    def _stops(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self._probed.text_stop.text, self._probed.call_stop.text)))

    def _ids(self, text: str) -> tuple[int, ...]:
        return encoding.prompt_ids(self._tokenizer, text)
