"""Whatever learns from feedback: a model client or config, of this package or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Learns(Protocol):
    """A client or config that learns from feedback; the method may be async or not."""

    def update_model(
        self,
        preference_data: Sequence[Any] | None,
        inference_messages: Sequence[Mapping[str, Any]],
        **kwargs: Any,
    ) -> dict[str, Any] | Awaitable[dict[str, Any]]: ...


async def learned(
    learner: Learns,
    preference_data: Sequence[Any] | None,
    messages: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """What its `update_model` answers; one that is not async runs in a thread."""
    learn = partial(learner.update_model, preference_data, messages, **kwargs)
    asynchronous = iscoroutinefunction(learner.update_model)
    answer = learn() if asynchronous else await asyncio.to_thread(learn)
    return await answer if isawaitable(answer) else answer
