"""What is measured about an agent's answers, as pure functions; every definition is here.

Tool calls are scored step by step: a step is one assistant turn, with the right history before it.
What is *right* is a sequence of `AcceptedCall`, empty where no call is wanted; what was *made* is
the calls that parse; what was *attempted* is those and the broken ones. A *call step* wants a call.

Sources. Comparing values, and calls in any order: the AST checker of the Berkeley Function Calling
Leaderboard (bfcl-eval 2026.3.23, `eval_checker/ast_eval/ast_checker.py`), read and not copied.
Argument F1 and hallucinated names: alpha-UMi (arXiv 2401.07324), `evaluate-multi_agent.py`.
Whether arguments meet a schema: the package jsonschema.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.records import AcceptedCall, ToolCall

_IGNORED_IN_STRINGS = re.compile(r"[ ,./\-_*^]")
# Scripts that put no space between words count by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class CallScore:
    """One call held against one right answer."""

    name: bool
    exact: bool
    """Name and all arguments right, none missing, none too many."""
    argument_f1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StepScore:
    """One answer held against what was right at this step. Counts are of calls."""

    wanted: int
    made: int
    broken: int
    """Attempted calls that do not parse."""
    names: bool
    """On a call step: the names made are the names wanted, each as often; nothing is broken."""
    exact: bool
    """On a call step: calls and right answers pair off exactly, in any order; nothing is broken."""
    argument_f1: float
    """On a call step: sum over the pairs, divided by calls wanted or made, whichever is more."""
    wants_arguments: bool
    """Some right call must have, or may have, an argument."""
    hallucinated: int
    """Calls whose name is not among the tools offered."""
    hallucinated_arguments: int
    """Calls of a tool offered, with an argument that its schema does not list."""
    schema_valid: int
    """Calls of a tool offered, whose arguments meet its schema."""
    uncheckable: int
    """Calls of a tool offered, whose schema is no JSON Schema."""

    @property
    def missing(self) -> bool:
        """A call was wanted, and none was attempted."""
        return self.wanted > 0 and self.made + self.broken == 0

    @property
    def spurious(self) -> bool:
        """No call was wanted, and one was attempted."""
        return self.wanted == 0 and self.made + self.broken > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A mean over `n` things, and for a rate how sure `n` makes us of it."""

    value: float
    n: int
    hits: int | None = None
    """How many of the `n`, when this is a rate."""
    low: float | None = None
    high: float | None = None
    """Ends of the rate's 95% Wilson interval."""


def same_value(value: Any, right: Any, schema: Mapping[str, Any] | None = None) -> bool:
    """Whether an argument's value is as good as a right one.

    - Strings: equal without case, spaces and `,./-_*^`, single quotes counting as double ones, for
      "April 1, 2024" is "April 1,2024". Where the schema wants no string, the string is the name of
      a variable and must be equal as it stands.
    - Numbers: by value, so 5 is right for 5.0; but 5.0 is wrong for 5 where the schema says
      integer. True and False are no numbers.
    - Lists: item by item, in order. Objects: the same keys, and key by key, where the schema is not
      looked at. null: only null.

    BFCL is stricter in two places: it refuses whole numbers in a list of floats, and compares what
    lies deeper than one level without leniency.

    Args:
        value: What the model wrote, parsed from JSON.
        right: One right value.
        schema: JSON Schema of the argument, when it is known.
    """
    kind = (schema or {}).get("type")
    if isinstance(value, str) and isinstance(right, str):
        if kind in ("integer", "number", "boolean", "array", "object"):
            return value == right
        return _plain(value) == _plain(right)
    if isinstance(value, bool) or isinstance(right, bool):
        return value is right
    if isinstance(value, int | float) and isinstance(right, int | float):
        wrong_type = kind == "integer" and isinstance(value, float) and isinstance(right, int)
        return value == right and not wrong_type
    if isinstance(value, list | tuple) and isinstance(right, list | tuple):
        items = _inner(schema, "items")
        return len(value) == len(right) and all(
            same_value(v, r, items) for v, r in zip(value, right, strict=True)
        )
    if isinstance(value, Mapping) and isinstance(right, Mapping):
        return value.keys() == right.keys() and all(same_value(value[k], right[k]) for k in right)
    return value is None and right is None


def score_call(
    call: ToolCall, right: AcceptedCall, parameters: Mapping[str, Any] | None = None
) -> CallScore:
    """Hold one call against one right answer.

    Exact: the name is right, every argument that must be there is, none is there that the answer
    does not know, and each value is one of its right values (`same_value`).

    Argument F1 (alpha-UMi): a key of the answer earns 1 with a right value and 0.5 with a wrong
    one. Precision is what was earned over the number of predicted keys, recall over the number of
    right keys, where an argument that may be left out counts only when it is there. With no keys on
    both sides it is 1, with a wrong name 0.

    Example: right are city Paris and days 3, predicted is city "Rome" alone: precision 0.5 / 1,
    recall 0.5 / 2, F1 1/3.

    Args:
        call: What the model called.
        right: The answer, with alternatives.
        parameters: The tool's JSON Schema of parameters, when it is known.
    """
    if call.name != right.name:
        return CallScore(name=False, exact=False, argument_f1=0.0)
    properties = _inner(parameters, "properties")
    must = right.arguments.keys() - right.optional
    keys = must | (right.arguments.keys() & call.arguments.keys())
    good = sum(
        any(same_value(value, one, _inner(properties, key)) for one in right.arguments[key])
        for key, value in call.arguments.items()
        if key in keys
    )
    known = len(keys & call.arguments.keys())
    if keys or call.arguments:
        # 2pr / (p + r) with p = earned / predicted and r = earned / right
        f1 = 2 * (good + 0.5 * (known - good)) / (len(call.arguments) + len(keys))
    else:
        f1 = 1.0
    exact = good == len(keys) == len(call.arguments)
    return CallScore(name=True, exact=exact, argument_f1=f1)


def score_step(
    calls: Sequence[ToolCall],
    right: Sequence[AcceptedCall],
    *,
    broken: int = 0,
    tools: Sequence[Mapping[str, Any]] = (),
) -> StepScore:
    """Hold the calls of one turn against the right ones, whatever their order.

    Calls and answers are paired so that as many pairs as can be are exact; the rest is paired best
    argument F1 first.

    Args:
        calls: What the model called.
        right: What it should have called; empty where no call is wanted.
        broken: Number of attempted calls that do not parse.
        tools: Tools offered, `{"type": "function", "function": {...}}`.
    """
    functions = {str(tool["function"]["name"]): tool["function"] for tool in tools}
    scores = [
        [score_call(c, r, _inner(functions.get(r.name), "parameters")) for c in calls]
        for r in right
    ]
    pairs = _pair(scores)
    most = max(len(calls), len(right))
    clean = bool(right) and len(calls) == len(right) and not broken
    same_names = Counter(c.name for c in calls) == Counter(r.name for r in right)
    schemas = [
        (c.arguments, _inner(functions[c.name], "parameters")) for c in calls if c.name in functions
    ]
    fits = [fits_schema(arguments, schema) for arguments, schema in schemas]
    return StepScore(
        wanted=len(right),
        made=len(calls),
        broken=broken,
        names=clean and same_names,
        exact=clean and sum(pair.exact for pair in pairs) == len(right),
        argument_f1=sum(pair.argument_f1 for pair in pairs) / most if right else 0.0,
        wants_arguments=any(r.arguments for r in right),
        hallucinated=sum(c.name not in functions for c in calls),
        hallucinated_arguments=sum(bool(unlisted(*schema)) for schema in schemas),
        schema_valid=fits.count(True),
        uncheckable=fits.count(None),
    )


def unlisted(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments that a tool's schema of parameters does not list; none where it has no list.

    Stricter than JSON Schema, to which properties that are not listed are fine unless it says
    otherwise: here they are fine only where it says so, by `additionalProperties` or
    `patternProperties`.
    """
    listed = parameters.get("properties")
    open_ = parameters.get("additionalProperties") or parameters.get("patternProperties")
    if not isinstance(listed, Mapping) or open_:
        return ()
    return tuple(name for name in arguments if name not in listed)


def fits_schema(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool | None:
    """Whether arguments meet a tool's schema of parameters; None where that is no JSON Schema.

    The draft is the one that the schema names, else 2020-12. Formats are annotations.
    """
    from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]
    from jsonschema.validators import validator_for  # type: ignore[import-untyped]
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = validator_for(parameters, default=Draft202012Validator)
    try:
        kind.check_schema(parameters)
        # An empty registry: left to itself, jsonschema fetches what a schema names from the net.
        return bool(kind(parameters, registry=Registry()).is_valid(dict(arguments)))
    except (SchemaError, Unresolvable):
        return None


def summarize(steps: Sequence[StepScore]) -> dict[str, Measure]:
    """Tool-call metrics over steps; one that has nothing to be measured on is left out.

    - `name_accuracy`: call steps whose names are right. A missing call is a wrong one.
    - `exact_match`: call steps where all is right.
    - `argument_f1`: mean over call steps. `argument_f1_nonempty`: over those whose right answer
      has arguments, since calls without any are easy (41% of alpha-UMi's test set).
    - `valid_json`: attempted calls that parse. n is a number of calls.
    - `schema_valid`: attempted calls that parse, name a tool offered and meet its schema. Calls of
      tools whose schema is no JSON Schema are left out.
    - `hallucinated`: steps, of all, with a call whose name is not among the tools offered.
    - `hallucinated_arguments`: calls of tools offered, with an argument that is not in the schema
      (`unlisted`). n is a number of calls.
    - `missing`: call steps where no call was attempted.
    - `spurious`: steps where none was wanted and one was attempted, of those where none was wanted.
    """
    wanting = [step for step in steps if step.wanted]
    resting = [step for step in steps if not step.wanted]
    attempted = sum(step.made + step.broken for step in steps)
    found = {
        "name_accuracy": rate(sum(s.names for s in wanting), len(wanting)),
        "exact_match": rate(sum(s.exact for s in wanting), len(wanting)),
        "argument_f1": mean([s.argument_f1 for s in wanting]),
        "argument_f1_nonempty": mean([s.argument_f1 for s in wanting if s.wants_arguments]),
        "valid_json": rate(sum(s.made for s in steps), attempted),
        "schema_valid": rate(
            sum(s.schema_valid for s in steps), attempted - sum(s.uncheckable for s in steps)
        ),
        "hallucinated": rate(sum(s.hallucinated > 0 for s in steps), len(steps)),
        "hallucinated_arguments": rate(
            sum(s.hallucinated_arguments for s in steps),
            sum(s.made - s.hallucinated for s in steps),
        ),
        "missing": rate(sum(s.missing for s in wanting), len(wanting)),
        "spurious": rate(sum(s.spurious for s in resting), len(resting)),
    }
    return {name: measure for name, measure in found.items() if measure is not None}


def accepted_call(call: ToolCall) -> AcceptedCall:
    """A call as the one right answer, for data that states no alternatives."""
    return AcceptedCall(
        name=call.name, arguments={key: (value,) for key, value in call.arguments.items()}
    )


def rate(hits: int, n: int) -> Measure | None:
    """A share with its 95% Wilson interval; None when there is nothing to share."""
    if n == 0:
        return None
    low, high = wilson(hits, n)
    return Measure(value=hits / n, n=n, hits=hits, low=low, high=high)


def mean(values: Sequence[float]) -> Measure | None:
    """A plain mean; None of nothing."""
    return Measure(value=math.fsum(values) / len(values), n=len(values)) if values else None


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a share, which stays honest for small n and near 0 and 1.

    Source: E. B. Wilson, JASA 22 (1927) 209. With z = 1.96 it holds the true share in about 95 of
    100 experiments: 8 of 10 gives 0.49 to 0.94.
    """
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def perplexity(nats: Iterable[float], tokens: Iterable[int]) -> float:
    """The exponential of the mean negative log likelihood, every token weighing the same.

    Args:
        nats: Negative log likelihood of each row, summed over its scored tokens.
        tokens: Number of scored tokens of each row.

    Raises:
        DataError: There is no token at all.
    """
    if not (total := sum(tokens)):
        raise DataError("perplexity of no tokens; give rows with at least one trained token")
    average = math.fsum(nats) / total
    return math.exp(average) if average < math.log(1e300) else math.inf


def rouge_l(predicted: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, from 0 to 1 (Lin, 2004).

    "the cat sat" against "the cat is on the mat": the subsequence "the cat" has 2 words, precision
    2/3, recall 2/6, F 4/9. Words are runs of letters and digits in lower case, unstemmed, and each
    Chinese or Japanese character counts as a word. For ASCII text this is what the package
    `rouge-score` computes; that one is published as source only, wants nltk and absl for these few
    lines, and drops every letter outside a-z.

    Two texts without any word are equal, 1; one without against one with is 0.
    """
    ours, theirs = (_WORD.findall(text.lower()) for text in (predicted, reference))
    if not ours or not theirs:
        return float(ours == theirs)
    lengths = [0] * (len(theirs) + 1)  # common subsequence of the words so far with theirs[:i]
    for word in ours:
        diagonal = 0
        for i, other in enumerate(theirs, start=1):
            above = lengths[i]
            lengths[i] = diagonal + 1 if word == other else max(above, lengths[i - 1])
            diagonal = above
    return 2 * lengths[-1] / (len(ours) + len(theirs))


def _plain(text: str) -> str:
    return _IGNORED_IN_STRINGS.sub("", text).lower().replace("'", '"')


def _inner(schema: Any, key: str) -> Mapping[str, Any]:
    """A schema inside a schema; empty where there is none, or something else (true, a list)."""
    inner = schema.get(key) if isinstance(schema, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _pair(scores: Sequence[Sequence[CallScore]]) -> list[CallScore]:
    """Scores of the pairs that make the most of right answers (rows) and calls (columns)."""
    taken: dict[int, int] = {}  # call to answer

    def place(answer: int, tried: set[int]) -> bool:
        """Find an exact call for this answer, moving others to another one if need be."""
        for call, score in enumerate(scores[answer]):
            if score.exact and call not in tried:
                tried.add(call)
                if call not in taken or place(taken[call], tried):
                    taken[call] = answer
                    return True
        return False

    for answer in range(len(scores)):
        place(answer, set())
    free = {answer for answer in range(len(scores)) if answer not in taken.values()}
    rest = sorted(
        ((a, c) for a in free for c in range(len(scores[a])) if c not in taken),
        key=lambda pair: -scores[pair[0]][pair[1]].argument_f1,
    )
    for answer, call in rest:
        if answer in free and call not in taken:
            taken[call] = answer
            free.remove(answer)
    return [scores[answer][call] for call, answer in taken.items()]
