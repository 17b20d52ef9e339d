"""`TransformersChatModel`: a model of this process, spoken to as AgentScope speaks to any."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from agentscope.agent import Agent
from agentscope.model import ChatModelBase, ChatResponse, ModelCard, StructuredResponse

from agent_finetune.config import Dtype, ModelConfig, Quantization
from agent_finetune.contracts import Engine, Request, Secret, Settings
from agent_finetune.errors import BusyError, ConfigError, ContextError, DownloadError
from agent_finetune.settings import read_settings
from agentscope_finetune import cards, convert, policy
from agentscope_finetune.answers import Answer, chunks_of
from agentscope_finetune.credential import TransformersCredential
from agentscope_finetune.formatter import TransformersChatFormatter
from agentscope_finetune.parameters import GenerationParameters
from agentscope_finetune.serving import Serving
from agentscope_finetune.structured import Structure, checked, schema_of, told

if TYPE_CHECKING:
    from agentscope.formatter import FormatterBase
    from agentscope.message import Msg
    from agentscope.tool import ToolChoice

Errors: TypeAlias = tuple[type[Exception], ...]

_LOG = logging.getLogger(__name__)

DEFAULT_CONTEXT = 32768
"""What the host takes a context to be where nobody knows; only until the model is loaded."""


class TransformersChatModel(ChatModelBase):
    """A local model behind an AgentScope agent. Making one costs nothing and imports no torch.

    The weights are loaded at the first call, off the event loop, once for all models of this
    process that agree on them; several agents share them, each with an adapter of its own.

    Args:
        credential: What a service's user filled in. With one, `policy` says which models may be
            had; without, the model is the program's own.
        model: Hub id, local folder, GGUF file, folder of an adapter, or a shipped model.
        parameters: How to generate.
        stream: Whether calls answer a stream of chunks.
        max_retries: How often a call is repeated that found the model away or the network down.
        retry_delay: Seconds between.
        context_size: Tokens that the host may fill; None is what the model holds.
        formatter: What turns messages into turns.
        adapter: Folder of an adapter to speak through.
        revision: Branch, tag or commit of a hub id.
        device: auto, cpu, cuda or cuda:N.
        dtype: Number format of the weights.
        quantization: none, 4bit or 8bit.
        trust_remote_code: Run code that comes with the model.
        engine: A live engine to speak through, instead of one that is opened from the above.
        settings: Token, cache and offline switch; None reads the environment and `.env`.

    Raises:
        ConfigError: A value is not legal, or the credential may not reach this model.
    """

    class Parameters(GenerationParameters):
        """How to generate, in the names that other providers use."""

    type: Literal["transformers_chat"] = "transformers_chat"
    """The type of the chat model."""

    def __init__(
        self,
        credential: TransformersCredential | None = None,
        model: str = "",
        parameters: GenerationParameters | None = None,
        stream: bool = True,
        max_retries: int = 0,
        retry_delay: float = 1.0,
        context_size: int | None = None,
        formatter: FormatterBase | None = None,
        *,
        adapter: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        quantization: Quantization = "none",
        trust_remote_code: bool = False,
        engine: Engine | None = None,
        settings: Settings | None = None,
    ) -> None:
        own = credential or TransformersCredential()
        self._held = credential is not None
        self._settings = _settings(own, settings)
        config = None
        if engine is None or model or adapter:
            config = ModelConfig(
                model=model or adapter or "",
                revision=revision,
                adapter=adapter if model else None,
                device=device,
                dtype=dtype,
                quantization=quantization,
                trust_remote_code=trust_remote_code or own.trust_remote_code,
            )
        self._serving = self._serving_of(config, engine)
        self._set_context: int | None = None
        self.parameters: GenerationParameters
        super().__init__(
            credential=own,
            model=model or adapter or "live engine",
            parameters=parameters or self.Parameters(),
            stream=stream,
            max_retries=max_retries,
            retry_delay=retry_delay,
            context_size=context_size or 0,
        )
        self.formatter = formatter or TransformersChatFormatter()

    @property
    def engine(self) -> Engine:
        """The live engine that answers; opened, and not loaded, when it is first asked for."""
        return self._serving.engine

    @property
    def model_config(self) -> ModelConfig:
        """What is served. Of an engine that was given alone, this loads the model."""
        return self._serving.config

    @property
    def context_size(self) -> int:
        """Tokens that prompt and answer may have together: what was set, or the model's own.

        Never more than the model holds, where its files say that, and in any case once it is
        loaded.
        """
        real = self._serving.context
        if self._set_context is not None:
            return self._set_context if real is None else min(self._set_context, real)
        return real or DEFAULT_CONTEXT

    @context_size.setter
    def context_size(self, value: int) -> None:
        self._set_context = value or None

    @classmethod
    def list_models(cls, custom_yaml_dir: str | None = None) -> list[ModelCard]:
        """Cards of well-known small models, and of what lies under the roots of the policy."""
        read = super().list_models
        if custom_yaml_dir is not None:
            return read(custom_yaml_dir)
        return [*read(str(cards.KNOWN)), *cards.local(read)]

    async def serve(self, config: ModelConfig) -> None:
        """Speak with another model or adapter from now on; what is under way is finished first.

        It is loaded before anything changes, so that a failure leaves all as it was.

        Raises:
            ConfigError: The credential may not reach it.
            ModelError: It cannot be had.
        """
        serving = self._serving_of(config)
        await serving.load()
        self._serving, self.model, self._set_context = serving, config.model, None

    async def count_tokens(self, messages: list[Msg], tools: list[dict[str, Any]] | None) -> int:
        """Tokens of the prompt that a call with these would have; never raises.

        Where the template does not print such a part of a conversation, its text is counted, and
        where the model cannot be loaded, it is the host's estimate.
        """
        try:
            dicts = await self.formatter.format(messages)
            await self._serving.ask_hub()
            counter = self._serving.counter
            return await counter.count(dicts, tools or (), self.parameters.thinking_enable)
        except (
            Exception
        ) as error:  # the host counts in the middle of everything, and hears it there
            _LOG.warning("tokens of %s are estimated: %s", self.model, error)
            return await super().count_tokens(messages, tools)

    @classmethod
    def _get_retryable_exceptions(cls) -> Errors:
        return (BusyError, DownloadError)

    def _get_disable_thinking_kwargs(self) -> dict[str, Any]:
        return {"thinking_enable": False}

    async def _call_api(
        self,
        model_name: str,
        messages: list[Msg],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        **kwargs: Any,
    ) -> ChatResponse | AsyncGenerator[ChatResponse, None]:
        """Generate. All that can fail fails before this returns, while a fallback can still help.

        Args:
            model_name: The host's name of it; what speaks is this object's engine.
            messages: The conversation.
            tools: Tools offered.
            tool_choice: auto, none, required or a name, and which of the tools are offered.
            **kwargs: Any of `Parameters`, for this call.

        Raises:
            ContextError: The conversation is too long.
            RenderError: The chat template cannot print it.
            ModelError: The model cannot be loaded.
            ConfigError: A value is not legal.
        """
        return await self.respond(await self.request_of(messages, tools, tool_choice, kwargs))

    async def respond(self, request: Request) -> ChatResponse | AsyncGenerator[ChatResponse, None]:
        """Answer a request; one that names an adapter of the engine, through that one.

        Raises:
            FinetuneError: As a call.
        """
        chunks = await self._begin(request)
        if self.stream:
            return chunks
        return [chunk async for chunk in chunks][-1]

    async def _begin(self, request: Request) -> AsyncGenerator[ChatResponse, None]:
        """Wait for the first piece of an answer, which comes behind all that could go wrong."""
        serving = self._serving
        await serving.ask_hub()
        generation = serving.engine.stream(request)
        pieces = aiter(generation)
        answer = Answer(generation.id, request.tools)
        try:
            first = await anext(pieces)
            await serving.learn()
        except ContextError:
            if request.max_new_tokens is None:
                raise
            # There is less room than an answer may take, which is no reason to give none.
            return await self._begin(replace(request, max_new_tokens=None))
        except BaseException:
            generation.cancel()
            raise
        if serving is self._serving:
            self.model = serving.found_name or self.model
        chunks = chunks_of(serving.engine, generation, answer, first, pieces)
        # A generator that nobody has begun to read has no `finally` that would run.
        weakref.finalize(chunks, generation.cancel).atexit = False
        return chunks

    async def generate_structured_output(
        self, messages: list[Msg], structured_model: Structure, **kwargs: Any
    ) -> StructuredResponse:
        """An object of a schema, in one generation: its tokens are held to the schema.

        There is no ladder of attempts, and no tool to call, so a `tool_choice` says nothing here.
        The model does not think first, unless `thinking_enable` is given.

        Raises:
            StructuredOutputError: The answer was cut off, or breaks a rule that no schema holds.
            ConfigError: The schema is one that no generation can be held to.
        """
        if not messages:
            raise ConfigError("messages is empty; an object is generated behind a conversation")
        schema = schema_of(structured_model)
        changes = {**self._get_disable_thinking_kwargs(), **kwargs}
        changes.pop("tool_choice", None)
        request = await self.request_of(told(messages, schema), None, None, changes, schema=schema)
        answer = await self._whole(request)
        return StructuredResponse(
            content=checked(answer, structured_model),
            id=answer.id,
            created_at=answer.created_at,
            usage=answer.usage,
            metadata=answer.metadata,
            finished_reason=answer.finished_reason,
        )

    async def _whole(self, request: Request) -> ChatResponse:
        """A whole answer; what may help to be repeated is, as often as `max_retries` says."""
        left = self.max_retries
        while True:
            try:
                return [chunk async for chunk in await self._begin(request)][-1]
            except self._get_retryable_exceptions():
                if not left:
                    raise
            left -= 1
            await asyncio.sleep(self.retry_delay)

    async def request_of(
        self,
        messages: list[Msg],
        tools: list[dict[str, Any]] | None,
        tool_choice: ToolChoice | None,
        changes: Mapping[str, Any],
        schema: Mapping[str, Any] | None = None,
    ) -> Request:
        """What the engine is asked for a call with these.

        Raises:
            ConfigError: A value is not legal.
        """
        self._validate_tool_choice(tool_choice, tools)
        offered = tools or []
        if tool_choice is not None and tool_choice.tools:
            offered = [tool for tool in offered if tool["function"]["name"] in tool_choice.tools]
        chosen = self._parameters(changes)
        return Request(
            messages=convert.to_messages(await self.formatter.format(messages)),
            tools=offered,
            tool_choice="auto" if tool_choice is None else tool_choice.mode,
            schema=schema,
            max_new_tokens=chosen.max_tokens,
            temperature=chosen.temperature or 0.0,
            top_p=chosen.top_p or 1.0,
            top_k=chosen.top_k or 0,
            repetition_penalty=chosen.repetition_penalty or 1.0,
            seed=chosen.seed,
            stop=chosen.stop or (),
            thinking=chosen.thinking_enable,
        )

    def _parameters(self, changes: Mapping[str, Any]) -> GenerationParameters:
        """This model's parameters, with those of one call."""
        if not changes:
            return self.parameters
        legal = self.Parameters.model_fields
        for name in changes:
            if name not in legal:
                raise ConfigError(f"a call has {name!r}; legal are {', '.join(legal)}")
        return self.Parameters.model_validate({**self.parameters.model_dump(), **changes})

    def _serving_of(self, config: ModelConfig | None, engine: Engine | None = None) -> Serving:
        """What serves a config, where the credential may reach it."""
        if config is not None and self._held:
            config = policy.check(config)
        return Serving(config, self._settings, engine=engine, held=self._held)


def connect(agent: object, engine: Engine) -> TransformersChatModel:
    """Let a live agent speak through an engine; answers its new chat model.

    Its formatter stays where it is one of ours, and whether it streams stays in any case.

    Raises:
        ConfigError: It is no agent of AgentScope.
    """
    if not isinstance(agent, Agent):
        raise ConfigError(f"agent is {agent!r}; it must be an agentscope.agent.Agent")
    old = agent.model
    formatter = old.formatter if isinstance(old, TransformersChatModel) else None
    model = TransformersChatModel(engine=engine, stream=old.stream, formatter=formatter)
    agent.model = model
    return model


def _settings(credential: TransformersCredential, settings: Settings | None) -> Settings:
    settings = settings or read_settings()
    if credential.hf_token is None:
        return settings
    return replace(settings, hub_token=Secret(credential.hf_token.get_secret_value()))
