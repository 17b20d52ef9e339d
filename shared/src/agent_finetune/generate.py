"""Greedy answers to many prompts at once, through Transformers' own `generate`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from agent_finetune.attention import PACKED, using
from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import DataError, ModelError

logger = logging.getLogger(__name__)


def complete(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    max_new_tokens: int = 256,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[tuple[int, ...]]:
    """Let the model continue each prompt, always taking the likeliest token.

    Prompts are sorted by length, the longest first, and padded on the left. Nothing of the model's
    `generation_config` but its stop tokens is heeded: a repetition penalty, say, would change what
    is measured. Training mode and packed attention are put back when done.

    A batch that does not fit into GPU memory is done again in two halves, as are all after it; a
    warning says so.

    Args:
        loaded: Model, with or without an adapter, and tokenizer.
        prompts: Token ids of each prompt.
        stop_ids: Tokens that end an answer, besides the model's own.
        stop_strings: Strings that end an answer, for models whose turns end with no single token.
        max_new_tokens: Most tokens of an answer.
        batch_size: Prompts at once.
        on_progress: Called with the number of prompts done and of all prompts, after each batch.

    Returns:
        The generated ids of each prompt, in the prompts' order: without padding, the stop token
        included where there is one, and up to the token that completes a stop string.

    Raises:
        DataError: A prompt is empty.
        ModelError: Not even one prompt fits into GPU memory.
    """
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {index} of {len(prompts)} has no tokens")
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: dict[int, tuple[int, ...]] = {}
    with answering(loaded.model), _greedy(loaded.model, stop_ids, max_new_tokens) as config:
        while todo := order[len(answers) :]:
            batch = todo[:batch_size]
            found = _generate_or_none(loaded, [prompts[i] for i in batch], config, stop_strings)
            if found is None:
                batch_size = _half(len(batch), len(prompts[batch[0]]))
                continue
            answers.update(zip(batch, found, strict=True))
            if on_progress is not None:
                on_progress(len(answers), len(prompts))
    return [answers[index] for index in range(len(prompts))]


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Put a model into the state in which it serves, and back: no dropout, attention that pads.

    Args:
        model: `transformers.PreTrainedModel` or `peft.PeftModel`.
    """
    base = _base(model)
    attention = base.config._attn_implementation  # no public way to read it
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # Packed attention knows neither padding nor caches.
        with using(base, "sdpa" if attention == PACKED else attention):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _greedy(model: Any, stop_ids: Sequence[int], max_new_tokens: int) -> Iterator[GenerationConfig]:
    """Put a plain generation config in the place of the model's own, and that back.

    Handing one to `generate` is not enough: it fills what is left open from the model's own.
    """
    base = _base(model)
    own = base.generation_config
    own_stops = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    stops = sorted({*stop_ids, *(stop for stop in own_stops if stop is not None)})
    base.generation_config = GenerationConfig(
        do_sample=False,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,  # hidden by the attention mask, and cut off below
    )
    try:
        yield base.generation_config
    finally:
        base.generation_config = own


def _base(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _generate_or_none(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    stop_strings: Sequence[str],
) -> list[tuple[int, ...]] | None:
    """One batch of answers, or None when memory ran out.

    The error is not passed on: its traceback would keep the very tensors alive that must go.
    """
    try:
        return _generate(loaded, prompts, config, stop_strings)
    except torch.OutOfMemoryError:
        return None


def _generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    stop_strings: Sequence[str],
) -> list[tuple[int, ...]]:
    width = max(map(len, prompts))
    gaps = [width - len(prompt) for prompt in prompts]
    pad = config.pad_token_id
    rows = [[pad] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
    endings = _Endings(loaded.tokenizer, stop_strings, width)
    output = loaded.model.generate(
        input_ids=torch.tensor(rows, device=loaded.device),
        attention_mask=torch.tensor(mask, device=loaded.device),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([endings] if stop_strings else []),
    )
    stops = set(config.eos_token_id or ())
    answers = []
    for index, ids in enumerate(output[:, width:].tolist()):
        end = next((at for at, id_ in enumerate(ids, start=1) if id_ in stops), len(ids))
        answers.append(tuple(ids[: min(end, endings.found.get(index, end))]))
    return answers


class _Endings(StoppingCriteria):
    """Ends a row once its answer holds a stop string, and remembers where.

    Transformers' own criterion looks at prompt and answer as one text, so a string that the prompt
    begins and the answer completes would count, and it walks the whole vocabulary beforehand.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], start: int) -> None:
        self.tokenizer = tokenizer
        self.strings = strings
        self.start = start
        self.found: dict[int, int] = {}
        """Row to the number of generated tokens that complete its stop string."""
        # No token is shorter than a byte; some more, as decoders treat a text's first one apart.
        self.tail = max((len(string.encode()) for string in strings), default=0) + 4

    def __call__(self, input_ids: torch.Tensor, scores: Any, **rest: Any) -> torch.Tensor:
        """Which rows have ended; bool (B,)."""
        begin = max(self.start, input_ids.shape[1] - self.tail)
        texts = self.tokenizer.batch_decode(
            input_ids[:, begin:].tolist(), clean_up_tokenization_spaces=False
        )
        for row, text in enumerate(texts):
            if any(string in text for string in self.strings):
                self.found.setdefault(row, input_ids.shape[1] - self.start)
        ended = [row in self.found for row in range(len(texts))]
        return torch.tensor(ended, device=input_ids.device)


def _half(size: int, longest: int) -> int:
    if size == 1:
        raise ModelError(
            f"out of GPU memory with one prompt of {longest} tokens; use a smaller model, 4 bits "
            "(quantization 4bit), or shorter examples"
        )
    torch.cuda.empty_cache()
    logger.warning("out of GPU memory with %d prompts at once; going on with %d", size, size // 2)
    return size // 2
