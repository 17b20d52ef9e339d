"""Chat templates run in Transformers' sandbox, with limits to what they may compute and hold.

A template is a program that comes with a model. Transformers' sandbox keeps it from Python's
insides; here it is also cut off when it does not end, or makes texts and lists that fill the
memory. Jinja has no loop without an end, but loops nest, macros call themselves and a text can be
doubled in each round. So everything that repeats or makes a value counts: rounds of loops, calls,
filters, tests, comparisons, operators and what is printed. Counting costs well under a microsecond
each and needs no other thread or process.

Transformers prepares what a template sees, with its filters, globals and tags; only the running
of it happens here. Its own code is left as it is. What cannot be interrupted is one step of Python
on values of the largest size allowed, some tenths of a second.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from agent_finetune.errors import RenderError
from agent_finetune.render.counting import COUNTED, LOOKED_AT, Counting

SECONDS = 10.0
"""Of computing, in the thread that renders, for one rendering; a real one takes milliseconds."""
LARGEST = 64 * 2**20
"""Bytes of one value, and characters of all the strings in a list or dict together."""
TOGETHER = 2**30
"""Bytes of all values and all output of one rendering."""
LONGEST_SOURCE = 500_000
"""Characters of a template; the longest published ones have some 30,000."""

_NODE = 100
"""What an item of a list weighs, in characters."""
_WIDEST = 100_000
"""For a width, an indent or a precision."""
_EVERY = 64
"""Counts between looks at the clock."""

_GROWING = frozenset(
    (
        *("center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes", "translate"),
        *("indent", "wordwrap", "batch", "slice", "round", "tojson", "xmlattr", "urlize"),
    )
)
"""Filters and methods whose result may be their value many times over."""
_FLAT = frozenset(
    (
        *("length", "count", "first", "last", "default", "d", "attr", "items", "random"),
        *("map", "select", "selectattr", "reject", "rejectattr"),
    )
)
"""Filters that do not look into what is in a list."""
_NESTED_FIELD = re.compile(r"\{[^{}]*:[^{}]*\{|%[^a-zA-Z%]*\*")


class CutOffError(RenderError):
    """A chat template was stopped: it computes without end, or makes what no prompt can hold."""


class _Budget(threading.local):
    """What the rendering in this thread has used."""

    counts = 0
    held = 0
    until = 0.0


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """The sandbox of Transformers, with limits.

    Args:
        theirs: The environment in which Transformers would render; it is left as it is.
    """

    code_generator_class = Counting
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, theirs: ImmutableSandboxedEnvironment) -> None:
        super().__init__(
            trim_blocks=theirs.trim_blocks,
            lstrip_blocks=theirs.lstrip_blocks,
            extensions=[type(extension) for extension in theirs.extensions.values()],
            finalize=pass_context(lambda _, value: self.looked_at(value)),
        )
        self._budget = _Budget()
        self.globals.update(theirs.globals)
        del self.globals["lipsum"]  # writes as many words as it is told to
        filters: dict[str, Callable[..., Any]] = dict(theirs.filters)
        self.filters = {name: self._counted(name, f) for name, f in filters.items()}
        self.filters[LOOKED_AT] = pass_context(lambda _, value: self.looked_at(value))
        self.filters[COUNTED] = pass_context(lambda _, value: self.made(value))
        tests: dict[str, Any] = dict(theirs.tests)
        self.tests = {name: self._counted(name, test) for name, test in tests.items()}

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Begin anew to count in this thread."""
        self._budget.counts = self._budget.held = 0
        self._budget.until = time.thread_time() + SECONDS
        yield

    def concat(self, pieces: Iterable[str]) -> str:
        """Join what was printed."""
        return "".join(map(self._printed, pieces))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a global or a method of a value."""
        if isinstance(function, Macro):
            if function.catch_varargs:
                self.looked_at(args)
        else:
            self.looked_at((args, kwargs))
            owner = getattr(function, "__self__", None)
            if isinstance(owner, str | bytes | int):
                self._check_growth(function.__name__, owner, (*args, *kwargs.values()))
        return self.made(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse what would be too large before it is made."""
        if operator == "*":
            self._check(_size(left) * _size(right) if not _both_numbers(left, right) else 0)
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else right.bit_length()
            self._check(LARGEST + 1 if left.bit_length() + bits > _WIDEST else 0)
        if operator == "%" and isinstance(left, str | bytes):
            self._check_format(str(left), (right,))
        return self.made(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's own `str.format`, once it is seen how long its result can be."""
        made = super().wrap_str_format(value)
        if made is None:
            return None
        format_them = made

        def bounded(*args: Any, **kwargs: Any) -> str:
            self._check_format(value.__self__, (*args, *kwargs.values()))
            return format_them(*args, **kwargs)

        return bounded

    def made(self, value: Any) -> Any:
        """Count a value that was made; answer it."""
        size = sys.getsizeof(value) if isinstance(value, str | list | tuple | dict | bytes) else 0
        self._check(size)
        self._budget.held += size
        return self.looked_at(value)

    def looked_at(self, value: Any) -> Any:
        """Count, and refuse a value with too much in it; answer it."""
        budget = self._budget
        budget.counts += 1
        if not budget.counts % _EVERY and time.thread_time() > budget.until:
            raise CutOffError(f"it computes for more than {SECONDS:.0f} s")
        if budget.held > TOGETHER:
            raise CutOffError(f"it makes more than {TOGETHER >> 20} MiB of values")
        if isinstance(value, list | tuple | dict | Namespace):
            self._check(_weight(value))
        return value

    def _printed(self, piece: str) -> str:
        self._budget.held += sys.getsizeof(piece)
        self.looked_at(piece)
        return piece

    def _check(self, size: int) -> None:
        if size > LARGEST:
            raise CutOffError(f"it makes a value of more than {LARGEST >> 20} MiB")

    def _check_growth(self, name: str, value: Any, arguments: tuple[Any, ...]) -> None:
        """Estimate from above what a filter or method makes, where that may be much."""
        text = value if isinstance(value, str | bytes) else ""
        if name == "replace" and len(arguments) > 1 and type(arguments[0]) is type(text):
            self._check(len(text) + text.count(arguments[0]) * _size(arguments[1]))  # type: ignore[arg-type]
        elif name == "join":
            items = arguments[0] if text is value else value
            separators = [text, *arguments]
            self._check(_size(items) * max(map(_size, filter(_is_text, separators)), default=0))
        elif name in _GROWING:
            numbers = [argument for argument in arguments if isinstance(argument, int)]
            most = max(map(_size, arguments), default=1)
            wide = max(map(abs, numbers), default=0) > _WIDEST
            self._check(LARGEST + 1 if wide else (1 + _weight(value)) * most)

    def _check_format(self, template: str, arguments: tuple[Any, ...]) -> None:
        if _NESTED_FIELD.search(template):
            raise CutOffError("it formats text to a width that is a value")
        widths = sum(int(number[:12]) for number in re.findall(r"\d+", template))
        fields = template.count("%") + template.count("{")
        self._check(len(template) + widths + fields * _weight(arguments))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test of Jinja that counts."""
        own = 1 if hasattr(function, "jinja_pass_arg") else 0  # it is given the context first

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            given = (*args[own:], *kwargs.values())
            if name == "join" and given and not hasattr(given[0], "__len__"):
                args = (*args[:own], list(args[own]), *args[own + 1 :])
                given = (*args[own:], *kwargs.values())
            if name == "sum" and any(isinstance(item, list | tuple) for item in given[1:]):
                raise CutOffError("it adds up lists")
            if name not in _FLAT:
                self.looked_at(given)
            if name == "format" and given:
                self._check_format(str(given[0]), given[1:])
            elif given:
                self._check_growth(name, given[0], given[1:])
            return self.made(function(*args, **kwargs))

        return counted


def _weight(value: Any) -> int:
    """Characters of all strings in a value, an item counting as often as it is met.

    Stops where that is more than any value may have: a list that holds another one twice, which
    again holds one twice, is small in memory and endless in print.
    """
    total = 0
    waiting = [value]
    while waiting and total <= LARGEST:
        item = waiting.pop()
        total += _NODE
        if isinstance(item, str | bytes):
            total += len(item)
        elif isinstance(item, dict):
            total += sum(len(key) for key in item if isinstance(key, str))
            total += _NODE * len(item)
            waiting += item.values()
        elif isinstance(item, list | tuple):
            total += _NODE * len(item)
            if total <= LARGEST:
                waiting += item
        elif isinstance(item, Namespace):
            waiting += object.__getattribute__(item, "_Namespace__attrs").values()
    return total


def _size(value: Any) -> int:
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, list | tuple):
        return 8 * len(value)
    if isinstance(value, dict):
        return max((len(str(item)) for item in value.values()), default=0)
    return len(value) if isinstance(value, str | bytes) else 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _both_numbers(left: Any, right: Any) -> bool:
    return isinstance(left, int | float) and isinstance(right, int | float)


@functools.cache
def sandbox() -> BoundedSandbox:
    """The one of this process."""
    # Transformers makes its environment nowhere else; of an empty template it compiles nothing.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return BoundedSandbox(_compile_jinja_template("").environment)


@functools.lru_cache(maxsize=256)
def _compiled(source: str) -> Any:
    return sandbox().from_string(source)


def render(source: str, seen: Mapping[str, Any]) -> str:
    """Run a chat template.

    Args:
        source: The template.
        seen: What it sees, by name.

    Raises:
        CutOffError: It was stopped.
        Exception: Whatever else a program in a sandbox may raise.
    """
    if len(source) > LONGEST_SOURCE:
        raise CutOffError(f"it has {len(source)} characters; at most {LONGEST_SOURCE} are read")
    with sandbox().spending():
        return str(_compiled(source).render(seen))
