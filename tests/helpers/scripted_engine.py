"""An engine on a script, for tests of what hosts make of answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_finetune.contracts import Delta, EngineInfo, Exchange, Request, Result, Usage
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.engine.row import offered
from agent_finetune.records import Generation, Message
from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_tokenizer


@dataclass(frozen=True)
class Cut:
    """A scripted answer that is cut off by its length."""

    raw: str


Answer = str | Cut | Exception | Callable[[Request], str]


class ScriptedEngine:
    """An engine without weights: prompts, tokens and what is read of an answer are real.

    Args:
        answers: What the model says, one for each request, the last one again and again: raw
            text without its stop, an error, or what makes the text of the request.
        tokenizer: Whose chat template and tokens are used; None is ChatML.
        context: What `info` says.
    """

    def __init__(self, *answers: Answer, tokenizer: Any = None, context: int = 4096) -> None:
        self._answers = list(answers)
        self._tokenizer = tokenizer or tiny_tokenizer()
        self._renderer = Renderer(self._tokenizer)
        self._context = context
        self.requests: list[Request] = []
        self.attached: list[tuple[str, Path]] = []
        self._exchanges: list[Exchange] = []
        self.closed = False

    def generate(self, request: Request) -> Result:
        return self.stream(request).result()

    def stream(self, request: Request) -> LiveGeneration:
        self.requests.append(request)
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        generation = LiveGeneration()
        if isinstance(answer, Exception):
            generation.fail(answer)
            return generation
        cut = isinstance(answer, Cut)
        raw = answer.raw if isinstance(answer, Cut) else answer
        self._say(generation, request, raw(request) if callable(raw) else raw, cut)
        return generation

    def _say(self, generation: LiveGeneration, request: Request, raw: str, cut: bool) -> None:
        ids = self._tokenizer(raw, add_special_tokens=False)["input_ids"]
        turn = self._renderer.open_turn(offered(request), request.stop, calls=not request.schema)
        pieces = [piece for token in ids for piece in turn.feed((token,))]
        rest, parsed = turn.finish()
        for piece in [*pieces, *rest]:
            generation.put(Delta(text=piece.text, thinking=piece.thinking, call=piece.call))
        prompt = self._renderer.prompt_ids(request.messages, offered(request))
        finish = "length" if cut else "tool_calls" if parsed.calls else "stop"
        result = Result(
            id=generation.id,
            message=Message(
                role="assistant",
                text=parsed.text,
                thinking=parsed.thinking,
                tool_calls=parsed.calls,
                generation=Generation(prompt_ids=prompt, ids=tuple(ids)),
            ),
            finish=finish,
            revision="sha256:script",
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(ids)),
            broken_calls=parsed.broken,
        )
        self._exchanges.append(Exchange(request=request, result=result, time=time.time()))
        generation.finish(result)

    def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] = (),
        adapter: str | None = None,
        *,
        thinking: bool | None = None,
    ) -> int:
        return len(self._renderer.prompt_ids(messages, tools))

    def info(self) -> EngineInfo:
        return EngineInfo(
            model="script",
            revision="sha256:script",
            context=self._context,
            device="cpu",
            dtype="float32",
        )

    def recent(self) -> Sequence[Exchange]:
        return tuple(self._exchanges)

    def attach(self, name: str, folder: Path) -> str:
        self.attached.append((name, folder))
        return "sha256:script"

    def detach(self, name: str) -> None:
        raise NotImplementedError

    def adapters(self) -> dict[str, str]:
        return {name: "sha256:script" for name, _ in self.attached}

    def close(self) -> None:
        self.closed = True
