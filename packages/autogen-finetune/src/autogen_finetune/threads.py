"""A thread of classic AutoGen (`agent.chat_messages[peer]`) as what its model was asked and said.

A thread is not the prompt. The system message and the tools are the agent's, results of tools lie
together in one message, and not everything that has the role assistant was generated: an agent
opens chats, has default replies, people type in its name, and a peer's tool calls are filed under
this role too. Only what the model said may be learned from as an answer of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from agent_finetune.contracts import Exchange
from agent_finetune.errors import DataError
from agent_finetune.feedback.words import AnswerKey, answer_key, clean
from agent_finetune.readers.chat import as_tools
from agent_finetune.records import Message
from autogen_finetune.live import IGNORED, LiveModel
from autogen_finetune.oai import unrolled, with_speakers

WHAT = "inference_messages"


@runtime_checkable
class Agent(Protocol):
    """What is read of a `ConversableAgent`, the same in 0.2.35, 0.9 and 0.14."""

    name: str
    client: Any
    """An `OpenAIWrapper`, or None."""
    hook_lists: Mapping[str, Sequence[Any]]
    _default_auto_reply: str | Mapping[str, Any] | None
    _human_input: Sequence[str]
    """What people typed in the agent's name."""

    @property
    def system_message(self) -> str: ...

    @property
    def chat_messages(self) -> Mapping[Any, Sequence[Mapping[str, Any]]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread:
    """A conversation as the model saw it."""

    messages: tuple[Message, ...]
    """System message first; assistant turns that were not generated have `trained` False."""
    tools: tuple[Mapping[str, Any], ...]
    places: tuple[int, ...]
    """For each message of the host's, the index here of its last turn."""

    def placed(self, items: Sequence[Any], what: str) -> Sequence[Any]:
        """Feedback as it is about `messages`: turns with their indices here.

        A pair by its words alone, of which the rejected ones were said several times, is about the
        last time: AutoGen's summary of a chat is its last message.

        Raises:
            DataError: The host has no such message.
        """
        if isinstance(items, str | Mapping) or not isinstance(items, Sequence):
            return items  # refused, with its reason, where it is read
        return [self._placed(item, f"{what}[{index}]") for index, item in enumerate(items)]

    def _placed(self, item: Any, what: str) -> Any:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str):
            again = self._again(item[1])
            pair = {"chosen": item[0], "rejected": item[1], "turn": again}
            return item if again is None else pair
        turn = item.get("turn") if isinstance(item, Mapping) else None
        if turn is None or isinstance(turn, bool) or not isinstance(turn, int):
            return item
        count = len(self.places)
        if not -count <= turn < count:
            raise DataError(f"{what}: turn is {turn}; {WHAT} has {count} messages")
        return {**item, "turn": self.places[turn]}

    def _again(self, text: str) -> int | None:
        """The last turn that said this, if several did."""
        wanted = _key(Message(role="assistant", text=text))
        turns = enumerate(self.messages)
        said = [index for index, turn in turns if turn.trained and _key(turn) == wanted]
        return said[-1] if len(said) > 1 else None


def read_thread(
    messages: Sequence[Mapping[str, Any]],
    agent: Agent | None = None,
    log: Sequence[Exchange] = (),
) -> Thread:
    """Read a thread.

    Args:
        messages: The host's, as OpenAI's dicts.
        agent: Whose thread it is; without one there are no system message and no tools.
        log: What the agent's model was asked and said, the oldest first.

    Raises:
        DataError: A dict is no chat message; its place is named.
    """
    turns = _turns(messages)
    places = {turn.of: place for place, turn in enumerate(turns)}.values()
    said = _only_generated(turns, agent, log)
    if agent is None:
        return Thread(messages=tuple(with_speakers(said)), tools=(), places=tuple(places))
    system = Message(role="system", text=agent.system_message)
    return Thread(
        messages=tuple(with_speakers([system, *said])),
        tools=_tools(agent),
        places=tuple(place + 1 for place in places),
    )


def learn_from(
    live: LiveModel,
    preference_data: Sequence[Any] | None,
    messages: Sequence[Mapping[str, Any]],
    agent: Agent | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Learn from feedback on a thread; what `HFModelClient.update_model` does.

    Args:
        live: The model that spoke in it.
        preference_data: As `LiveModel.update`; a `turn` is an index of `messages`.
        messages: The host's, as OpenAI's dicts.
        agent: Whose thread it is.
        **options: Those of `LiveModel.update`.

    Returns:
        `update_stats`.

    Raises:
        FinetuneError: Nothing can be learned, or training failed; all stands as it was.
    """
    thread = read_thread(messages, agent, live.log())
    if preference_data is not None:
        preference_data = thread.placed(preference_data, "preference_data")
    if options.get("trusted") is not None:
        options["trusted"] = thread.placed(options["trusted"], "trusted")
    if agent is not None:
        options.setdefault("speaker", agent.name)
    options.setdefault("tools", thread.tools)
    return live.update(preference_data, thread.messages, **options).stats()


def own_answers(agent: Agent) -> Iterator[Message]:
    """Assistant turns of all of an agent's threads that may be its model's."""
    for messages in agent.chat_messages.values():
        turns = _only_generated(_turns(messages), agent, ())
        yield from (turn for turn in turns if turn.role == "assistant" and turn.trained)


def _tools(agent: Agent) -> tuple[Mapping[str, Any], ...]:
    """Tools that the agent offers its model, which AutoGen keeps beside the client."""
    entries = agent.client._config_list if agent.client is not None else []
    entry: Mapping[str, Any] = entries[0] if entries else {}
    return as_tools(entry.get("tools") or entry.get("functions"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """A turn, and the message of the host's that it is of."""

    message: Message
    of: int
    sender: str | None


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[_Turn]:
    list(unrolled(messages, WHAT))  # names the place of what is no chat message
    return [
        _Turn(message=turn, of=index, sender=_sender(message))
        for index, message in enumerate(messages)
        for turn in unrolled([message], WHAT)
    ]


def _sender(message: Mapping[str, Any]) -> str | None:
    """Who sent a message; a function's result has the function's name, and a call has none."""
    return None if message.get("role") == "function" else message.get("name")


def _only_generated(
    turns: Sequence[_Turn], agent: Agent | None, log: Sequence[Exchange]
) -> list[Message]:
    """The turns, of which only those of the model's own are trained.

    From the first turn that is in the log on, the log knows every answer: what it does not hold
    was not generated. Agents whose messages are rewritten as they are sent are the exception.
    Before that, and where nothing is in the log, a turn is the model's unless something speaks
    against it.
    """
    said = {_key(exchange.result.message) for exchange in log}
    rewritten = agent is not None and bool(agent.hook_lists["process_message_before_send"])
    kept: list[Message] = []
    opened = known = False
    for index, turn in enumerate(turns):
        message = turn.message
        opened = opened or message.role != "assistant"
        if message.role == "assistant":
            found = opened and _key(message) in said
            known = known or found
            missing = known and not rewritten
            own = found or not (missing or (agent is not None and _of_others(turns, index, agent)))
            message = replace(message, trained=message.trained and opened and own)
        kept.append(message)
    return kept


def _of_others(turns: Sequence[_Turn], index: int, agent: Agent) -> bool:
    """Whether a turn that is in no log was said by somebody else, or not by a model."""
    message = turns[index].message
    if message.tool_calls:
        return _of_peer(turns, index, agent.name)
    default = agent._default_auto_reply
    reply = str((default.get("content") if isinstance(default, Mapping) else default) or "")
    typed = (clean(each, IGNORED) for each in (reply, *agent._human_input))
    return (message.name or agent.name) != agent.name or clean(message.text, IGNORED) in typed


def _of_peer(turns: Sequence[_Turn], index: int, name: str) -> bool:
    """Whether a call, of which AutoGen does not say who made it, was received.

    Who answers a call did not make it; where that is not known, nobody speaks twice in a row.
    """
    after = next(iter(turns[index + 1 :]), None)
    if after is not None and after.message.role == "tool" and after.sender is not None:
        return after.sender == name
    return turns[index - 1].sender == name


def _key(message: Message) -> AnswerKey:
    return answer_key(message, IGNORED)


def newest(exchanges: Iterable[Exchange], answers: Iterable[Message]) -> Exchange | None:
    """The newest exchange whose answer is one of these."""
    keys = {_key(answer) for answer in answers}
    found = [exchange for exchange in exchanges if _key(exchange.result.message) in keys]
    return found[-1] if found else None
