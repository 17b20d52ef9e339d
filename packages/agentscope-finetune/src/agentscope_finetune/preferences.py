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
    calls: tuple[ToolCall, ...] | None
    """All calls that it should have made, where one was edited; None where some were denied."""

    def write(self, recordings: Recordings) -> None:
        """Attach it to the answer."""
        if self.calls is None:
            recordings.feedback(self.id, value=False, comment="a call was denied")
            return
        said = recordings.show(self.id).exchange.result.message
        better = replace(said, tool_calls=self.calls, generation=None)
        recordings.feedback(self.id, correction=better, comment="a call was edited")


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
        denied = [b.id for b in blocks if b.id in decided and not decided[b.id].confirmed]
        kept = [
            decided[b.id].tool_call if b.id in decided else b for b in blocks if b.id not in denied
        ]
        before = {block.id: _call(block) for block in blocks}
        calls = [_call(block) for block in kept]
        edited = any(call != before[block.id] for block, call in zip(kept, calls, strict=True))
        whole = tuple(call for call in calls if call is not None)
        if edited and len(whole) == len(calls):
            judgements.append(Judgement(answer, whole))
        elif denied:
            judgements.append(Judgement(answer, None))
    return judgements


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
