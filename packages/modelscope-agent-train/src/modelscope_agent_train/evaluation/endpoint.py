"""A model behind an OpenAI-compatible endpoint: vLLM, SGLang, `swift deploy`, or a hosted one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from agent_finetune.contracts import Secret
from agent_finetune.errors import ModelError
from agent_finetune.evaluate import Answer, Asked
from modelscope_agent_train.evaluation.answerers import Progress
from modelscope_agent_train.evaluation.openai_form import as_messages, said_in, turn_of

AGAIN = frozenset((408, 409, 429, 500, 502, 503, 504))
"""Status codes after which the same request may succeed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointAnswerer:
    """Asks `URL/chat/completions` for the likeliest answer (temperature 0), tools included.

    Calls are those that the server took apart. Where it answers words only, calls are looked for
    in these, since a server without a tool parser leaves them there. Redirects are not followed,
    so that the key goes nowhere else.
    """

    url: str
    """Base, with its version: `http://host:8000/v1`."""
    model: str
    key: Secret | None = None
    max_new_tokens: int = 512
    parallel: int = 4
    """Requests under way at once."""
    timeout: float = 120.0
    """Seconds for one answer."""
    attempts: int = 3
    pause: float = 1.0
    """Seconds before the second attempt, twice as many before each further one."""

    @property
    def name(self) -> str:
        return f"{self.model} at {_without_password(self.url)}"

    def answer(
        self, asked: Sequence[Asked], *, on_progress: Progress | None = None
    ) -> list[Answer]:
        """One turn for each history.

        Raises:
            ModelError: The endpoint does not answer, or not as an OpenAI-compatible one does.
        """
        headers = {"Authorization": f"Bearer {self.key.reveal()}"} if self.key else {}
        found = []
        with (
            httpx.Client(headers=headers, timeout=self.timeout) as client,
            ThreadPoolExecutor(max(1, min(self.parallel, len(asked)))) as pool,
        ):
            for answer in pool.map(lambda one: self._ask(client, one), asked):
                found.append(answer)
                if on_progress is not None:
                    on_progress(len(found), len(asked))
        return found

    def _ask(self, client: httpx.Client, asked: Asked) -> Answer:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": as_messages(asked.messages),
            "temperature": 0,
            "max_tokens": self.max_new_tokens,
        }
        if asked.tools:
            body["tools"] = [dict(tool) for tool in asked.tools]
        answered = self._post(client, body)
        try:
            choice = answered["choices"][0]
            message = choice["message"]
            turn = turn_of(message)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self._shown}: {self._masked(str(answered))!r} is no chat completion: {error!r}"
            ) from error
        usage = answered.get("usage") or {}
        return Answer(
            said=said_in(message),
            turn=turn,
            tokens=usage.get("completion_tokens"),
            prompt_tokens=usage.get("prompt_tokens"),
            cut_off=choice.get("finish_reason") == "length",
            prompt_end=asked.messages[-1].text[-300:],
        )

    def _post(self, client: httpx.Client, body: Mapping[str, Any]) -> dict[str, Any]:
        for attempt in range(1, self.attempts + 1):
            last = attempt == self.attempts
            try:
                response = client.post(self._place, json=body)
            except httpx.TransportError as error:
                if last:
                    raise ModelError(f"{self._shown}: no answer: {error}") from error
            else:
                if response.is_success:
                    return self._content(response)
                if last or response.status_code not in AGAIN:
                    raise ModelError(
                        f"{self._shown}: status {response.status_code}: "
                        f"{self._masked(response.text)!r}"
                    )
            time.sleep(self.pause * 2 ** (attempt - 1))
        raise AssertionError("attempts is at least 1")

    def _content(self, response: httpx.Response) -> dict[str, Any]:
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ModelError(f"{self._shown}: {self._masked(response.text)!r} is no JSON object")
        return content

    @property
    def _place(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"

    @property
    def _shown(self) -> str:
        return _without_password(self._place)

    def _masked(self, text: str) -> str:
        """The start of what a server said, without the key, which it may echo."""
        return (text.replace(self.key.reveal(), "***") if self.key else text)[:300]


def _without_password(url: str) -> str:
    """A URL as it may be told; `user:password@` in it is left out."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
