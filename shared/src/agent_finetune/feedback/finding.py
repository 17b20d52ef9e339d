"""Finding the answer that feedback is about, and the exact prompt that it answered.

The thread says which conversation is meant; the engine's log, and after it the disk, say what the
model was really asked there. Where the two hold nothing, the prompt is what stands before the
answer in the thread. Nothing is guessed: two prompts that fit equally well are an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agent_finetune.contracts import Exchange
from agent_finetune.errors import DataError
from agent_finetune.feedback.shapes import PromptSource
from agent_finetune.feedback.words import answer_key, probe, prompt_key, quoted
from agent_finetune.records import Message

MIN_TURNS = 3


class Lookup(Protocol):
    """Where exchanges are found again: the engine's log and the recordings on disk."""

    def by_id(self, id: str) -> Exchange | None:
        """The exchange whose result has this id."""
        ...

    def by_text(self, text: str) -> Iterable[Exchange]:
        """Every exchange whose answer's text holds `text`, oldest first.

        Of the empty text, those whose answer has no text beside its calls. More than these does
        no harm: the caller compares.
        """
        ...


class Log:
    """An engine's recent exchanges, as a `Lookup`."""

    def __init__(self, exchanges: Sequence[Exchange] = ()) -> None:
        self.exchanges = tuple(exchanges)
        self._by_id = {exchange.result.id: exchange for exchange in self.exchanges}

    def by_id(self, id: str) -> Exchange | None:
        return self._by_id.get(id)

    def by_text(self, text: str) -> Iterable[Exchange]:
        for exchange in self.exchanges:
            said = exchange.result.message.text
            if text in said if text else not said.strip():
                yield exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An answer, and what it answered."""

    prompt: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    answer: Message
    """As the model said it, with its ids where they are known."""
    id: str
    where: PromptSource


class Finder:
    """Answers, looked for in the engine's log, then on disk, then in the thread.

    Args:
        log: The engine's recent exchanges, oldest first.
        thread: The conversation as its host holds it, system prompt included. Assistant turns
            with `trained` False were not said by the model, and are never meant.
        tools: Tools that were offered in the thread.
        more: Exchanges on disk.
        ignoring: Words that do not count where texts are compared.
    """

    def __init__(
        self,
        log: Sequence[Exchange] = (),
        thread: Sequence[Message] = (),
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        more: Lookup | None = None,
        ignoring: Sequence[str] = (),
    ) -> None:
        self._log = Log(log)
        self._places: list[tuple[PromptSource, Lookup]] = [("log", self._log)]
        if more is not None:
            self._places.append(("disk", more))
        self._thread = tuple(thread)
        self._tools = tuple(tools)
        self._ignoring = tuple(ignoring)

    def same(self, one: Message, other: Message) -> bool:
        """Whether two turns say the same, the ignored words left out."""
        return answer_key(one, self._ignoring) == answer_key(other, self._ignoring)

    def by_id(self, id: str) -> Found:
        """The generation of this id.

        Raises:
            DataError: There is none.
        """
        for where, place in self._places:
            if exchange := place.by_id(id):
                return _found(exchange, where)
        places = " or ".join(where for where, _ in self._places)
        raise DataError(f"no generation with the id {id!r} in the {places}")

    def by_turn(self, turn: int) -> Found:
        """The assistant turn at an index of the thread.

        Raises:
            DataError: There is no such turn, or it was not generated.
        """
        if not -len(self._thread) <= turn < len(self._thread):
            raise DataError(f"turn is {turn}; the thread has {len(self._thread)} turns")
        meant = self._thread[turn]
        if meant.role != "assistant" or not meant.trained:
            raise DataError(f"turn {turn} is of {meant.role!r}, and the model did not say it")
        return self._turn(turn % len(self._thread))

    def by_answer(self, answer: Message) -> Found | None:
        """The generation that said this; the last one, where the same prompt was answered twice.

        Raises:
            DataError: It was the answer to several different prompts.
        """
        turns = [i for i in self._generated() if self.same(self._thread[i], answer)]
        if len(turns) > 1:
            at = ", ".join(map(str, turns))
            raise DataError(
                f"{quoted(answer)} was said at the turns {at} of the thread; give an id or a turn"
            )
        if turns:
            return self._turn(turns[0])
        for where, place in self._places:
            if matches := self._matches(answer, where, place):
                return _only(matches)
        return None

    def last(self) -> Found:
        """The last answer of the thread, or of the log when there is no thread.

        Raises:
            DataError: There is none.
        """
        if turns := self._generated():
            return self._turn(turns[-1])
        if not self._thread and self._log.exchanges:
            return _found(self._log.exchanges[-1], "log")
        raise DataError("nothing was generated that this could be about")

    def exact(
        self, prompt: Sequence[Message], tools: Sequence[Mapping[str, Any]], answer: Message
    ) -> Message:
        """The answer with its ids, when it is in the log behind the same prompt."""
        if answer.generation or answer.role != "assistant" or not self._log.exchanges:
            return answer
        asked = prompt_key(prompt, tools)
        for exchange in self._log.by_text(answer.text.strip()):
            found = _found(exchange, "log")
            if answer_key(found.answer) == answer_key(answer) and _key(found) == asked:
                answer = replace(found.answer, trained=answer.trained)
        return answer

    def _generated(self) -> list[int]:
        turns = enumerate(self._thread)
        return [i for i, turn in turns if turn.role == "assistant" and turn.trained]

    def _matches(self, answer: Message, where: PromptSource, place: Lookup) -> list[Found]:
        exchanges = place.by_text(probe(answer.text, self._ignoring))
        return [_found(e, where) for e in exchanges if self.same(e.result.message, answer)]

    def _turn(self, index: int) -> Found:
        """A turn of the thread, with what the model was asked, as exactly as it is known."""
        answer, before = self._thread[index], self._thread[:index]
        for where, place in self._places:
            matches = self._matches(answer, where, place)
            if near := [m for m in matches if _alike(m.prompt, before)]:
                whole = [m for m in near if _spoken(m.prompt) == _spoken(before)]
                return _only(whole or near)
        if not before:
            raise DataError(f"turn {index} begins the thread; there is no prompt before it")
        return Found(prompt=before, tools=self._tools, answer=answer, id="", where="thread")


def _found(exchange: Exchange, where: PromptSource) -> Found:
    request = exchange.request
    return Found(
        prompt=tuple(request.messages),
        tools=() if request.tool_choice == "none" else tuple(request.tools),
        answer=exchange.result.message,
        id=exchange.result.id,
        where=where,
    )


def _key(found: Found) -> tuple[Any, ...]:
    return prompt_key(found.prompt, found.tools)


def _only(matches: Sequence[Found]) -> Found:
    prompts = {_key(match) for match in matches}
    if len(prompts) > 1:
        ids = ", ".join(match.id for match in matches[-4:])
        raise DataError(
            f"{quoted(matches[-1].answer)} answers {len(prompts)} different prompts "
            f"({matches[-1].where}: {ids}); give an id"
        )
    return matches[-1]


def _spoken(messages: Sequence[Message]) -> list[tuple[Any, ...]]:
    """What was said, without the system's words, which hosts keep elsewhere or rewrite."""
    return [answer_key(m)[1:] for m in messages if m.role != "system"]


def _alike(prompt: Sequence[Message], before: Sequence[Message]) -> bool:
    """Whether a prompt is the thread's, shortened at its beginning or with words added.

    Hosts shorten a long history and add memories to a turn. Fewer than `MIN_TURNS` turns of a
    longer thread are not enough to know it by: other conversations begin with the same words.
    """
    asked, heard = _spoken(prompt), _spoken(before)
    if not min(MIN_TURNS, len(heard)) <= len(asked) <= len(heard):
        return False
    kept = heard[len(heard) - len(asked) :]
    pairs = zip(asked, kept, strict=True)
    return all(a == b or (bool(b[0]) and b[0] in a[0] and a[1] == b[1]) for a, b in pairs)
