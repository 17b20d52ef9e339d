"""What a chat model serves: a config, the engine on it, and what is known of the two."""

from __future__ import annotations

import hashlib

from agent_finetune import models, plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Engine, EngineConfig, EngineInfo, Settings
from agent_finetune.models.hub import is_repo_id
from agent_finetune.records import Message
from agentscope_finetune.counting import TokenCounter
from agentscope_finetune.threads import aside

_granted: set[tuple[str, str | None, str]] = set()
"""Models of the hub, each with the digest of a token that the hub gave it for."""


class Serving:
    """One model that is served. Making one costs nothing.

    Args:
        config: What to serve; None where an engine was given alone.
        settings: Token, cache and offline switch.
        engine: A live engine; None opens one on the config.
        held: Whether a credential asks, whose token has to be good for the model.
    """

    def __init__(
        self,
        config: ModelConfig | None,
        settings: Settings,
        *,
        engine: Engine | None = None,
        held: bool = False,
    ) -> None:
        self._config = config
        self._unnamed = config is None
        self._settings = settings
        self._engine = engine
        self._held = held
        self._info: EngineInfo | None = None
        self._described: int | None = None
        self._looked = False
        self._counter: TokenCounter | None = None

    @property
    def engine(self) -> Engine:
        """The live engine; opened, and not loaded, when it is first asked for."""
        if self._engine is None:
            assert self._config is not None
            self._engine = plugins.open_engine(EngineConfig(model=self._config), self._settings)
        return self._engine

    @property
    def config(self) -> ModelConfig:
        """What is served. Of an engine that was given alone, this loads the model."""
        if self._config is None:
            info = self.engine.info()
            self._config = ModelConfig(model=info.model, device=info.device)
        return self._config

    @property
    def found_name(self) -> str | None:
        """What an engine that was given alone says that it serves; None before it was asked."""
        return self._info.model if self._unnamed and self._info is not None else None

    @property
    def context(self) -> int | None:
        """Tokens that the model holds; None where its files do not say it and nothing is loaded."""
        if self._info is not None:
            return self._info.context
        if not self._looked and self._config is not None:
            self._looked = True
            self._described = models.context_length(self._config, self._settings)
        return self._described

    @property
    def counter(self) -> TokenCounter:
        """What counts this engine's prompts."""
        if self._counter is None:
            self._counter = TokenCounter(self.engine)
        return self._counter

    async def load(self) -> None:
        """Load model and adapter, off the event loop; the engine is closed if that fails.

        Raises:
            FinetuneError: They cannot be had.
        """

        def load() -> EngineInfo:
            self.engine.count_tokens([Message(role="user", text="hello")])  # reads the adapter, too
            return self.engine.info()

        try:
            await self.ask_hub()
            self._info = await aside(load)
        except BaseException:
            self.engine.close()
            raise

    async def learn(self) -> None:
        """Keep what only a loaded model says."""
        if self.context is None:
            self._info = await aside(self.engine.info)

    async def ask_hub(self) -> None:
        """Have the hub say, once, that a credential's token is good for the model.

        The weights may be here already, loaded or on disk, through another user's token.

        Raises:
            ModelError: It is not.
        """
        config, settings = self._config, self._settings
        if not self._held or config is None or not is_repo_id(config.model):
            return
        token = settings.hub_token.reveal() if settings.hub_token else ""
        asked = (config.model, config.revision, hashlib.sha256(token.encode()).hexdigest())
        if asked not in _granted:
            await aside(lambda: plugins.resolve_model(config.model, config.revision, settings))
            _granted.add(asked)
