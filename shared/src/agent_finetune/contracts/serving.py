"""A live model: what is asked of it, what it answers, and what an engine promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from agent_finetune.config import ModelConfig
from agent_finetune.errors import ConfigError
from agent_finetune.records import Message, ToolCall

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Which live engine to open, and what it may use.

    Engines that agree on model, revision, number format, quantization and device share one copy of
    the weights; the first of them decides on the rest.
    """

    model: ModelConfig
    """What to serve. With an adapter in it, requests that name none speak through that one."""
    keep_alive: float = 600.0
    """Seconds the weights stay loaded after the last engine on them was closed or forgotten."""
    max_batch: int = 32
    """Most requests in one forward pass; more wait their turn."""
    prefill_chunk: int = 512
    """Most prompt tokens in one forward pass: how long a cancelled request goes on, at most."""
    prefix_cache_mib: int = 1024
    """Most memory, in MiB, for the keys and values of finished conversations."""
    record_to: str | None = None
    """Database in which every exchange of this engine is kept, redacted: naming one is consent.
    None keeps nothing on disk."""
    when_busy: Literal["wait", "error"] = "wait"
    """What becomes of a request while the model is away for an update: it waits, or `BusyError`."""

    def __post_init__(self) -> None:
        if not self.keep_alive >= 0:
            raise ConfigError(f"keep_alive is {self.keep_alive!r}; it must be 0 seconds or more")
        if self.when_busy not in ("wait", "error"):
            raise ConfigError(f"when_busy is {self.when_busy!r}; legal are wait and error")
        for name, least in (("max_batch", 1), ("prefill_chunk", 1), ("prefix_cache_mib", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One thing to generate."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    """Tools offered, each `{"type": "function", "function": {...}}`."""
    tool_choice: str = "auto"
    """auto, none (tools are not offered), required (any of them), or the name of one."""
    schema: Mapping[str, Any] | None = None
    """JSON Schema that the words of the answer are held to while they are generated."""
    adapter: str | None = None
    """Name of an attached adapter; None is the engine's own, or the base without one."""
    max_new_tokens: int | None = None
    """Most tokens to generate; None is as many as the context holds."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0 is all of them."""
    repetition_penalty: float = 1.0
    """Tokens that are in prompt or answer become less likely by this factor (arXiv 1909.05858),
    when greedy too; 1 changes nothing."""
    thinking: bool | None = None
    """Whether the model is asked to think first, for chat templates that know `enable_thinking`;
    None is the template's own default."""
    seed: int | None = None
    """The same seed gives the same answer, whatever else is generated beside it."""
    stop: Sequence[str] = ()
    """Strings that end the answer; they are not part of its text."""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigError("messages is empty; a request needs at least one message")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens!r}; it must be at least 1")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature is {self.temperature!r}; it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p!r}; it must lie above 0, up to 1")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k!r}; it must be a whole number, 0 or more")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ConfigError(
                f"repetition_penalty is {self.repetition_penalty!r}; it must be above 0"
            )
        if self.thinking not in (None, True, False):
            raise ConfigError(f"thinking is {self.thinking!r}; legal are true, false and none")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ConfigError(f"stop is {self.stop!r}; it must be a list of strings, none empty")
        names = [_tool_name(tool, place) for place, tool in enumerate(self.tools)]
        if self.tool_choice not in ("auto", "none", *(names and ["required"]), *names):
            raise ConfigError(
                f"tool_choice is {self.tool_choice!r}; legal are auto, none, and with tools "
                f"required or one of the tools offered: {', '.join(names) or 'there are none'}"
            )
        if self.schema is not None and self.tool_choice not in ("auto", "none"):
            raise ConfigError("a request has a schema and a forced tool; give one of the two")


def _tool_name(tool: Mapping[str, Any], place: int) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"tools[{place}] is {tool!r}; it must be "
            "{'type': 'function', 'function': {'name': ..., 'parameters': {...}}}"
        )
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that had been computed before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was generated, exactly."""

    id: str
    message: Message
    """Text, thinking and valid tool calls; `generation` holds the exact ids."""
    finish: FinishReason
    revision: str
    """Digest of base and adapter."""
    usage: Usage
    broken_calls: tuple[str, ...] = ()
    """Tool calls that do not parse, raw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What was asked and what was answered: what feedback is about."""

    request: Request
    result: Result
    time: float
    """When the answer was whole, in seconds since the epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A piece of a streamed answer.

    The pieces add up to the result's message: texts to its text, thinking to its thinking, calls
    to its calls. The last one carries the whole result.
    """

    text: str = ""
    thinking: str = ""
    call: ToolCall | None = None
    """A tool call, whole, once it has closed."""
    result: Result | None = None


class Generation(Protocol):
    """One answer while it comes. Made on any thread, read on any other or on an event loop."""

    @property
    def id(self) -> str: ...

    def __iter__(self) -> Iterator[Delta]:
        """Pieces as they come; leaving the loop early does not cancel, `cancel` does."""
        ...

    def __aiter__(self) -> AsyncIterator[Delta]:
        """The same on an event loop, which is never blocked; cancelling the task cancels."""
        ...

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the whole answer.

        Raises:
            EngineError: It could not be generated.
            TimeoutError: It did not come within `timeout` seconds; the work goes on.
        """
        ...

    async def aresult(self) -> Result:
        """The same on an event loop; cancelling the task cancels the work."""
        ...

    def cancel(self) -> None:
        """Stop the work; the result then says `cancelled` and holds what had come."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """What an engine serves."""

    model: str
    """What the user typed."""
    revision: str
    """Digest of the base."""
    context: int
    """Tokens that a prompt and its answer may have together."""
    device: str
    dtype: str


class Engine(Protocol):
    """A live model that many agents share. Torch-free, so that a served one can stand in.

    Making one costs nothing; the model is loaded when it is first needed, on a thread of its own.
    Every method may be called from any thread.
    """

    def generate(self, request: Request) -> Result:
        """Generate and wait; `stream(request).result()`."""
        ...

    def stream(self, request: Request) -> Generation:
        """Begin to generate, and return at once; errors come with the first piece."""
        ...

    def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        adapter: str | None = None,
        *,
        thinking: bool | None = None,
    ) -> int:
        """Tokens of the prompt, as it would be served. Loads the model when it is not loaded."""
        ...

    def attach(self, name: str, folder: Path) -> str:
        """Make an adapter speak under a name, and answer its revision.

        Names belong to the weights: engines that share these share names. A name that is taken
        passes to the new adapter; answers under way finish on the old one. A folder of versions
        (`agent_finetune.versions`) is followed: requests are answered by the version that is
        current when they come, and by the base while there is none.

        Raises:
            ModelError: It is no adapter for this base.
        """
        ...

    def detach(self, name: str) -> None:
        """Forget an adapter's name; answers under way finish.

        Raises:
            ConfigError: There is no such name.
        """
        ...

    def adapters(self) -> Mapping[str, str]:
        """Names of attached adapters, each with its revision."""
        ...

    def recent(self) -> Sequence[Exchange]:
        """The last 256 exchanges, the oldest first; they are held in memory only."""
        ...

    def info(self) -> EngineInfo:
        """What is served. Loads the model when it is not loaded."""
        ...

    def close(self) -> None:
        """Give up the hold on the weights; twice is fine.

        Answers of this engine that have begun are cancelled, others fail.
        """
        ...
