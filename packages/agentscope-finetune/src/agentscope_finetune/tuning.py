"""`FineTuner`: loads and fine-tunes the model behind a live agent."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from agent_finetune.config import DataConfig, ModelConfig, RunConfig
from agent_finetune.contracts import Settings
from agent_finetune.engine.local import LocalEngine
from agent_finetune.errors import BusyError, ConfigError, ModelError
from agent_finetune.models import open_tokenizer
from agent_finetune.models.adapter_folders import own_tokenizer
from agent_finetune.settings import read_settings
from agentscope_finetune import runs
from agentscope_finetune.example2024 import FineTuneConfig, read_fine_tune_config
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.plans import (
    FineTuneResult,
    Plan,
    Progress,
    end_replies,
    make_model,
    trained,
)
from agentscope_finetune.recorder import ConversationRecorder, RecordingChatModel
from agentscope_finetune.threads import aside

if TYPE_CHECKING:
    from agentscope.agent import Agent

logger = logging.getLogger(__name__)
T = TypeVar("T")

_busy: weakref.WeakSet[Agent] = weakref.WeakSet()
_busy_lock = threading.Lock()


class FineTuner:
    """Loads and fine-tunes the model behind an agent, which answers meanwhile.

    What the agent speaks with is changed inside its `TransformersChatModel`, and only once the new
    weights are there: a failure leaves model and answers as they were. Agents that were given one
    model object change together. Agents with model objects of their own do not, though they share
    the weights; such an object costs nothing.

    One thing is done at a time: while an agent is loaded or fine-tuned, more of it is a
    `BusyError`.

    Args:
        agent: Any AgentScope agent.
        on_progress: Gets each line of the training history, on the event loop. Without it, a
            line on the terminal shows how far training is, where there is a terminal.
        settings: Hub token, cache and offline switch; None reads environment and `.env`.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        on_progress: Progress | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.agent = agent
        self._on_progress = on_progress
        self._settings = settings

    async def load_model(
        self,
        pretrained_model_name_or_path: str | None = None,
        local_model_path: str | None = None,
        fine_tune_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Load a model, and let the agent speak with it from its next call on.

        Device and number format stay as they are. A model of another class is replaced by a
        `TransformersChatModel`; what records it goes on recording.

        Args:
            pretrained_model_name_or_path: Hub id, shipped model or path. With a local adapter: the
                base that it stands on.
            local_model_path: Model folder, GGUF file, adapter folder, folder of a run, or an
                output folder of the 2024 example.
            fine_tune_config: `bnb_config`, `device` and `max_length` count here.

        Raises:
            BusyError: The agent is being loaded or fine-tuned.
            ConfigError: No model is named, or a value is not legal.
            ModelError: It cannot be had, or this device cannot hold it.
        """
        asked = read_fine_tune_config(fine_tune_config)
        with self._alone():
            found = await aside(
                partial(
                    runs.find_model,
                    pretrained_model_name_or_path,
                    local_model_path,
                    self._settings or read_settings(),
                )
            )
            own = self._own_model()
            if own is None:
                await self._replace_model(replace(found, **asked.model), asked)
                return
            before = await aside(lambda: own.model_config)
            kept = {"device": before.device, "dtype": before.dtype}
            await _speak(own, replace(found, **{**kept, **asked.model}), asked)

    async def load_tokenizer(
        self,
        pretrained_model_name_or_path: str | None = None,
        local_model_path: str | None = None,
    ) -> None:
        """Check that a tokenizer can be had and is that of the agent's model; change nothing.

        In 2024 weights and tokenizer were loaded apart, and could be of different models.
        `load_model` takes both now, so they cannot diverge any more; this is kept for programs
        that call it next.

        Raises:
            ConfigError: No tokenizer is named, or the agent's model is none of ours.
            ModelError: It cannot be had, or belongs to another model.
        """
        model = self._model()
        settings = self._settings or read_settings()

        def check() -> None:
            asked = _open_tokenizer(pretrained_model_name_or_path, local_model_path, settings)
            if asked.get_vocab() != open_tokenizer(model.model_config, settings).get_vocab():
                raise ModelError(
                    f"the tokenizer of {local_model_path or pretrained_model_name_or_path!r} is "
                    f"not that of the agent's model {model.model_config.model!r}; load_model "
                    "loads weights and tokenizer together"
                )

        await aside(check)

    async def fine_tune(
        self,
        data_path: str | None = None,
        output_dir: str | None = None,
        fine_tune_config: Mapping[str, Any] | None = None,
    ) -> FineTuneResult:
        """Fine-tune the agent's model; the agent speaks through the result afterwards.

        It trains in a process of its own. Answers go on meanwhile, with what the agent had before;
        where the device cannot hold both copies, they wait. Cancelling stops the training.

        Rows are rendered with the chat template that serves. Their own system prompt stays; rows
        without one are trained behind the agent's, as they will be served.

        Args:
            data_path: File, folder or hub id. None is what this agent recorded.
            output_dir: Folder in which the run makes its own, `sft_{model}_{time}`; `./runs` where
                neither this nor the config names one.
            fine_tune_config: Keys of the 2024 example. Without `lora_config` a LoRA adapter is
                trained, on the base; with `lora_config={}` every weight, into a new model with
                an engine of its own; with `continue_lora_finetuning` the agent's own adapter.

        Raises:
            BusyError: The agent is being loaded or fine-tuned.
            ConfigError: A value is not legal, or there is no data.
            DataError: The data cannot be read or trained.
            TrainError: Training failed. The agent is as it was before.
        """
        return await self._tune(data_path, output_dir, fine_tune_config, once=None)

    async def fine_tune_once(
        self,
        data_path: str,
        output_dir: str | None = None,
        fine_tune_config: Mapping[str, Any] | None = None,
        *,
        also: str = "",
    ) -> FineTuneResult:
        """As `fine_tune`, but a finished run of the same in `output_dir` is taken as it is.

        The same is: the same model, the same bytes of data, the same configuration. Of several
        agents and processes that ask at once, one trains and the others wait for it.

        Args:
            data_path: As in `fine_tune`.
            output_dir: As in `fine_tune`.
            fine_tune_config: As in `fine_tune`.
            also: What else makes it another run, such as a system prompt.

        Raises:
            FinetuneError: As `fine_tune`.
        """
        return await self._tune(data_path, output_dir, fine_tune_config, once=also)

    async def _tune(
        self,
        data_path: str | None,
        output_dir: str | None,
        fine_tune_config: Mapping[str, Any] | None,
        *,
        once: str | None,
    ) -> FineTuneResult:
        asked = read_fine_tune_config(fine_tune_config)
        output = Path(output_dir or asked.output_dir or runs.DEFAULT_OUTPUT)
        with self._alone():
            model = self._model()  # now: a router may have put another one there when it is done
            plan = await self._plan(model, data_path, output.expanduser().absolute(), asked)
            stop = threading.Event()
            with self._following() as follow:
                work = partial(plan.run, follow, stop)
                if once is not None:
                    settings = self._settings or read_settings()
                    work = partial(plan.run_once, follow, stop, settings, once)
                folder = await _stoppable(work, stop)
            result, served = plan.outcome(folder)
            await _speak(model, served, asked)
        logger.info("%s", result)
        return result

    async def _plan(
        self,
        model: TransformersChatModel,
        data_path: str | None,
        output: Path,
        asked: FineTuneConfig,
    ) -> Plan:
        engine = model.engine
        if not isinstance(engine, LocalEngine):
            raise ConfigError(
                f"the agent's model is served by {type(engine).__name__}, which does not train; "
                "load_model gives the agent one that does"
            )
        notes = list(asked.notes)
        # AgentScope has no public way to ask for the prompt with skills and middlewares in it.
        prompt = await self.agent._get_system_prompt()
        config = RunConfig(
            model=trained(await aside(lambda: model.model_config), asked, notes),
            data=DataConfig(
                data=await self._recorded() if data_path is None else str(data_path),
                max_length=asked.max_length,
                system_prompt=prompt or None,
            ),
            out=str(output),
            lora=asked.lora,
            train=asked.train,
        )
        return Plan(engine=engine, config=config, output=output, notes=notes)

    def _own_model(self) -> TransformersChatModel | None:
        """The model of ours that the agent speaks with, also behind a recorder."""
        model = self.agent.model
        if isinstance(model, RecordingChatModel):
            model = model.inner
        return model if isinstance(model, TransformersChatModel) else None

    def _model(self) -> TransformersChatModel:
        model = self._own_model()
        if model is None:
            raise ConfigError(
                f"agent {self.agent.name!r} speaks with a {type(self.agent.model).__name__}, which "
                "cannot be fine-tuned here; give it a model of its own first, by load_model"
            )
        return model

    async def _replace_model(self, config: ModelConfig, asked: FineTuneConfig) -> None:
        model = make_model(config, settings=self._settings)
        await _speak(model, config, asked)
        if isinstance(self.agent.model, RecordingChatModel):
            self.agent.model.inner = model
        else:
            self.agent.model = model

    async def _recorded(self) -> str:
        """What this agent said, as data."""
        recorder = self._recorder()
        if recorder is None:
            raise ConfigError(
                f"data_path is None, and nothing records agent {self.agent.name!r}: give "
                "data_path, or record it with a ConversationRecorder among its middlewares or a "
                "RecordingChatModel around its model"
            )
        await recorder.flush()
        name = recorder.agent_name
        if isinstance(recorder, ConversationRecorder):
            name = name or self.agent.name
        return str(recorder.path) if name is None else f"{recorder.path}#{name}"

    def _recorder(self) -> ConversationRecorder | RecordingChatModel | None:
        if isinstance(self.agent.model, RecordingChatModel):
            return self.agent.model
        # AgentScope has no public list of an agent's middlewares.
        found = [
            m for m in self.agent._model_call_middlewares if isinstance(m, ConversationRecorder)
        ]
        return found[-1] if found else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thing at a time for each agent."""
        with _busy_lock:
            if self.agent in _busy:
                raise BusyError(
                    f"agent {self.agent.name!r} is being loaded or fine-tuned; wait until it is "
                    "done, or cancel that"
                )
            _busy.add(self.agent)
        try:
            yield
        finally:
            _busy.discard(self.agent)

    @contextmanager
    def _following(self) -> Iterator[Progress]:
        """What a training thread tells its progress to."""
        loop = asyncio.get_running_loop()
        if self._on_progress is not None:
            tell = self._on_progress
            yield lambda line: _in_loop(loop, tell, line)
            return
        console = Console(stderr=True)
        if not console.is_terminal:
            yield lambda line: None
            return
        with console.status("fine-tuning") as status:
            yield lambda line: status.update(_shown(line))


async def _speak(model: TransformersChatModel, config: ModelConfig, asked: FineTuneConfig) -> None:
    await model.serve(config)
    end_replies(model, asked)


def _open_tokenizer(pretrained: str | None, local: str | None, settings: Settings) -> Any:
    if local is not None and (Path(local) / "tokenizer_config.json").is_file():
        return own_tokenizer(Path(local), ModelConfig(model=str(local)))
    return open_tokenizer(runs.find_model(pretrained, local, settings), settings)


async def _stoppable(work: Callable[[], T], stop: threading.Event) -> T:
    """Do blocking work aside; a cancelled caller stops it, and leaves when it has stopped."""
    task = asyncio.ensure_future(aside(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at, so that nobody hears of it as an unnoticed one
        raise


def _in_loop(loop: asyncio.AbstractEventLoop, tell: Progress, line: Mapping[str, Any]) -> None:
    loop.call_soon_threadsafe(tell, line)


def _shown(line: Mapping[str, Any]) -> str:
    loss = line.get("loss", line.get("eval_loss"))
    return f"fine-tuning: step {line['step']}, epoch {line['epoch']:.2f}, loss {loss:.4f}"
