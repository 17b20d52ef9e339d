"""`FineTuneAgent`: an AgentScope agent that can load and fine-tune the model it speaks with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from agentscope.agent import Agent, ContextConfig, InjectionConfig, ModelConfig, ReActConfig
from agentscope.event import (
    AgentEvent,
    ExternalExecutionResultEvent,
    UserConfirmResultEvent,
    UserInterruptEvent,
)
from agentscope.message import HintBlock, Msg

from agent_finetune.config import ModelConfig as KernelModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, FinetuneError, TrainError
from agent_finetune.settings import read_settings
from agentscope_finetune import runs
from agentscope_finetune.example2024 import ModelEntry, read_fine_tune_config, read_model_configs
from agentscope_finetune.folders2024 import is_folder_2024
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.plans import FineTuneResult, Progress, end_replies, make_model
from agentscope_finetune.tuning import FineTuner

if TYPE_CHECKING:
    from agentscope.middleware import MiddlewareBase
    from agentscope.model import ChatModelBase
    from agentscope.state import AgentState
    from agentscope.tool import Toolkit
    from agentscope.workspace import Offloader
    from pydantic import BaseModel

Inputs: TypeAlias = (
    Msg
    | list[Msg]
    | UserConfirmResultEvent
    | UserInterruptEvent
    | ExternalExecutionResultEvent
    | None
)


class FineTuneAgent(Agent):
    """An agent whose model can be loaded and fine-tuned while it lives.

    Making one neither loads nor trains. With `data_path`, training starts once, when the agent is
    first awaited for anything, which waits for it; the same training (model, data, configuration)
    that has finished in `output_dir` is used as it is, by this and any other process. If it
    fails, that first call raises a `TrainError`, and the agent goes on with its model untrained.

    It takes what `Agent` takes, in the same order, so it can be a service's `custom_agent_cls`.

    Args:
        name: As in Agent.
        system_prompt: As in Agent.
        model: As in Agent; leave it out when a model is named below.
        toolkit: As in Agent.
        middlewares: As in Agent. A `ConversationRecorder` among them is what `fine_tune` without
            data learns from.
        state: As in Agent.
        offloader: As in Agent.
        model_config: As in Agent.
        context_config: As in Agent.
        react_config: As in Agent.
        injection_config: As in Agent.
        pretrained_model_name_or_path: Model to speak with; see `load_model`.
        model_id: The same, by its other name.
        local_model_path: Local model, adapter or run to speak with; see `load_model`.
        data_path: What to train on before the first answer; None trains nothing.
        output_dir: Where that run goes; see `fine_tune`.
        device: auto, cpu, cuda or cuda:N.
        fine_tune_config: How to load and train; see `fine_tune`.
        env_file: File with the hub token; None reads `.env` in the current folder.
        on_progress: Gets each line of a training's history, on the event loop.
        sys_prompt: What `system_prompt` was called in 2024.
        model_config_name: Name of one of `model_configs`, as in 2024.
        model_configs: Path of that `model_configs.json`. Its entry's `data_path`, `output_dir` and
            `fine_tune_config` hold where they are not given here.

    Raises:
        ConfigError: No model is named, or two are, or a value is not legal.
        ModelError: There is nothing usable at `local_model_path`.
    """

    def __init__(
        self,
        name: str,
        system_prompt: str | None = None,
        model: ChatModelBase | None = None,
        toolkit: Toolkit | None = None,
        middlewares: list[MiddlewareBase] | None = None,
        state: AgentState | None = None,
        offloader: Offloader | None = None,
        model_config: ModelConfig | None = None,
        context_config: ContextConfig | None = None,
        react_config: ReActConfig | None = None,
        injection_config: InjectionConfig | None = None,
        *,
        pretrained_model_name_or_path: str | None = None,
        model_id: str | None = None,
        local_model_path: str | None = None,
        data_path: str | None = None,
        output_dir: str | None = None,
        device: str | None = None,
        fine_tune_config: Mapping[str, Any] | None = None,
        env_file: str | Path | None = None,
        on_progress: Progress | None = None,
        sys_prompt: str | None = None,
        model_config_name: str | None = None,
        model_configs: str | Path | None = None,
    ) -> None:
        settings = None if env_file is None else read_settings(Path(env_file))
        pretrained = _one(
            "pretrained_model_name_or_path, model_id", pretrained_model_name_or_path, model_id
        )
        prompt = _one("system_prompt, sys_prompt", system_prompt, sys_prompt) or ""
        if model_config_name is not None:
            entry = _entry(model_config_name, model_configs)
            model = _one("model, model_config_name", model, entry.model(settings))
            data_path = data_path or entry.data_path
            output_dir = output_dir or entry.output_dir
            fine_tune_config = fine_tune_config or entry.fine_tune_config
        if pretrained is not None or local_model_path is not None:
            named = _named(pretrained, local_model_path, device, fine_tune_config, settings)
            model = _one("model, and the name of one", model, named)
        elif device is not None:
            raise ConfigError(f"device is {device!r} and no model is named; a model has its own")
        if model is None:
            raise ConfigError(
                f"agent {name!r} has no model; give pretrained_model_name_or_path, "
                "local_model_path, or model"
            )
        super().__init__(
            name=name,
            system_prompt=prompt,
            model=model,
            toolkit=toolkit,
            middlewares=middlewares,
            state=state,
            offloader=offloader,
            model_config=model_config,
            context_config=context_config,
            react_config=react_config,
            injection_config=injection_config,
        )
        self._tuner = FineTuner(self, on_progress=on_progress, settings=settings)
        self._first: _First | None = _First(
            load=(pretrained, local_model_path) if _is_old(local_model_path) else None,
            data=data_path,
            output=output_dir,
            config=fine_tune_config,
            prompt=prompt,
        )
        self._first_lock = asyncio.Lock()

    async def load_model(
        self,
        pretrained_model_name_or_path: str | None = None,
        local_model_path: str | None = None,
        fine_tune_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Load a model and speak with it; see `FineTuner.load_model`."""
        await self._train_first()
        await self._tuner.load_model(
            pretrained_model_name_or_path, local_model_path, fine_tune_config
        )

    async def load_tokenizer(
        self,
        pretrained_model_name_or_path: str | None = None,
        local_model_path: str | None = None,
    ) -> None:
        """Check a tokenizer; see `FineTuner.load_tokenizer`, which says why it loads none."""
        await self._train_first()
        await self._tuner.load_tokenizer(pretrained_model_name_or_path, local_model_path)

    async def fine_tune(
        self,
        data_path: str | None = None,
        output_dir: str | None = None,
        fine_tune_config: Mapping[str, Any] | None = None,
    ) -> FineTuneResult:
        """Fine-tune the model and speak through the result; see `FineTuner.fine_tune`."""
        await self._train_first()
        return await self._tuner.fine_tune(data_path, output_dir, fine_tune_config)

    async def reply(
        self, inputs: Inputs = None, structured_schema: type[BaseModel] | None = None
    ) -> Msg:
        """See `Agent.reply`."""
        await self._train_first()
        return await super().reply(inputs, structured_schema)

    async def reply_stream(
        self,
        inputs: Inputs = None,
        structured_schema: type[BaseModel] | None = None,
        yield_final_msg: bool = False,
    ) -> AsyncGenerator[AgentEvent | Msg, None]:
        """See `Agent.reply_stream`."""
        await self._train_first()
        events = super().reply_stream(inputs, structured_schema, yield_final_msg)
        async with aclosing(events):
            async for event in events:
                yield event

    async def observe(self, msgs: Msg | list[Msg] | None = None) -> None:
        """See `Agent.observe`."""
        await self._train_first()
        await super().observe(msgs)

    async def compress_context(
        self,
        context_config: ContextConfig | None = None,
        instructions: HintBlock | None = None,
    ) -> None:
        """See `Agent.compress_context`."""
        await self._train_first()
        await super().compress_context(context_config, instructions)

    async def _train_first(self) -> None:
        """What the agent was made with and costs time, once; whoever comes meanwhile waits.

        A training that is cancelled begins again at the next call.
        """
        async with self._first_lock:
            if self._first is not None:
                await self._begin(self._first)

    async def _begin(self, first: _First) -> None:
        if first.load is not None:
            await self._tuner.load_model(*first.load, first.config)
            first = self._first = replace(first, load=None)
        if first.data is not None:
            try:
                await self._tuner.fine_tune_once(
                    first.data, first.output, first.config, also=first.prompt
                )
            except FinetuneError as error:
                self._first = None
                raise TrainError(
                    f"agent {self.name!r} could not be fine-tuned on {first.data!r}: {error}. It "
                    "goes on with its model as it is; fine_tune(data_path=...) tries again"
                ) from error
        self._first = None


FinetuneDialogAgent = FineTuneAgent
"""The name of 2024's first version."""
Finetune_DialogAgent = FineTuneAgent
"""The name of 2024's last version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _First:
    """What an agent does before its first answer."""

    load: tuple[str | None, str | None] | None
    """Arguments of `load_model` that take time."""
    data: str | None
    """What it is trained on."""
    output: str | None
    config: Mapping[str, Any] | None
    prompt: str


def _is_old(local: str | None) -> bool:
    """Whether it takes time to say what a local path means."""
    return local is not None and is_folder_2024(Path(local).expanduser())


def _one(names: str, first: Any, second: Any) -> Any:
    """The one of two that is given, None when neither is."""
    if first is not None and second is not None:
        raise ConfigError(f"both of {names} are given; give one")
    return second if first is None else first


def _named(
    pretrained: str | None,
    local: str | None,
    device: str | None,
    fine_tune_config: Mapping[str, Any] | None,
    settings: Settings | None,
) -> TransformersChatModel:
    """A model by its name; nothing is loaded."""
    asked = read_fine_tune_config(fine_tune_config)
    if _is_old(local):
        found = KernelModelConfig(model=str(local))  # stands in until it is loaded
    else:
        found = runs.find_model(pretrained, local, settings or Settings())
    changes = {**asked.model, **({} if device is None else {"device": str(device)})}
    model = make_model(replace(found, **changes), settings=settings)
    end_replies(model, asked)
    return model


def _entry(name: str, configs: str | Path | None) -> ModelEntry:
    """An entry of a `model_configs.json`."""
    if configs is None:
        raise ConfigError(
            f"model_config_name is {name!r}, and AgentScope keeps no list of models any more; give "
            "model_configs, the path of a model_configs.json, beside it"
        )
    entries = read_model_configs(Path(configs))
    if name not in entries:
        known = ", ".join(map(repr, entries)) or "none"
        raise ConfigError(f"model_config_name is {name!r}; {configs} has {known}")
    return entries[name]
