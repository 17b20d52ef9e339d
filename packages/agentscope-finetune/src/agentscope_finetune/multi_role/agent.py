"""`MultiRoleAgent`: one agent to the host, three speakers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope.agent import Agent, ContextConfig, InjectionConfig, ModelConfig, ReActConfig

from agent_finetune.errors import ConfigError
from agent_finetune.roles.prompts import Part
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.multi_role.adapters import Voices
from agentscope_finetune.multi_role.folders import open_roles
from agentscope_finetune.multi_role.speakers import spoken
from agentscope_finetune.multi_role.steps import Casting, Stage, Steps
from agentscope_finetune.recorder import RecordingChatModel

if TYPE_CHECKING:
    from agentscope.message import Msg
    from agentscope.middleware import MiddlewareBase
    from agentscope.model import ChatModelBase
    from agentscope.state import AgentState
    from agentscope.tool import Toolkit
    from agentscope.workspace import Offloader

    from agent_finetune.contracts import Settings
    from agentscope_finetune.parameters import GenerationParameters

MOST_STEPS = 10
"""Steps of a reply, unless `react_config` says otherwise."""


class MultiRoleAgent(Agent):
    """An agent whose steps are planned by a planner, called by a caller, and told by a summarizer.

    Each speaks through an adapter of its own on one loaded model; the engine changes adapters from
    message to message. To the host it is an `Agent`: it goes into pipelines, a service and a
    console, its tools run with the host's permissions, hooks and interruption, and its state is
    the host's. In a reply's message the planner's words are thinking blocks, the caller's are tool
    calls and the summarizer's are text; `conversation()` has them as messages of three speakers.

    A step is the planner's words and then one of: a call by the caller, whose result, errors
    included, the planner sees next; the summarizer's answer, which ends the reply; or giving up,
    which ends the reply with a message that says so (`metadata["gave_up"]`). A plan that names no
    next step is taken to conclude. A caller that writes no call is told so by an error result. A
    reply has 10 steps at most, then the summarizer has to answer (`react_config.max_iters`).

    Making one loads nothing. It takes what `Agent` takes, in the same order.

    Args:
        name: As in Agent.
        system_prompt: As in Agent; it stands behind what the role itself is told.
        model: A `TransformersChatModel`, or the folder that `agent-finetune roles train` left.
        toolkit: As in Agent.
        middlewares: As in Agent. A `ConversationRecorder` keeps what each role was asked and
            answered, as `name/planner`, `name/caller` and `name/summarizer`.
        state: As in Agent.
        offloader: As in Agent.
        model_config: As in Agent. A fallback that is no `TransformersChatModel` does whole steps.
        context_config: As in Agent.
        react_config: As in Agent.
        injection_config: As in Agent; unset, no time of day is put into the prompt, since there
            was none in training.
        planner: Folder of the planner's adapter. A role without one speaks as the model itself.
        caller: Folder of the caller's adapter.
        summarizer: Folder of the summarizer's adapter.
        force_call: Hold the caller to a call that parses and names an offered tool, while it
            is generated.
        settings: Token, cache and offline switch, where `model` is a folder.

    Raises:
        ConfigError: The model is another provider's, there is no adapter in a folder, or no three
            roles are in the folder of a run.
    """

    def __init__(
        self,
        name: str,
        system_prompt: str,
        model: ChatModelBase | Path | str,
        toolkit: Toolkit | None = None,
        middlewares: list[MiddlewareBase] | None = None,
        state: AgentState | None = None,
        offloader: Offloader | None = None,
        model_config: ModelConfig | None = None,
        context_config: ContextConfig | None = None,
        react_config: ReActConfig | None = None,
        injection_config: InjectionConfig | None = None,
        *,
        planner: Path | str | None = None,
        caller: Path | str | None = None,
        summarizer: Path | str | None = None,
        force_call: bool = False,
        settings: Settings | None = None,
    ) -> None:
        given = {Part.PLANNER: planner, Part.CALLER: caller, Part.SUMMARIZER: summarizer}
        folders: Mapping[Part, Path | str] = {p: f for p, f in given.items() if f is not None}
        if isinstance(model, str | Path):
            if folders:
                raise ConfigError(
                    f"model is {str(model)!r}, a folder of roles, and {', '.join(folders)} is "
                    "given too; give a TransformersChatModel with adapters, or the folder alone"
                )
            model, folders = open_roles(model, settings=settings)
        _check(name, model)
        self._voices = Voices(folders)
        stage = Stage()
        first = Casting(stage, self._voices, force_call=force_call)
        super().__init__(
            name=name,
            system_prompt=system_prompt,
            model=model,
            toolkit=toolkit,
            middlewares=[first, *(middlewares or []), Steps(stage)],
            state=state,
            offloader=offloader,
            model_config=model_config,
            context_config=context_config,
            react_config=react_config or ReActConfig(max_iters=MOST_STEPS),
            injection_config=injection_config or InjectionConfig(inject_runtime_state=False),
        )

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        name: str = "assistant",
        system_prompt: str = "",
        *,
        toolkit: Toolkit | None = None,
        parameters: GenerationParameters | None = None,
        settings: Settings | None = None,
        held: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> MultiRoleAgent:
        """An agent of what `agent-finetune roles train` left in a folder.

        Args:
            folder: With `roles.json` in it.
            name: As in Agent.
            system_prompt: As in Agent.
            toolkit: As in Agent.
            parameters: How to generate.
            settings: Token, cache and offline switch; None reads the environment and `.env`.
            held: How to hold the weights, where it is to be otherwise than in training, such as
                `{"quantization": "4bit"}`; see `open_roles`.
            **options: Other arguments of this class.

        Raises:
            ConfigError: There is no `roles.json`, or what it holds are no three roles on one model.
        """
        model, parts = open_roles(folder, settings=settings, **(held or {}))
        if parameters is not None:
            model.parameters = parameters
        adapters: dict[str, Any] = {part.value: at for part, at in parts.items()}
        return cls(name, system_prompt, model, toolkit, **adapters, **options)

    @property
    def adapters(self) -> Mapping[Part, str]:
        """The adapter that each role speaks through, by the engine's name for it."""
        return self._voices.names

    def conversation(self) -> list[Msg]:
        """What was said so far, each role's words as a message from that role; see `spoken`."""
        return spoken(self.state.context, self.name)


def _check(name: str, model: ChatModelBase) -> None:
    inner = model.inner if isinstance(model, RecordingChatModel) else model
    if not isinstance(inner, TransformersChatModel):
        raise ConfigError(
            f"agent {name!r}: model is a {type(inner).__name__}; roles speak through a "
            "TransformersChatModel, whose engine changes adapters between them"
        )
