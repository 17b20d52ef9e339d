"""A loaded model with its voices and rows: what belongs to a worker's thread alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from agent_finetune import adapters
from agent_finetune.contracts import EngineConfig, EngineInfo, LoadedModel, Request, Result
from agent_finetune.engine import runner
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.engine.grammar import Grammars
from agent_finetune.engine.lora import AdapterBank
from agent_finetune.engine.prefix import PrefixStore
from agent_finetune.engine.row import Row, Voice, revision_of
from agent_finetune.engine.scheduler import Scheduler
from agent_finetune.errors import ConfigError
from agent_finetune.models import loaded_context
from agent_finetune.models.adapter_folders import own_tokenizer, read_config, replaced
from agent_finetune.render import Renderer


class Served:
    """The model, ready to answer.

    Args:
        loaded: A base without an adapter; it is switched to serving and stays so.
        config: What the engine may use.
        on_done: Gets each request with its result.
    """

    def __init__(
        self, loaded: LoadedModel, config: EngineConfig, on_done: Callable[[Request, Result], None]
    ) -> None:
        self.loaded = loaded
        loaded.model.eval()
        self._bank = AdapterBank(loaded.model)
        self._prefixes = PrefixStore(config.prefix_cache_mib * 2**20)
        self._scheduler = Scheduler(
            runner.pick(loaded.model),
            self._bank,
            self._prefixes,
            max_batch=config.max_batch,
            prefill_chunk=config.prefill_chunk,
            on_done=on_done,
        )
        self.base = self._voice(loaded.tokenizer, None)
        self._voices: dict[str, Voice] = {}
        self._context = loaded_context(loaded)
        self._stale = False

    @property
    def busy(self) -> bool:
        """Whether rows are under way."""
        return bool(self._scheduler.rows)

    def start(self, generation: LiveGeneration, request: Request) -> None:
        """Let a request wait its turn.

        Raises:
            FinetuneError: It cannot be answered; no work has been done.
        """
        voice = self.voice(request.adapter)
        self._scheduler.add(Row(generation, request, voice, self._context))

    def step(self) -> None:
        """Do one forward pass, and give back what nobody needs any more."""
        self._scheduler.step()
        if self._stale:
            self._sweep()

    def fail_all(self, error: BaseException) -> None:
        """End every row with an error."""
        self._scheduler.fail_all(error)

    def voice(self, name: str | None) -> Voice:
        """Who answers under a name; None is the base.

        Raises:
            ConfigError: No adapter has this name.
        """
        if name is None:
            return self.base
        if name not in self._voices:
            known = ", ".join(self._voices) or "none"
            raise ConfigError(f"no adapter is attached as {name!r}; attached are {known}")
        return self._voices[name]

    def make_voice(self, folder: Path) -> Voice:
        """Read what an adapter's folder says; may run on any thread, for it changes nothing here.

        Raises:
            ModelError: There is no adapter in it.
        """
        read_config(folder)
        key = adapters.digest(folder)
        tokenizer = own_tokenizer(folder, self.loaded.config)
        if tokenizer is not None:
            return self._voice(tokenizer, key)
        return Voice(
            renderer=self.base.renderer,
            thinking=self.base.thinking,
            grammars=self.base.grammars,
            stops=self.base.stops,
            revision=revision_of(self.loaded.digest, key),
            key=key,
        )

    def install(self, name: str, voice: Voice, folder: Path | None) -> None:
        """Let a name stand for an adapter; its weights are read unless they are here already.

        Args:
            name: May be taken.
            voice: The adapter's, or the base's.
            folder: The adapter's; None for the base.

        Raises:
            ModelError: It does not fit this base, or is not the adapter any more that the voice
                is of.
        """
        if voice.key is not None and voice.key not in set(self._bank.keys()):
            assert folder is not None
            self._bank.add(voice.key, folder)
            if not _holds(folder, voice.key):
                self._bank.remove(voice.key)
                raise replaced(folder)
        self._voices[name] = voice
        self._stale = True

    def remove(self, name: str) -> None:
        """Forget a name.

        Raises:
            ConfigError: No adapter has it.
        """
        self.voice(name)
        del self._voices[name]
        self._stale = True

    def revision_of(self, name: str) -> str:
        """What answers under a name are made with; the base's where nobody has the name."""
        return self._voices.get(name, self.base).revision

    def names(self) -> Mapping[str, str]:
        """Attached names, each with its revision."""
        return {name: voice.revision for name, voice in self._voices.items()}

    def info(self) -> EngineInfo:
        """What is served."""
        return EngineInfo(
            model=self.loaded.resolved.name,
            revision=self.base.revision,
            context=self._context,
            device=self.loaded.device,
            dtype=self.loaded.dtype,
        )

    def _voice(self, tokenizer: Any, key: str | None) -> Voice:
        renderer = Renderer(tokenizer)
        own = self.loaded.model.generation_config.eos_token_id
        stops = {*renderer.stop_ids, *(own if isinstance(own, list) else [own])} - {None}
        width = self.loaded.model.get_output_embeddings().weight.shape[0]
        thinking = cache(renderer.thinking)
        usual = cache(lambda: Grammars(renderer, tokenizer, width))
        return Voice(
            renderer=renderer,
            thinking=thinking,
            grammars=cache(lambda wanted: usual().of(thinking(wanted))),
            stops=frozenset(stops),
            revision=revision_of(self.loaded.digest, key),
            key=key,
        )

    def _sweep(self) -> None:
        """Drop adapters that have no name any more, once their last row is done."""
        running = {row.voice.key for row in self._scheduler.rows}
        named = {voice.key for voice in self._voices.values()}
        for key in set(self._bank.keys()) - running - named:
            self._bank.remove(key)
            self._prefixes.drop(revision_of(self.loaded.digest, key))
        self._stale = bool(set(self._bank.keys()) - named)


def _holds(folder: Path, key: str) -> bool:
    """Whether a folder still holds the adapter that was read."""
    try:
        return adapters.digest(folder) == key
    except OSError:  # it has gone
        return False


def unload() -> None:
    """Give the memory of a model that nobody refers to any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
