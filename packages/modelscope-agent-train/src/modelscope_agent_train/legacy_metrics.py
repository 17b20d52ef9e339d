"""The numbers of the scripts of 2023, their faults included, to compare with what was published.

`evaluate` gives what `llm_infer.py` of ModelScope-Agent printed (`utils.py`, November 2023), and
`evaluate_answers` what `eval_tool.py` did (August 2023). Both are written anew from what they do:

- `action_em`: over the steps whose *reference* holds a call that parses, the share of predictions
  that name the same tool. `input_em`: over the same steps, the share whose arguments are equal.
  `rouge`: over all other steps, the mean F of `rouge` 1.0.1.

What is wrong with them, each of which a test shows beside the right number:

1. A prediction without `parameters` is counted twice, once as right and once as wrong.
2. Where no step holds a call, or none holds words, they end with ZeroDivisionError.
3. Two calls in one turn do not parse together, and the turn is scored as words.
4. `input_em` counts equal arguments of the wrong tool as right.
5. `1` and `"1"`, `5` and `5.0` aside, values are compared as they stand, case and blanks included.
6. A call where words are wanted costs nothing but some Rouge.
7. The role header `<|assistant|>:` is a part of references, and so of the first word.
8. Rouge takes words apart at blanks only, so Chinese texts that differ in one character score 0;
   it counts each distinct word once, and cuts sentences at every point.
9. A reference whose JSON does not parse is scored as words.
10. An empty prediction, or one of points alone, ends `rouge` with ValueError.

A crash cannot be a number: `crashed` says what the script would have ended with, and the numbers
that it would not have reached are None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_finetune.records import AcceptedCall, ToolCall

_THINK = re.compile(r"<\|startofthink\|>([\s\S]+)<\|endofthink\|>")
_BRACES = re.compile(r"{[\s\S]+}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LegacyNumbers:
    """What the scripts printed."""

    action_em: float | None
    input_em: float | None
    rouge: float | None
    call_steps: int
    """Entries of `action_em`; more than there are steps where some were counted twice."""
    text_steps: int
    crashed: str | None = None
    """The error that the script would have ended with."""

    def table(self) -> str:
        """Name and number, in columns."""
        cells = [
            ("action_em", self.action_em, self.call_steps),
            ("input_em", self.input_em, self.call_steps),
            ("rouge", self.rouge, self.text_steps),
        ]
        lines = [
            f"{name:9}  {'-' if value is None else f'{value:.3f}':>6}  {n:>6}"
            for name, value, n in cells
        ]
        if self.crashed:
            lines.append(f"the script would have ended with {self.crashed}")
        return "\n".join(lines)


def evaluate(references: Sequence[str], predictions: Sequence[str]) -> LegacyNumbers:
    """As `llm_infer.py`: one text for each step, calls in think blocks.

    Args:
        references: Right texts.
        predictions: What the model said; what is beyond the shorter of the two is not looked at.
    """
    tally = _Tally()
    for reference, prediction in zip(references, predictions, strict=False):
        tally.take(reference, prediction, _thought, lambda call: call["parameters"], blank=" ")
    return tally.numbers()


def evaluate_answers(
    references: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> LegacyNumbers:
    """As `eval_tool.py`: rows with a list `answer`, calls as bare JSON, `parameters` a string."""
    tally = _Tally()
    for reference, prediction in zip(references, predictions, strict=False):
        said = prediction["answer"]
        for place, right in enumerate(reference["answer"]):
            made = said[place] if place < len(said) else ""
            tally.take(right, made, json.loads, lambda call: json.loads(call["parameters"]))
    return tally.numbers()


def written(calls: Iterable[ToolCall | AcceptedCall], text: str) -> str:
    """A turn in the form of 2023, without its role header: words, and a think block per call.

    Of an accepted call the first value of each argument is written.
    """
    parts = [text] if text else []
    for call in calls:
        arguments = dict(call.arguments)
        if isinstance(call, AcceptedCall):
            arguments = {name: values[0] for name, values in call.arguments.items() if values}
        body = json.dumps({"api_name": call.name, "parameters": arguments}, ensure_ascii=False)
        parts.append(f"<|startofthink|>```JSON\n{body}\n```<|endofthink|>")
    return "\n".join(parts)


def rouge_l(predicted: str, reference: str) -> float:
    """Rouge-L of the package `rouge` 1.0.1, with which 2023's numbers were made.

    Sentences end at every `.`, words at blanks. Found are the distinct words that lie on the
    longest common subsequence of any reference sentence with any predicted one; precision divides
    them by the distinct words predicted, recall by those of the reference. That package recurses
    and dies of texts of some hundred words; this does not.

    Raises:
        ValueError: A text is empty, or has nothing but points.
    """
    ours, theirs = _sentences(predicted), _sentences(reference)
    if not ours:
        raise ValueError("Hypothesis is empty.")
    if not theirs:
        raise ValueError("Reference is empty.")
    common = {word for right in theirs for made in ours for word in _common(right, made)}
    recall = len(common) / len({word for sentence in theirs for word in sentence})
    precision = len(common) / len({word for sentence in ours for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


class _Tally:
    def __init__(self) -> None:
        self.action: list[int] = []
        self.input: list[int] = []
        self.words: list[tuple[str, str]] = []  # predicted, reference

    def take(
        self,
        reference: str,
        prediction: str,
        read: Callable[[str], Any],
        parameters: Callable[[Any], Any],
        blank: str = "",
    ) -> None:
        try:
            right = read(reference)
        except (ValueError, AttributeError, TypeError, RecursionError):
            self.words.append((prediction or blank, reference))
            return
        try:
            made = read(prediction)
            self.action.append(int(made["api_name"] == right["api_name"]))
            wanted, given = dict(parameters(right).items()), dict(parameters(made).items())
            self.input.append(int(wanted == given))
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
            # Too late for a name that has been counted: this is the double count of 2023.
            self.action.append(0)
            self.input.append(0)

    def numbers(self) -> LegacyNumbers:
        crashed, rouge = None, None
        action, inputs = _mean(self.action), _mean(self.input)
        try:
            rouge = _mean([rouge_l(*pair) for pair in self.words])
            if rouge is None or action is None:
                crashed = "ZeroDivisionError: division by zero"
        except ValueError as error:
            crashed = f"ValueError: {error}"
        return LegacyNumbers(
            action_em=action,
            input_em=inputs,
            rouge=rouge,
            call_steps=len(self.action),
            text_steps=len(self.words),
            crashed=crashed,
        )


def _thought(text: str) -> Any:
    """What is between the first brace and the last one of the think blocks, line ends removed."""
    block = _THINK.search(text)
    if block is None:
        raise ValueError("no think block")
    inside = _BRACES.search(block[1])
    if inside is None:
        raise ValueError("no braces")
    return json.loads(inside[0].replace("\n", ""))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _sentences(text: str) -> list[list[str]]:
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common(right: Sequence[str], made: Sequence[str]) -> set[str]:
    """Distinct words of one longest common subsequence.

    It is the one found from the end, where of two equally good ways a predicted word is dropped.
    """
    lengths = [[0] * (len(made) + 1) for _ in range(len(right) + 1)]
    for i, word in enumerate(right, start=1):
        for j, other in enumerate(made, start=1):
            if word == other:
                lengths[i][j] = lengths[i - 1][j - 1] + 1
            else:
                lengths[i][j] = max(lengths[i - 1][j], lengths[i][j - 1])
    found, i, j = set(), len(right), len(made)
    while i and j:
        if right[i - 1] == made[j - 1]:
            found.add(right[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
