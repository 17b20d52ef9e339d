"""`HFChatCompletionClient`: a local model, as agents of AutoGen 0.4 and later take one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from autogen_core import EVENT_LOGGER_NAME, CancellationToken, Component
from autogen_core.logging import LLMCallEvent, LLMStreamEndEvent, LLMStreamStartEvent
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelCapabilities,
    ModelFamily,
    ModelInfo,
    RequestUsage,
    validate_model_info,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel, ConfigDict

from agent_finetune.config import Attention, Dtype, FourBitType, Quantization
from agent_finetune.contracts import Request, Settings
from agent_finetune.errors import ConfigError
from autogen_finetune.agentchat.answering import answered
from autogen_finetune.agentchat.messages import to_dicts, to_tools
from autogen_finetune.agentchat.results import to_create_result
from autogen_finetune.config import GENERATION_KEYS, read_config, read_options
from autogen_finetune.live import LiveModel
from autogen_finetune.oai import to_messages

ToolChoice = Tool | Literal["auto", "required", "none"]
JsonOutput = bool | type[BaseModel] | None

_EVENTS = logging.getLogger(EVENT_LOGGER_NAME)


class HFClientConfig(BaseModel):
    """What a component file says of a local model; `HFChatCompletionClient` explains it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    revision: str | None = None
    adapter: str | None = None
    store: str | None = None
    record_to: str | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    four_bit_type: FourBitType = "nf4"
    double_quantization: bool = True
    attention: Attention = "auto"
    trust_remote_code: bool = False
    generation: dict[str, Any] = {}
    model_info: ModelInfo | None = None


class HFChatCompletionClient(ChatCompletionClient, Component[HFClientConfig]):
    """A model of this process behind agents of AutoGen 0.4 and later.

    Making one loads nothing; the weights are loaded at the first call, off the event loop, once
    for all clients that name the same. Agents that share a client learn together; an agent with a
    client of its own has an adapter of its own.

    Args:
        model: Hub id, local folder, GGUF file, or a shipped model.
        adapter: Name of the adapter it speaks with and learns into, or the folder of one.
        store: Folder in which the adapters of all names are.
        model_info: What AutoGen is told the model can do, where that differs from MODEL_INFO.
        live: A live model to speak through, instead of one that is opened from the rest.
        settings: Token, cache and offline switch; None reads environment and `.env`.
        **options: The other keys of `config.read_config`: how to hold the weights (`dtype`,
            `quantization`, `device`, ...), `record_to`, and how to generate (`max_tokens`,
            `temperature`, `seed`, `stop`, `thinking`, ...).

    Raises:
        ConfigError: A key is not known or has no legal value.
        ValueError: `model_info` is not whole.
    """

    component_type = "model"
    component_config_schema = HFClientConfig
    component_provider_override = "autogen_finetune.agentchat.HFChatCompletionClient"

    MODEL_INFO: ClassVar[ModelInfo] = {
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "family": ModelFamily.UNKNOWN,
        "structured_output": True,
    }

    def __init__(
        self,
        model: str,
        *,
        adapter: str | Path | None = None,
        store: str | Path | None = None,
        model_info: ModelInfo | None = None,
        live: LiveModel | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        names = {"adapter": adapter, "store": store}
        paths = {key: None if value is None else str(value) for key, value in names.items()}
        config = read_config({"model": str(model), **paths, **options}, what="the client")
        self._config = config
        self._model_info = model_info
        if model_info is not None:
            validate_model_info(model_info)
        self.live = live or config.open(settings)
        self._last = RequestUsage(prompt_tokens=0, completion_tokens=0)
        self._total = RequestUsage(prompt_tokens=0, completion_tokens=0)

    @property
    def revision(self) -> str:
        """What the next answer is made with; it changes with each accepted update."""
        return self.live.revision

    @property
    def generation(self) -> Mapping[str, Any]:
        """How answers are generated, where a call says nothing else."""
        return self._config.generation

    async def ready(self) -> None:
        """Load the model now, off the event loop.

        Raises:
            FinetuneError: It cannot be had.
        """
        await asyncio.to_thread(self.live.ready)

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: ToolChoice = "auto",
        json_output: JsonOutput = None,
        extra_create_args: Mapping[str, Any] = {},
        cancellation_token: CancellationToken | None = None,
    ) -> CreateResult:
        """Answer.

        Args:
            messages: The conversation; text only.
            tools: Tools offered.
            tool_choice: auto, none (tools are not shown), required, or the tool to call.
            json_output: True holds the words of the answer to a JSON object, a class to its schema;
                with tools, the model may call one instead.
            extra_create_args: Options of GENERATION_KEYS, for this call.
            cancellation_token: Stops the work.

        Raises:
            ConfigError: A value is not legal, or is one that generation cannot be held to.
            DataError: A message cannot be read, such as one with an image.
            FinetuneError: The model cannot be had, or the conversation not be answered.
            asyncio.CancelledError: The token was used.
        """
        request = self._request(messages, tools, tool_choice, json_output, extra_create_args)
        pieces = self._pieces(request, cancellation_token, json_output)
        result = [piece async for piece in pieces][-1]
        assert isinstance(result, CreateResult)
        _EVENTS.info(
            LLMCallEvent(
                messages=to_dicts(messages),
                response=result.model_dump(),
                prompt_tokens=result.usage.prompt_tokens,
                completion_tokens=result.usage.completion_tokens,
                tools=list(request.tools),
            )
        )
        return result

    async def create_stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: ToolChoice = "auto",
        json_output: JsonOutput = None,
        extra_create_args: Mapping[str, Any] = {},
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        """Answer in pieces of text, and with what `create` would say at the end.

        Thinking and calls come in the last piece alone. Whoever stops reading stops the work.
        """
        request = self._request(messages, tools, tool_choice, json_output, extra_create_args)
        _EVENTS.info(LLMStreamStartEvent(messages=to_dicts(messages)))
        async for piece in self._pieces(request, cancellation_token, json_output):
            if isinstance(piece, CreateResult):
                _EVENTS.info(
                    LLMStreamEndEvent(
                        response=piece.model_dump(),
                        prompt_tokens=piece.usage.prompt_tokens,
                        completion_tokens=piece.usage.completion_tokens,
                    )
                )
            yield piece

    async def update_model(
        self,
        preference_data: Sequence[Any] | None,
        inference_messages: Sequence[Mapping[str, Any]],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Learn from feedback, in a worker thread; answers go on meanwhile.

        Args:
            preference_data: As `LiveModel.update`; a `turn` is an index of `inference_messages`.
            inference_messages: The conversation, as OpenAI's chat dicts.
            **kwargs: Those of `LiveModel.update`.

        Raises:
            FinetuneError: Nothing can be learned, or training failed; all stands as it was.
        """
        thread = to_messages(inference_messages, "inference_messages")
        update = await asyncio.to_thread(self.live.update, preference_data, thread, **kwargs)
        return update.stats()

    async def close(self) -> None:
        """Give up the hold on the weights; nothing can be asked any more."""
        self.live.close()

    def actual_usage(self) -> RequestUsage:
        """Tokens of the last answer."""
        return replace(self._last)

    def total_usage(self) -> RequestUsage:
        """Tokens of all answers."""
        return replace(self._total)

    def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Tokens of the prompt, exactly as it would be served.

        The host's method is not async: the model is loaded here if it is not, and whoever waits
        for that on an event loop blocks it; `await ready()` before is the way around.
        """
        thinking = self.generation.get("thinking")
        return self.live.count_tokens(_messages(messages), to_tools(tools), thinking=thinking)

    def remaining_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Tokens that the model's context leaves for an answer; it loads as `count_tokens` does."""
        count = self.count_tokens(messages, tools=tools)
        return self.live.engine.info().context - count

    @property
    def capabilities(self) -> ModelCapabilities:
        """What `model_info` has replaced."""
        return self.model_info

    @property
    def model_info(self) -> ModelInfo:
        """What AutoGen is told the model can do."""
        return self._model_info or self.MODEL_INFO

    def _to_config(self) -> HFClientConfig:
        live, said = self.live, self._config
        named = live.name is not None
        return HFClientConfig(
            model=live.model.model,
            revision=live.model.revision,
            adapter=live.name or live.model.adapter,
            store=str(live.store) if named else said.store,
            record_to=said.record_to,
            device=live.model.device,
            dtype=live.model.dtype,
            quantization=live.model.quantization,
            four_bit_type=live.model.four_bit_type,
            double_quantization=live.model.double_quantization,
            attention=live.model.attention,
            trust_remote_code=live.model.trust_remote_code,
            generation=json.loads(json.dumps(dict(said.generation))),
            model_info=self._model_info,
        )

    @classmethod
    def _from_config(cls, config: HFClientConfig) -> HFChatCompletionClient:
        said = config.model_dump(exclude={"generation", "model_info"})
        return cls(**said, model_info=config.model_info, **config.generation)

    def _request(
        self,
        messages: Sequence[LLMMessage],
        tools: Sequence[Tool | ToolSchema],
        tool_choice: ToolChoice,
        json_output: JsonOutput,
        extra: Mapping[str, Any],
    ) -> Request:
        if unknown := extra.keys() - GENERATION_KEYS.keys():
            named, legal = ", ".join(sorted(unknown)), ", ".join(GENERATION_KEYS)
            raise ConfigError(f"extra_create_args: no key {named!r} is known; legal are {legal}")
        said = {key: value for key, value in extra.items() if value is not None}
        return Request(
            messages=_messages(messages),
            tools=to_tools(tools),
            tool_choice=tool_choice.name if isinstance(tool_choice, Tool) else tool_choice,
            schema=_schema(json_output),
            **{**self.generation, **read_options(said, "extra_create_args")},
        )

    async def _pieces(
        self, request: Request, token: CancellationToken | None, wanted: JsonOutput
    ) -> AsyncIterator[str | CreateResult]:
        async for piece in answered(self.live, request, token, partial(_fits, wanted)):
            if isinstance(piece, str):
                yield piece
                continue
            self._last = piece.usage
            self._total.prompt_tokens += piece.usage.prompt_tokens
            self._total.completion_tokens += piece.usage.completion_tokens
            yield to_create_result(piece.result, request.tools, replace(piece.usage))


def _messages(messages: Sequence[LLMMessage]) -> tuple[Any, ...]:
    return tuple(to_messages(to_dicts(messages)))


def _schema(wanted: JsonOutput) -> Mapping[str, Any] | None:
    if not wanted:
        return None
    if wanted is True:
        return {"type": "object"}
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return wanted.model_json_schema()
    raise ConfigError(
        f"json_output is {wanted!r}; legal are True, False, None and a BaseModel class"
    )


def _fits(wanted: JsonOutput, text: str) -> bool:
    """Whether words are the JSON that is wanted."""
    try:
        if isinstance(wanted, type):
            wanted.model_validate_json(text)
            return True
        return isinstance(json.loads(text), dict)
    except ValueError:  # pydantic's errors are such too
        return False
