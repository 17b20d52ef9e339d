"""The 2023 text as ids: what is trained is what is served.

The prompt of a step is tokenized as one text, as a server does it, and what the model says stands
behind it. Where a step's prompt goes on from the ids so far, it shares their row, which is then the
whole text tokenized once. Where it does not, because a token would reach across the border between
what the model says and what it is given (the `:` of its header and the `<` of a call, say), the
step has a row of its own, with all before it as context. So no token that is trained holds a
character of a user's text or of an exec block, and none of a prompt can differ from the served one.

Of the header, which is trained though it is served, a token that begins in the user's text (`?` and
its line breaks are one in Llama-3 and Qwen) is the user's, and is not trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent_finetune.config import OverlongPolicy
from agent_finetune.errors import DataError, RenderError
from agent_finetune.records import Example, Message, Section, Tokens
from agent_finetune.render import FitResult
from agent_finetune.render import tokens as encoding
from agent_finetune.render.fit import fit
from agent_finetune.render.sections import Span, per_token
from agent_finetune.render.steps import Step, join, runs
from modelscope_agent_train.legacy import form
from modelscope_agent_train.legacy.form import END, EXEC, THINK, THINK_END, WRITTEN_END
from modelscope_agent_train.legacy.reading import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CALL = re.compile(rf"{re.escape(THINK)}.*?(?:{re.escape(THINK_END)}|$)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """What ends what the model says."""

    id: int
    """The tokenizer's end of sequence."""
    strings: tuple[str, ...]
    """Texts behind which, or before which, the host runs a tool and goes on."""
    ending: str
    """What stands behind a whole turn: `\\n\\n</s>`, and the end of sequence if that is not it."""


def stop(tokenizer: PreTrainedTokenizerBase) -> Stop:
    """How turns end with a tokenizer.

    Raises:
        RenderError: It has no end-of-sequence token, or its text is not that token.
    """
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    if eos is None or eos_id is None:
        raise RenderError("the tokenizer has no end-of-sequence token; nothing would end a turn")
    ending = END if eos == WRITTEN_END else END + eos
    found = encoding.prompt_ids(tokenizer, ending)
    if found[-1:] != (eos_id,) or found.count(eos_id) != 1:
        raise RenderError(
            f"the text {ending!r} has the ids {found!r}; it must end with one end of sequence, "
            f"{eos_id}"
        )
    return Stop(id=int(eos_id), strings=(THINK_END, EXEC), ending=ending)


def beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer puts before every text (a BOS, ChatGLM's prefix), as text; often nothing.

    Raises:
        RenderError: Its text is not those tokens.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    count = next((n for n in range(len(ids)) if ids[n : n + len(bare)] == bare), 0)
    text = encoding.decode(tokenizer, ids[:count]) if count else ""
    if encoding.prompt_ids(tokenizer, text) != tuple(ids[:count]):
        raise RenderError(
            f"the tokenizer begins texts with the ids {ids[:count]!r}, which no text stands for"
        )
    return text


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, step: int
) -> tuple[int, ...]:
    """The prompt of a step of `steps` as it is served: of the row that trains it, the beginning.

    Raises:
        IndexError: There is no such step.
    """
    speaker = Speaker(tokenizer)
    said = form.messages(conversation, speaker.ending)
    place = form.places(said, speaker.ending)[step]
    return speaker.served(said[:place]).ids


def rows(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    max_length: int,
    policy: OverlongPolicy,
) -> FitResult:
    """Rows of a conversation, none longer than `max_length` tokens, by the kernel's policies.

    `drop` leaves over-long rows out, `error` refuses them, `trim` takes the oldest turns away but
    keeps the system message with its plugins, and the question.

    Raises:
        DataError: Nothing is trained, or a row is too long and the policy is `error`.
        RenderError: The tokenizer cannot end a turn, or cannot say one.
    """
    example = Example(messages=tuple(form.messages(conversation)), source=conversation.source)
    return Speaker(tokenizer).fit(example, max_length, policy)


class Speaker:
    """Makes rows of conversations as raw messages (`form.messages`), in a `Renderer`'s place.

    Raises:
        RenderError: The tokenizer cannot end a turn, or begins texts in a way that has no text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.ending = stop(tokenizer).ending
        self._begins = beginning(tokenizer)

    def fit(self, example: Example, max_length: int, policy: OverlongPolicy) -> FitResult:
        """See `rows`."""
        said = example.messages
        ended = [
            replace(message, text=message.text.removesuffix(END) + self.ending)
            if message.role == "assistant" and (last or said[place + 1].role == "user")
            else message
            for place, message in enumerate(said)
            for last in (place + 1 == len(said),)
        ]
        return fit(self, replace(example, messages=tuple(ended)), max_length, policy)

    def said_messages(self, messages: Sequence[Message]) -> list[Message]:
        return list(messages)

    def rows(self, example: Example) -> tuple[Tokens, ...]:
        found = tuple(join(run, example.source) for run in runs(self.steps(example)))
        if not found:
            raise DataError(f"{example.source or 'conversation'}: nothing to train")
        return found

    def steps(self, example: Example) -> list[Step]:
        said = example.messages
        spoken = [p for p, message in enumerate(said) if message.role == "assistant"]
        served: dict[int, encoding.Encoded] = {}
        found = []
        for place, following in zip(spoken, [*spoken[1:], None], strict=True):
            if not said[place].trained:
                continue
            for prompt in (place, following):
                if prompt is not None and prompt not in served:
                    served[prompt] = self.served(said[:prompt])
            later = None if following is None else served[following]
            step = self._step(said[:place], said[place].text, served[place], later)
            if step.ids:
                found.append(step)
        return found

    def served(self, before: Sequence[Message]) -> encoding.Encoded:
        """What is shown before the model speaks behind these messages."""
        return encoding.encode(self._tokenizer, self._text(before))

    def _text(self, before: Sequence[Message]) -> str:
        return self._begins + form.shown(before) + form.header(before)

    def _step(
        self,
        before: Sequence[Message],
        text: str,
        served: encoding.Encoded,
        later: encoding.Encoded | None,
    ) -> Step:
        """One message with its header, behind the ids of what is only given.

        Args:
            before: Messages before it.
            text: What is said.
            served: The prompt, its header included.
            later: The prompt of the next step, whose ids the said ones should go on to.
        """
        shown = self._text(before)
        given = len(shown) - len(form.header(before))
        count = sum(start < given for start, _ in served.offsets)
        said = _between(served, later, len(shown), len(text)) or encoding.completion(
            self._tokenizer, shown, served.ids, text
        )
        sections, trained = per_token(said.offsets, self._spans(text), tuple(Section))
        heading = len(served.ids) - count
        first = sections[0] if sections else Section.FINAL_ANSWER
        return Step(
            place=len(before),
            prompt=served.ids[:count],
            ids=(*served.ids[count:], *said.ids),
            sections=(*(first,) * heading, *sections),
            trained=(*(True,) * heading, *trained),
        )

    def _spans(self, text: str) -> list[Span]:
        """Thinking blocks are calls; words beside them are text, others the answer."""
        stop = len(text) - len(self.ending) if text.endswith(self.ending) else len(text)
        words = Section.TEXT if THINK in text else Section.FINAL_ANSWER
        cuts = [(0, words)]
        for block in _CALL.finditer(text, 0, stop):
            cuts += [(block.start(), Section.TOOL_CALL), (block.end(), words)]
        cuts.append((stop, Section.STOP))
        ends = [start for start, _ in cuts[1:]] + [len(text)]
        return [
            Span(start=start, end=end, section=section)
            for (start, section), end in zip(cuts, ends, strict=True)
            if start < end
        ]


def _between(
    served: encoding.Encoded, later: encoding.Encoded | None, start: int, length: int
) -> encoding.Encoded | None:
    """What is said, out of the next prompt, where a token ends at both of its ends; else None.

    Args:
        served: The prompt of this step.
        later: The prompt of the next one.
        start: Characters of this prompt.
        length: Characters that are said.
    """
    count = len(served.ids)
    if later is None or later.ids[:count] != served.ids:
        return None
    rest = [
        (token, begin - start, end - start)
        for token, (begin, end) in zip(later.ids[count:], later.offsets[count:], strict=True)
        if begin < start + length
    ]
    if any(begin < 0 or end > length for _, begin, end in rest):
        return None
    return encoding.Encoded(
        ids=tuple(token for token, _, _ in rest),
        offsets=tuple((begin, end) for _, begin, end in rest),
    )
