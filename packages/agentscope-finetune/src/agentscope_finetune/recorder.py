"""Conversations become data: each call of a model with its exact prompt, tools and answer.

Nothing is recorded unless a program makes a recorder with a path: that is the consent. What is
written has passed the kernel's redaction (`agent_finetune.recordings`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from agentscope.middleware import MiddlewareBase
from agentscope.model import ChatModelBase, ChatResponse, StructuredResponse

from agent_finetune.errors import DataError
from agent_finetune.recordings import Recordings, Which
from agent_finetune.recordings.writer import writer
from agent_finetune.records import Message
from agentscope_finetune import exchanges, preferences
from agentscope_finetune.formatter import TransformersChatFormatter
from agentscope_finetune.role_model import role_name
from agentscope_finetune.threads import aside

if TYPE_CHECKING:
    from agentscope.agent import Agent
    from agentscope.formatter import FormatterBase
    from agentscope.message import Msg
    from agentscope.tool import ToolChoice

    from agentscope_finetune.structured import Structure

logger = logging.getLogger(__name__)

Chunks: TypeAlias = "AsyncGenerator[ChatResponse, None]"
Keep: TypeAlias = "Callable[[ChatResponse], Awaitable[None]]"


class Tape:
    """Recordings as their writers on an event loop see them: nothing here blocks, or raises.

    Args:
        path: The database; made with the first answer, for its owner's eyes only.
        formatter: What turns messages for other providers' models into turns; None is
            `TransformersChatFormatter`.
    """

    def __init__(self, path: Path | str, formatter: FormatterBase | None = None) -> None:
        self.path = Path(path).expanduser()
        self._writer = writer(self.path)
        self.formatter = formatter or TransformersChatFormatter()

    async def begun(
        self,
        model: ChatModelBase,
        messages: list[Msg],
        tools: list[dict[str, Any]] | None,
        tool_choice: ToolChoice | None,
    ) -> exchanges.Call | None:
        """A call that is about to be made; None, and a line in the log, where it cannot be kept."""
        try:
            return await exchanges.begun(model, messages, tools, tool_choice, self.formatter)
        except Exception:
            logger.exception("a call will not be recorded")  # and is made all the same
            return None

    async def begun_structured(
        self, model: ChatModelBase, messages: list[Msg], structure: Structure
    ) -> exchanges.Call | None:
        """The same for a call that asks for an object."""
        try:
            return await exchanges.begun_structured(model, messages, structure, self.formatter)
        except Exception:
            logger.exception("a call will not be recorded")
            return None

    async def keep(
        self,
        call: exchanges.Call | None,
        response: ChatResponse | StructuredResponse,
        *,
        agent: str | None,
        session: str | None = None,
        reply: str | None = None,
    ) -> bool:
        """Record an answer soon; whether it will be. One that was cut off by a cancel is not."""
        if call is None:
            return False
        try:
            exchange = await call.exchange(response)
        except Exception:
            logger.exception("an answer is not recorded")
            return False
        if exchange is None:
            return False
        model = call.model

        def add(recordings: Recordings) -> None:
            recordings.add(exchange, model=model, agent=agent, session=session, reply=reply)

        self._writer.put(add)
        return True

    def judge(self, judgements: preferences.Judgements) -> None:
        """Record what a user's decisions say about answers, soon."""
        for judgement in judgements:
            self._writer.put(judgement.write)

    async def flush(self) -> None:
        """Wait until everything is on disk that was recorded so far."""
        await aside(self._writer.flush)

    async def feedback(self, id: str, said: Mapping[str, Any]) -> None:
        """See `ConversationRecorder.feedback`."""
        correction = await exchanges.answer_of(said["correction"])

        def write() -> None:
            self._writer.flush()
            recordings = Recordings(self.path, create=False)
            recordings.feedback(_meant(recordings, id), **{**said, "correction": correction})

        await aside(write)


def _meant(recordings: Recordings, id: str) -> str:
    """The generation that an id stands for: its own, or the last step of the reply of this id."""
    if recordings.by_id(id) is not None:
        return id
    steps = recordings.list(Which(reply=id), limit=1)
    if not steps:
        raise DataError(f"{recordings.path}: no reply and no answer {id!r} is recorded")
    return steps[0].id


async def passed_on(chunks: Chunks, keep: Keep) -> Chunks:
    """A stream, untouched; its last chunk, which is the whole answer, is kept."""
    async with aclosing(chunks):
        async for chunk in chunks:
            if chunk.is_last:
                await keep(chunk)
            yield chunk


class ConversationRecorder(MiddlewareBase):
    """Records every call that an agent makes of a model, tool loops included.

    Of a `TransformersChatModel` the exact token ids are kept; of any other provider's, the words.
    Answers that failed or were interrupted are not. Where a user edits a pending call of a tool,
    the edited call becomes the correction of the answer; where one is denied, the answer gets a
    thumb down. Both are found again when a reply is resumed by another process.

    Put it last among `middlewares`: then it sees what the model sees.

    Args:
        path: The database. Giving it is the consent to record.
        agent_name: Name to record under; None is the agent's own. What a role of a
            `MultiRoleAgent` is asked is kept under `name/role`.
        formatter: What turns messages for other providers' models into turns; None is
            `TransformersChatFormatter`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        agent_name: str | None = None,
        formatter: FormatterBase | None = None,
    ) -> None:
        self._tape = Tape(path, formatter)
        self._agent_name = agent_name

    @property
    def path(self) -> Path:
        """The database."""
        return self._tape.path

    @property
    def agent_name(self) -> str | None:
        """The name that is recorded under; None is each agent's own."""
        return self._agent_name

    async def on_model_call(
        self, agent: Agent, input_kwargs: dict[str, Any], next_handler: Callable[..., Any]
    ) -> ChatResponse | Chunks:
        """Make the call, and keep what was asked and answered."""
        model = input_kwargs["current_model"]
        call = await self._tape.begun(
            model, input_kwargs["messages"], input_kwargs["tools"], input_kwargs["tool_choice"]
        )

        async def keep(response: ChatResponse) -> None:
            state = agent.state
            taped = await self._tape.keep(
                call,
                response,
                agent=role_name(model, self._agent_name or agent.name),
                session=state.session_id,
                reply=state.reply_id,
            )
            if taped:
                preferences.remember(state, response)

        answer = await next_handler(**input_kwargs)
        if isinstance(answer, ChatResponse):
            await keep(answer)
            return answer
        return passed_on(cast("Chunks", answer), keep)

    async def on_reply(
        self, agent: Agent, input_kwargs: dict[str, Any], next_handler: Callable[..., Any]
    ) -> AsyncGenerator[Any, None]:
        """Pass a reply on; what a user decided about pending calls is recorded once it counts."""
        judgements = preferences.read(input_kwargs.get("inputs"), agent.state)
        async with aclosing(next_handler(**input_kwargs)) as events:
            async for event in events:
                # The agent has taken the decisions: it refuses wrong ones before it says anything.
                self._tape.judge(judgements)
                judgements = ()
                yield event

    async def feedback(
        self,
        id: str,
        *,
        value: bool | None = None,
        correction: str | Message | Msg | None = None,
        reward: float | None = None,
        comment: str | None = None,
    ) -> None:
        """Attach what somebody said to an answer; of each kind the newest will count.

        Args:
            id: Of a reply, `Msg.id`: its last answer is meant; or of one call, `ChatResponse.id`.
            value: Thumbs up or down.
            correction: What the answer should have been.
            reward: Any number, the higher the better.
            comment: For people; nothing is learnt from it.

        Raises:
            DataError: There is no such answer, nothing is said, or a value is not legal.
        """
        said = {"value": value, "correction": correction, "reward": reward, "comment": comment}
        await self._tape.feedback(id, said)

    async def flush(self) -> None:
        """Wait until everything is on disk that was recorded so far."""
        await self._tape.flush()


class RecordingChatModel(ChatModelBase):
    """A chat model that is another, and records what it is asked and answers.

    For an agent that lives already, `agent.model = RecordingChatModel(agent.model, path)`, and for
    a hosted teacher whose answers a local model is to learn. Whatever is read from it, or set on
    it, is the other model's. It knows nothing of replies; where an agent is made anew,
    `ConversationRecorder` knows more. Use one of the two.

    Args:
        inner: The model that answers.
        path: The database. Giving it is the consent to record.
        agent: Name to record under.
        session: What to call the conversation.
        formatter: As for `ConversationRecorder`.
    """

    _OWN = frozenset(("inner", "_tape", "_who"))

    def __init__(
        self,
        inner: ChatModelBase,
        path: Path | str,
        *,
        agent: str | None = None,
        session: str | None = None,
        formatter: FormatterBase | None = None,
    ) -> None:
        self.inner = inner
        self._tape = Tape(path, formatter)
        self._who = {"agent": agent, "session": session}

    @property
    def path(self) -> Path:
        """The database."""
        return self._tape.path

    @property
    def agent_name(self) -> str | None:
        """The name that is recorded under, if there is one."""
        return self._who["agent"]

    def __getattr__(self, name: str) -> Any:
        if name in self._OWN:  # not made yet, as while it is copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)

    def around(self, inner: ChatModelBase) -> RecordingChatModel:
        """The same recordings around another model; a role's are kept under the role's name."""
        who = {**self._who, "agent": role_name(inner, self._who["agent"])}
        return type(self)(inner, self.path, **who, formatter=self._tape.formatter)

    async def __call__(
        self,
        messages: list[Msg],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        **kwargs: Any,
    ) -> ChatResponse | Chunks:
        """Ask the other model, and keep what was asked and answered."""
        call = await self._tape.begun(self.inner, messages, tools, tool_choice)

        async def keep(response: ChatResponse) -> None:
            await self._tape.keep(call, response, **self._who)

        answer = await self.inner(messages, tools, tool_choice, **kwargs)
        if isinstance(answer, ChatResponse):
            await keep(answer)
            return answer
        return passed_on(answer, keep)

    async def count_tokens(self, messages: list[Msg], tools: list[dict[str, Any]] | None) -> int:
        """Tokens, as the other model counts them."""
        return await self.inner.count_tokens(messages, tools)

    async def generate_structured_output(
        self, messages: list[Msg], structured_model: Structure, **kwargs: Any
    ) -> StructuredResponse:
        """Ask the other model for an object, and keep it."""
        call = await self._tape.begun_structured(self.inner, messages, structured_model)
        answer = await self.inner.generate_structured_output(messages, structured_model, **kwargs)
        await self._tape.keep(call, answer, **self._who)
        return answer

    async def feedback(
        self,
        id: str,
        *,
        value: bool | None = None,
        correction: str | Message | Msg | None = None,
        reward: float | None = None,
        comment: str | None = None,
    ) -> None:
        """As `ConversationRecorder.feedback`; the id is `ChatResponse.id`."""
        said = {"value": value, "correction": correction, "reward": reward, "comment": comment}
        await self._tape.feedback(id, said)

    async def flush(self) -> None:
        """Wait until everything is on disk that was recorded so far."""
        await self._tape.flush()
