"""The two ways that are compared: our live engine, and `generate` of Transformers and PEFT.

Both are given messages, so that writing the prompt is in every time. Neither answers before its
tokens have left the device, so no clock needs to wait for one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import ContinuousBatchingConfig, GenerationConfig

from agent_finetune import adapters, plugins
from agent_finetune.attention import using
from agent_finetune.config import AdapterConfig, ModelConfig
from agent_finetune.contracts import EngineConfig, Request, Settings, Usage
from agent_finetune.generate import complete
from agent_finetune.render import Renderer
from live.workload import Messages, Tools

CHANGE = 0.05
"""How much a random adapter adds to what a layer gives, roughly, as a share of its input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One thing to answer."""

    messages: Messages
    tools: Tools = ()
    adapter: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What came of some asks, in their order."""

    prompts: list[tuple[int, ...]]
    ids: list[tuple[int, ...]]
    """Generated ids, the stop included."""
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return sum(map(len, self.ids))

    @property
    def speed(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds


class Live:
    """Our engine; all asks at once."""

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self.engine = plugins.open_engine(EngineConfig(model=config, keep_alive=0.0), settings)

    def first_token(self, ask: Ask) -> tuple[float, Usage]:
        """Seconds to the first token, and how much of the prompt was computed before."""
        start = time.perf_counter()
        generation = self.engine.stream(_request(ask, 1))
        next(iter(generation))
        seconds = time.perf_counter() - start
        return seconds, generation.result().usage

    def answer(self, asks: Sequence[Ask], tokens: int) -> Answers:
        """All at once, each by an adapter of its own or the base."""
        start = time.perf_counter()
        under_way = [self.engine.stream(_request(ask, tokens)) for ask in asks]
        results = [generation.result() for generation in under_way]
        seconds = time.perf_counter() - start
        made = [result.message.generation for result in results]
        return Answers(
            prompts=[m.prompt_ids for m in made if m],
            ids=[m.ids for m in made if m],
            seconds=seconds,
        )


class Plain:
    """`generate`, by `agent_finetune.generate.complete`, on a model of its own."""

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self._loaded = plugins.load_model(config, settings)
        self._renderer = Renderer(self._loaded.tokenizer)
        self._adapter: str | None = None

    def load_adapters(self, folders: dict[str, Path]) -> None:
        """Wrap the model by PEFT; from here on every ask names an adapter.

        They are held in the base's number format, as ours are: PEFT's float32 would be slower.
        """
        (name, folder), *others = folders.items()
        with adapters.quiet():
            model = PeftModel.from_pretrained(
                self._loaded.model, str(folder), name, autocast_adapter_dtype=False
            )
            for name, folder in others:
                model.load_adapter(str(folder), name, autocast_adapter_dtype=False)
        self._loaded = replace(self._loaded, model=model.eval())

    def first_token(self, ask: Ask) -> float:
        """Seconds to the first token."""
        return self.answer([ask], 1).seconds

    def answer(self, asks: Sequence[Ask], tokens: int) -> Answers:
        """One after another."""
        start = time.perf_counter()
        prompts, ids = [], []
        for ask in asks:
            if ask.adapter != self._adapter:
                self._loaded.model.set_adapter(ask.adapter)
                self._adapter = ask.adapter
            prompts.append(self.prompt(ask))
            ids += self._complete(prompts[-1:], tokens, 1)
        return Answers(prompts=prompts, ids=ids, seconds=time.perf_counter() - start)

    def answer_batch(self, asks: Sequence[Ask], tokens: int, size: int) -> Answers:
        """Padded on the left to one length, `size` at once."""
        start = time.perf_counter()
        prompts = [self.prompt(ask) for ask in asks]
        ids = self._complete(prompts, tokens, size)
        return Answers(prompts=prompts, ids=ids, seconds=time.perf_counter() - start)

    def answer_continuously(self, asks: Sequence[Ask], tokens: int) -> Answers:
        """By Transformers' continuous batching, when it is warm.

        Raises:
            MemoryError: It finds this machine's memory too small.
            RuntimeError: It broke down.
            ValueError: It cannot run this model.
        """
        model = self._loaded.model
        how = GenerationConfig(do_sample=False, eos_token_id=list(self._stops()), pad_token_id=0)
        room = ContinuousBatchingConfig(num_blocks=1024, max_batch_tokens=512)
        with (
            using(model, "sdpa"),  # it leaves its own attention behind when it refuses
            model.continuous_batching_context_manager(
                generation_config=how, continuous_batching_config=room
            ) as manager,
        ):
            _await(manager, [list(range(11, 27))], 4)
            start = time.perf_counter()
            prompts = [self.prompt(ask) for ask in asks]
            ids = _await(manager, [list(prompt) for prompt in prompts], tokens)
            return Answers(prompts=prompts, ids=ids, seconds=time.perf_counter() - start)

    def prompt(self, ask: Ask) -> tuple[int, ...]:
        """Ids of an ask's prompt."""
        said = self._renderer.said_messages(ask.messages)
        return self._renderer.prompt_ids(said, ask.tools)

    def _complete(
        self, prompts: Sequence[tuple[int, ...]], tokens: int, size: int
    ) -> list[tuple[int, ...]]:
        return complete(
            self._loaded,
            prompts,
            stop_ids=self._renderer.stop_ids,
            stop_strings=self._renderer.stop_strings,
            max_new_tokens=tokens,
            batch_size=size,
        )

    def _stops(self) -> set[int]:
        own = self._loaded.model.generation_config.eos_token_id
        return {*self._renderer.stop_ids, *(own if isinstance(own, list) else [own])} - {None}


def _request(ask: Ask, tokens: int) -> Request:
    return Request(
        messages=ask.messages, tools=ask.tools, adapter=ask.adapter, max_new_tokens=tokens
    )


def _await(manager: Any, prompts: list[list[int]], tokens: int) -> list[tuple[int, ...]]:
    """Answers of Transformers' continuous batching, in the order of the prompts."""
    names = manager.add_requests(prompts, max_new_tokens=tokens)
    found: dict[str, tuple[int, ...]] = {}
    while len(found) < len(prompts):
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError("its thread ended")
        if result is not None and result.error:
            raise RuntimeError(str(result.error))
        if result is not None and result.is_finished():
            found[result.request_id] = tuple(result.generated_tokens)
    return [found[name] for name in names]


@contextmanager
def opened(config: ModelConfig, settings: Settings) -> Iterator[Live]:
    """An engine that is loaded, and unloaded at the end."""
    live = Live(config, settings)
    live.engine.info()
    try:
        yield live
    finally:
        live.engine.close()


def write_adapters(
    config: ModelConfig, count: int, out: Path, settings: Settings
) -> dict[str, Path]:
    """Write random LoRA adapters on all linear layers that change every answer a little.

    Returns:
        Name to folder.
    """
    loaded = plugins.load_model(config, settings)
    model = adapters.attach(loaded, AdapterConfig())
    folders = {f"agent{number}": out / f"agent{number}" for number in range(count)}
    for seed, folder in enumerate(folders.values()):
        random = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                size = (CHANGE if "lora_B" in name else 1.0) / weight.shape[1] ** 0.5
                values = torch.randn(weight.shape, generator=random) * size
                weight.data = values.to(weight.device, weight.dtype)
        adapters.save(model, loaded.tokenizer, folder)
    return folders


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive in this process, each storage counted once."""
    return sum(tensor_storages().values())


def tensor_storages() -> dict[tuple[int, str], int]:
    """Bytes of each storage that a tensor of this process lies in, by address and device."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type != "meta":
            storage = thing.untyped_storage()
            storages[storage.data_ptr(), str(storage.device)] = storage.nbytes()
    return storages
