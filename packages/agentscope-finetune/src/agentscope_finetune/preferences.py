"""What a user's decisions about pending calls of tools say about the answers that made them.

A call that was edited says what the answer should have been. A call that was denied says that the
answer was not good. A tool that failed says nothing: the world may have been at fault.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from agentscope.event import UserConfirmResultEvent
from agentscope.message import ToolCallBlock, ToolResultState

from agent_finetune.recordings import Recordings
from agent_finetune.records import ToolCall

if TYPE_CHECKING:
    from agentscope.model import ChatResponse
    from agentscope.state import AgentState

_KEY = "agentscope_finetune"
"""Where the state's context for middlewares holds, by the ids of a reply's calls, the answers that
made them; AgentScope stores it with the state, so that another process may resume the reply."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided about the calls of one answer."""

    id: str
    """The answer's."""
    calls: tuple[ToolCall, ...]
    """The calls that are left of it: as they were edited, and without those that were denied."""
    denied: bool
    """Whether one was denied just now."""

    def write(self, recordings: Recordings) -> None:
        """Attach it to the answer."""
        said = recordings.show(self.id).exchange.result.message
        if not _among(self.calls, said.tool_calls):
            better = replace(said, tool_calls=self.calls, generation=None)
            recordings.feedback(self.id, correction=better, comment="a call was edited")
        elif self.denied:
            recordings.feedback(self.id, value=False, comment="a call was denied")


Judgements: TypeAlias = Sequence[Judgement]


def remember(state: AgentState, response: ChatResponse) -> None:
    """Keep in the agent's state which recorded answer made which calls, for this reply."""
    kept = state.middle_context.get(_KEY, {})
    calls = kept.get("calls", {}) if kept.get("reply") == state.reply_id else {}
    made = {b.id: response.id for b in response.content if isinstance(b, ToolCallBlock)}
    if made or kept:
        state.middle_context[_KEY] = {"reply": state.reply_id, "calls": {**calls, **made}}


def read(inputs: object, state: AgentState) -> Judgements:
    """What a user decided, as far as it says anything: empty for every other input.

    Args:
        inputs: What a reply begins with.
        state: The agent's, before it has taken the decisions.
    """
    if not isinstance(inputs, UserConfirmResultEvent) or not state.context:
        return ()
    made_by: Mapping[str, str] = state.middle_context.get(_KEY, {}).get("calls", {})
    decided = {result.tool_call.id: result for result in inputs.confirm_results}
    last = state.context[-1]
    refused = {
        block.id
        for block in last.get_content_blocks("tool_result")
        if block.state == ToolResultState.DENIED
    }
    made = [b for b in last.get_content_blocks("tool_call") if b.id not in refused]
    judgements = []
    for answer in dict.fromkeys(made_by[id] for id in decided if id in made_by):
        blocks = [block for block in made if made_by.get(block.id) == answer]
        denied = {b.id for b in blocks if b.id in decided and not decided[b.id].confirmed}
        left = [decided[b.id].tool_call if b.id in decided else b for b in blocks]
        calls = [call for block in left if block.id not in denied and (call := _call(block))]
        unread = len(calls) + len(denied) < len(blocks)  # they cannot say what should have been
        edited = any(_call(old) != _call(new) for old, new in zip(blocks, left, strict=True))
        if denied or (edited and not unread):
            judgements.append(Judgement(answer, () if unread else tuple(calls), bool(denied)))
    return judgements


def _among(calls: Sequence[ToolCall], said: Sequence[ToolCall]) -> bool:
    """Whether these are calls of an answer, in their order, none of them changed."""
    left = iter([(call.name, call.arguments) for call in said])
    return all((call.name, call.arguments) in left for call in calls)


def _call(block: ToolCallBlock) -> ToolCall | None:
    """The call, its id left out, which is the host's; None where its arguments do not parse."""
    arguments = _parsed(block.input)
    return None if arguments is None else ToolCall(name=block.name, arguments=arguments)


def _parsed(raw: str) -> dict[str, Any] | None:
    try:
        value = json.loads(raw or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
