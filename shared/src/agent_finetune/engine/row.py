"""One request while it is answered, and the voice that answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_finetune.contracts import Delta, FinishReason, Request, Result, Usage
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.engine.grammar import THINKING_TOKENS, Constraint, Grammars
from agent_finetune.engine.sampling import Sampling
from agent_finetune.errors import ContextError
from agent_finetune.records import Generation, Message

if TYPE_CHECKING:
    from agent_finetune.render import Prompt, Renderer
    from agent_finetune.toolcalls import Piece


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """What a name stands for: an adapter, or the base, and how prompts for it are written."""

    renderer: Renderer
    """With the adapter's own tokenizer and template, where its folder has them."""
    thinking: Callable[[bool | None], Renderer]
    """`Renderer.thinking`, each made once."""
    grammars: Callable[[bool | None], Grammars]
    """For turns that are asked to think, or not; made when an answer is first held to one, as
    that reads the whole vocabulary."""
    stops: frozenset[int]
    """Ids that end an answer: the template's, and the model's own."""
    revision: str
    key: str | None
    """Its adapter in the bank; None is the base."""

    def prompt(self, request: Request) -> Prompt:
        """A request's prompt, as it is served.

        Raises:
            RenderError: The template cannot express the messages.
        """
        said = self.renderer.said_messages(request.messages)
        return self.thinking(request.thinking).prompt(said, offered(request))

    def sampling(self, request: Request, prompt: Prompt) -> Sampling:
        """How a request's tokens are chosen.

        Raises:
            ConfigError: Its schema says what the grammar library cannot.
            RenderError: The template's calls cannot be forced.
        """
        sampling = Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            repetition_penalty=request.repetition_penalty,
            seed=request.seed,
            constraint=self._held(request, prompt.asking),
        )
        sampling.hear(prompt.ids)
        return sampling

    def _held(self, request: Request, asking: str) -> Constraint | None:
        # Half of the answer at most, or a model that loves to think would never come to it.
        thinking = min(THINKING_TOKENS, (request.max_new_tokens or 2 * THINKING_TOKENS) // 2)
        if request.thinking is False:
            thinking = 0
        if request.schema is not None:
            grammars = self.grammars(request.thinking)
            return grammars.schema(request.schema, thinking=thinking, asking=asking)
        if request.tool_choice in ("auto", "none"):
            return None
        name = None if request.tool_choice == "required" else request.tool_choice
        grammars = self.grammars(request.thinking)
        return grammars.call(request.tools, name, thinking=thinking, asking=asking)


def offered(request: Request) -> Sequence[Any]:
    """The tools that the model is shown."""
    return () if request.tool_choice == "none" else request.tools


def revision_of(base: str, adapter: str | None) -> str:
    """What answers are made with: the base's digest alone, or one digest over it and an adapter's.

    Args:
        base: `LoadedModel.digest`.
        adapter: `adapters.digest` of the folder.
    """
    if adapter is None:
        return base
    both = f"{base}\n{adapter}\n"
    return f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"


def room(request: Request, prompt: Sequence[int], context: int) -> int:
    """Most tokens that an answer may have.

    Raises:
        ContextError: The prompt, or prompt and answer together, are longer than the context.
    """
    left = context - len(prompt)
    wanted = request.max_new_tokens
    if left < (wanted or 1):
        asked = f" and {wanted} to generate" if wanted else ""
        raise ContextError(
            f"the prompt has {len(prompt)} tokens{asked}; the model's context holds {context}: "
            "shorten the conversation or its tools, or lower max_new_tokens"
        )
    return wanted or left


class Row:
    """A request under way: what is still to be read, what has been said.

    Args:
        generation: Where the answer goes.
        request: What was asked.
        voice: Who answers.
        context: Tokens that prompt and answer may have together.

    Raises:
        FinetuneError: The request cannot be answered; no work has been done.
    """

    def __init__(
        self, generation: LiveGeneration, request: Request, voice: Voice, context: int
    ) -> None:
        self.generation = generation
        self.request = request
        self.voice = voice
        prompt = voice.prompt(request)
        self.prompt = prompt.ids
        self.todo: Sequence[int] = self.prompt
        """Tokens that the model has not seen yet: of the prompt, or the one said last."""
        self.memory: Any = None
        """What `Runner.memory` made; None until the row begins."""
        self.cached = 0
        """Tokens of the prompt that came with the memory."""
        self.sampling = voice.sampling(request, prompt)
        self._left = room(request, self.prompt, context)
        self._said: list[int] = []
        self._turn = voice.thinking(request.thinking).open_turn(
            offered(request),
            request.stop,
            calls=request.schema is None,
            asking=prompt.asking,
        )

    @property
    def reading(self) -> bool:
        """Whether it has more to read than the token it said last."""
        return self.memory is None or len(self.todo) > 1

    def begin(self, memory: Any) -> None:
        """Take a memory, which may hold a beginning of the prompt already."""
        if not self._said:
            self.cached = len(memory.ids)
        self.memory = memory
        self.todo = (*self.prompt, *self._said)[len(memory.ids) :]

    def rewind(self) -> None:
        """Give the memory up; what it held is read again, and nothing that was said is lost."""
        self.memory = None

    def say(self, token: int) -> Result | None:
        """Take the token that was chosen; answers the result when the row is done with it."""
        self._said.append(token)
        self.sampling.hear((token,))
        self.todo = (token,)
        stopped = token in self.voice.stops
        if self.sampling.constraint is not None and not stopped:
            self.sampling.constraint.advance(token)
        self._hand_on(self._turn.feed((token,)))
        if stopped or self._turn.stopped:
            return self.end("stop")
        return self.end("length") if len(self._said) >= self._left else None

    def end(self, finish: FinishReason) -> Result:
        """Hand over what is left, and the result, which is also the answer."""
        pieces, turn = self._turn.finish()
        self._hand_on(pieces)
        message = Message(
            role="assistant",
            text=turn.text,
            thinking=turn.thinking,
            tool_calls=turn.calls,
            generation=Generation(
                prompt_ids=tuple(self.prompt),
                ids=tuple(self._said),
                renderer=self.voice.renderer.digest,
            ),
        )
        return Result(
            id=self.generation.id,
            message=message,
            finish="tool_calls" if finish == "stop" and turn.calls else finish,
            revision=self.voice.revision,
            usage=Usage(
                prompt_tokens=len(self.prompt),
                completion_tokens=len(self._said),
                cached_tokens=self.cached,
            ),
            broken_calls=turn.broken,
        )

    def _hand_on(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.generation.put(Delta(text=piece.text, thinking=piece.thinking, call=piece.call))
