"""Runs on the model's own turns, with tool results from the recorded conversation.

A run begins with all that comes before an example's first step. What the model says becomes its
history, in its own words. While its calls are the recorded ones (all of them exactly right, in any
order, nothing broken) the recorded results follow, in the order of the model's calls, and then
whatever the user says next. Where words are wanted, any words will do, and how near they are is
measured. A run ends where the recording cannot tell what would happen: at a call that is not the
recorded one, at none where one is wanted, or at one where words are wanted. So an agent that solves
a task in another way than the recording counts as diverged; what is measured is the lower bound.

Measures, each over all runs unless said:

- `success`: runs that were followed to the end. `success_calling`: of those that want a call
  somewhere, since runs of words alone are followed unless there is a call.
- `progress`: mean share of a run's steps that were made before it ended or diverged.
- `wrong_name`, `wrong_arguments`, `missing`, `spurious`, `broken`: runs that diverged so.
- `rouge_l`: over the steps of words that were reached.

Example: three steps (a call, a call, words) of which the first call is right and the second has a
wrong argument give success 0, progress 1/3 and wrong_arguments 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent_finetune import metrics
from agent_finetune.evaluate import Answer, Asked, Step, steps_of
from agent_finetune.metrics import Measure
from agent_finetune.records import AcceptedCall, Example, Message, ToolCall
from modelscope_agent_train.evaluation.answerers import Answerer

Divergence = Literal["wrong_name", "wrong_arguments", "missing", "spurious", "broken"]
DIVERGENCES: tuple[Divergence, ...] = (
    "wrong_name",
    "wrong_arguments",
    "missing",
    "spurious",
    "broken",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FreeRuns:
    """Figures over all runs, and a row for each."""

    measures: Mapping[str, Measure]
    rows: tuple[Mapping[str, Any], ...]
    """JSON-able: id, source, steps, made (how many), diverged (how, or null), said (turn by turn)
    and the Rouge-L of its turns of words."""

    def table(self) -> str:
        """Measure, value and n, in columns."""
        lines = []
        for name, one in self.measures.items():
            value = f"{one.value:.3f}" if one.hits is None else f"{one.value:.1%}"
            lines.append(f"{name:15}  {value:>7}  {one.n:>6}")
        return "\n".join(lines)


@dataclass(kw_only=True, slots=True)
class _Run:
    """One conversation on its way."""

    example: Example
    steps: tuple[Step, ...]
    history: list[Message]
    made: int = 0
    diverged: Divergence | None = None
    said: list[str] = field(default_factory=list)
    rouge: list[float] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return self.made == len(self.steps)

    @property
    def live(self) -> bool:
        return self.diverged is None and not self.whole

    def asks(self) -> Asked:
        return Asked(
            messages=tuple(self.history), tools=self.example.tools, source=self.example.source
        )

    def take(self, answer: Answer) -> None:
        """Go on with an answer, or end."""
        step, turn = self.steps[self.made], answer.turn
        self.said.append(answer.said)
        self.diverged = divergence(answer, step)
        if self.diverged is not None:
            return
        if step.text is not None:
            self.rouge.append(metrics.rouge_l(turn.text, step.text))
        own = Message(
            role="assistant", text=turn.text, thinking=turn.thinking, tool_calls=turn.calls
        )
        self.history += [own, *_results(step, turn.calls), *self._after_results(step)]
        self.made += 1

    def _after_results(self, step: Step) -> Sequence[Message]:
        """What is recorded between this step's results and the next step."""
        end = step.place + 1 + len(_recorded_results(step))
        if self.made + 1 == len(self.steps):
            return ()
        return self.example.messages[end : self.steps[self.made + 1].place]


def follow(answerer: Answerer, examples: Sequence[Example]) -> FreeRuns:
    """Let every example run on the model's own turns; all that are under way are asked at once.

    Args:
        answerer: Makes the turns.
        examples: Recorded conversations.

    Raises:
        DataError: An example says nowhere what is right.
    """
    runs = [_begun(example) for example in examples]
    while live := [run for run in runs if run.live]:
        for run, answer in zip(live, answerer.answer([run.asks() for run in live]), strict=True):
            run.take(answer)
    return FreeRuns(measures=_measures(runs), rows=tuple(map(_row, runs)))


def divergence(answer: Answer, step: Step) -> Divergence | None:
    """How an answer leaves the recording; None where it follows it."""
    turn = answer.turn
    score = metrics.score_step(
        turn.calls, step.calls, broken=len(turn.broken), tools=step.example.tools
    )
    if score.exact or not (score.wanted or score.spurious):
        return None
    if score.missing:
        return "missing"
    if score.spurious:
        return "spurious"
    if turn.broken:
        return "broken"
    return "wrong_arguments" if score.names else "wrong_name"


def _begun(example: Example) -> _Run:
    steps = tuple(steps_of(example, "all"))
    return _Run(example=example, steps=steps, history=list(example.messages[: steps[0].place]))


def _recorded_results(step: Step) -> list[Message]:
    results = []
    for message in step.example.messages[step.place + 1 :]:
        if message.role != "tool":
            break
        results.append(message)
    return results


def _results(step: Step, calls: Sequence[ToolCall]) -> list[Message]:
    """The recorded results, in the order in which the model made the calls."""
    recorded = _recorded_results(step)
    if len(recorded) != len(calls):
        return [replace(message, tool_call_id=None) for message in recorded]
    by_call = _recorded_order(step, recorded)
    free = list(range(len(calls)))
    ordered = []
    for call in calls:
        place = next((i for i in free if _same(call, step.calls[i])), free[0])
        free.remove(place)
        ordered.append(replace(by_call[place], tool_call_id=call.id, name=call.name))
    return ordered


def _recorded_order(step: Step, recorded: Sequence[Message]) -> list[Message]:
    """Results in the order of the recorded calls, which ids tell where there are any."""
    calls = step.example.messages[step.place].tool_calls
    by_id = {message.tool_call_id: message for message in recorded}
    if all(call.id is not None and call.id in by_id for call in calls):
        return [by_id[call.id] for call in calls]
    return list(recorded)


def _same(call: ToolCall, right: AcceptedCall) -> bool:
    return metrics.score_call(call, right).exact


def _measures(runs: Sequence[_Run]) -> dict[str, Measure]:
    n = len(runs)
    calling = [run for run in runs if any(step.calls for step in run.steps)]
    found: dict[str, Measure | None] = {
        "success": metrics.rate(sum(run.whole for run in runs), n),
        "success_calling": metrics.rate(sum(run.whole for run in calling), len(calling)),
        "progress": metrics.mean([run.made / len(run.steps) for run in runs]),
    }
    for how in DIVERGENCES:
        found[how] = metrics.rate(sum(run.diverged == how for run in runs), n)
    found["rouge_l"] = metrics.mean([value for run in runs for value in run.rouge])
    return {name: measure for name, measure in found.items() if measure is not None}


def _row(run: _Run) -> dict[str, Any]:
    return {
        "id": run.example.id,
        "source": run.example.source,
        "steps": len(run.steps),
        "made": run.made,
        "diverged": run.diverged,
        "said": run.said,
        "rouge_l": run.rouge,
    }
