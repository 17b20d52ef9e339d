"""From feedback to records: each shape put to the answer it judges, and to what was asked there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from agent_finetune.config import BadRowPolicy
from agent_finetune.contracts import Exchange
from agent_finetune.errors import DataError
from agent_finetune.feedback.finding import Finder, Lookup
from agent_finetune.feedback.placing import Placed, place
from agent_finetune.feedback.shapes import (
    About,
    Demonstration,
    Learning,
    Pair,
    PromptSource,
    Reward,
    Shape,
    Thumb,
)
from agent_finetune.feedback.traces import Turns, context, part, steps
from agent_finetune.feedback.words import answer_key, prompt_key, says
from agent_finetune.records import BadRow, Example, Message, Preference, Verdict


def align(
    shapes: Sequence[Shape | BadRow],
    log: Sequence[Exchange] = (),
    thread: Sequence[Message] = (),
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    more: Lookup | None = None,
    ignoring: Sequence[str] = (),
    threshold: float | None = None,
    on_bad: BadRowPolicy = "stop",
) -> Learning:
    """Put feedback to the answers it judges, as records that can be trained on.

    An item's prompt is its own, or that of the generation it names by id, or by turn, or whose
    words are its rejected answer, or else its chosen one. A single item without any of these is
    about the last answer. Prompts are looked for in the log, then on disk, then in the thread.

    Args:
        shapes: What `read_feedback` gave; bad rows are passed on to `dropped`.
        log: The engine's recent exchanges, oldest first, of the agent that feedback is about.
        thread: The conversation as its host holds it, with the system prompt; assistant turns
            that the model did not say have `trained` False.
        tools: Tools that were offered in the thread.
        more: Exchanges on disk.
        ignoring: Words that a host takes out of texts ("TERMINATE"); they do not count where
            texts are compared.
        threshold: Least reward of a good answer. It is used where a prompt has only one rewarded
            answer; several answers are ranked, the best against each worse one.
        on_bad: stop raises at the first item that cannot be used, skip drops it.

    Raises:
        DataError: An item's answer cannot be found or could be several, chosen is rejected, or a
            trace cannot be cut; the item's index is named.
    """
    finder = Finder(log, thread, tools=tools, more=more, ignoring=ignoring)
    aligner = _Aligner(finder, ignoring, threshold)
    rewarded: list[tuple[Reward, Placed]] = []
    for shape in shapes:
        if isinstance(shape, BadRow):
            aligner.dropped.append(shape)
            continue
        try:
            placed = place(shape, finder, alone=len(shapes) == 1)
            if isinstance(shape, Reward):
                rewarded.append((shape, placed))
            else:
                aligner.add(shape, placed)
        except DataError as error:
            aligner.refuse(shape.about, str(error), on_bad)
    for group in _by_prompt(rewarded):
        aligner.rank(group, on_bad)
    return aligner.learning()


@dataclass(slots=True)
class _Aligner:
    """Collects records while items are put to their answers, one after the other."""

    finder: Finder
    ignoring: Sequence[str]
    threshold: float | None
    preferences: list[Preference] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    demonstrations: list[Example] = field(default_factory=list)
    dropped: list[BadRow] = field(default_factory=list)
    dropped_turns: int = 0
    sources: Counter[PromptSource] = field(default_factory=Counter)

    def learning(self) -> Learning:
        return Learning(
            preferences=tuple(self.preferences),
            verdicts=tuple(self.verdicts),
            demonstrations=tuple(self.demonstrations),
            dropped=tuple(self.dropped),
            dropped_turns=self.dropped_turns,
            prompt_source=dict(self.sources),
        )

    def refuse(self, about: About, reason: str, on_bad: BadRowPolicy = "skip") -> None:
        if on_bad == "stop":
            raise DataError(f"{about.source}: {reason}")
        self.dropped.append(BadRow(source=about.source, reason=reason))

    def add(self, shape: Pair | Thumb | Demonstration, placed: Placed) -> None:
        """Make the records of an item.

        Raises:
            DataError: Its answers are the same, or its trace cannot be cut.
        """
        if isinstance(shape, Pair):
            self._prefer(shape.about, placed)
        elif isinstance(shape, Thumb):
            self._judge(shape.about, shape.good, placed)
        else:
            self._show(shape.about, context(placed.prompt), placed.answer, placed)
        self.sources[placed.where] += 1

    def rank(self, group: Sequence[tuple[Reward, Placed]], on_bad: BadRowPolicy) -> None:
        """The best of the rewarded answers to a prompt, against each that is worse.

        Where none is worse, each answer is good or bad by the threshold.
        """
        best, best_placed = max(group, key=lambda rewarded: rewarded[0].value)
        if all(reward.value == best.value or _same(p, best_placed) for reward, p in group):
            for reward, placed in group:
                self._by_threshold(reward, placed, on_bad)
            return
        self.sources[best_placed.where] += 1
        for reward, placed in group:
            if reward is best:
                continue
            if reward.value == best.value:
                self.refuse(reward.about, "is rewarded as much as the best answer to its prompt")
            elif _same(placed, best_placed):
                self.refuse(reward.about, "says what the best answer to its prompt says")
            else:
                pair = replace(placed, answer=best_placed.answer, rejected=placed.answer)
                self._try(Pair(about=reward.about, chosen=(), rejected=()), pair, on_bad)

    def _by_threshold(self, reward: Reward, placed: Placed, on_bad: BadRowPolicy) -> None:
        if self.threshold is None:
            reason = (
                f"reward is {reward.value}, and no other answer to its prompt has another; give "
                "a threshold for good answers"
            )
            self.refuse(reward.about, reason, on_bad)
            return
        good = reward.value >= self.threshold
        self._try(Thumb(about=reward.about, good=good, answer=None), placed, on_bad)

    def _try(self, shape: Pair | Thumb, placed: Placed, on_bad: BadRowPolicy) -> None:
        try:
            self.add(shape, placed)
        except DataError as error:
            self.refuse(shape.about, str(error), on_bad)

    def _prefer(self, about: About, placed: Placed) -> None:
        parting = part(placed.prompt, placed.answer, placed.rejected)
        chosen, rejected = parting.chosen, parting.rejected
        if not says(chosen):
            raise DataError("the better answer says nothing where the two part")
        if answer_key(chosen) == answer_key(rejected, self.ignoring):
            raise DataError("chosen and rejected are the same but for words that do not count")
        exact = partial(self.finder.exact, parting.prompt, placed.tools)
        self.preferences.append(
            Preference(
                prompt=parting.prompt,
                chosen=exact(chosen),
                rejected=exact(rejected),
                tools=placed.tools,
                id=placed.id,
                source=about.source,
            )
        )
        self.dropped_turns += parting.dropped
        if parting.later:
            before = context((*parting.prompt, chosen))
            self._show(about, before, parting.later, placed)

    def _judge(self, about: About, good: bool, placed: Placed) -> None:
        answers = list(steps(placed.prompt, placed.answer))
        if good:
            answers = [(prompt, turn) for prompt, turn in answers if says(turn)]
        elif len(answers) > 1:
            raise DataError(f"which of its {len(answers)} turns is bad is not said; judge one turn")
        if not answers:
            raise DataError("a good answer that says nothing teaches nothing")
        self.verdicts += [
            Verdict(
                prompt=prompt,
                completion=self.finder.exact(prompt, placed.tools, turn),
                good=good,
                tools=placed.tools,
                id=placed.id,
                source=about.source,
            )
            for prompt, turn in answers
        ]

    def _show(self, about: About, before: Turns, answer: Turns, placed: Placed) -> None:
        turns = tuple(
            self.finder.exact(before + answer[:i], placed.tools, turn)
            for i, turn in enumerate(answer)
        )
        self.demonstrations.append(
            Example(messages=before + turns, tools=placed.tools, id=placed.id, source=about.source)
        )


def _same(one: Placed, other: Placed) -> bool:
    return [*map(answer_key, one.answer)] == [*map(answer_key, other.answer)]


def _by_prompt(
    rewarded: Sequence[tuple[Reward, Placed]],
) -> Iterable[list[tuple[Reward, Placed]]]:
    groups: dict[Hashable, list[tuple[Reward, Placed]]] = {}
    for reward, placed in rewarded:
        groups.setdefault(prompt_key(placed.prompt, placed.tools), []).append((reward, placed))
    return groups.values()
