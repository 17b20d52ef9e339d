"""`train`, `merge` and `quickstart`: the verbs that write weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from agent_finetune.cli.options import (
    NO_OUTPUT,
    RESULT,
    AdapterFlags,
    DataFlags,
    ModelFlags,
    OutputFlags,
    TrainFlags,
    log,
)
from agent_finetune.config import AdapterConfig, RunConfig, TrainConfig

DEFAULT_ADAPTER = AdapterConfig()
DEFAULT_TRAIN = TrainConfig()


def train(
    *,
    model: ModelFlags,
    data: DataFlags,
    out: Annotated[str, Parameter(group=RESULT)],
    lora: AdapterFlags = DEFAULT_ADAPTER,
    train: TrainFlags = DEFAULT_TRAIN,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Fine-tune a model on data.

    Args:
        out: Folder that receives adapter/, run.json, history.jsonl, metrics.json and checkpoints/.
    """
    config = RunConfig(model=model, data=data, out=out, lora=lora, train=train)

    from accelerate import PartialState

    from agent_finetune import train as training
    from agent_finetune.settings import read_settings

    try:
        result = training.run(config, read_settings(), report=log)
    except KeyboardInterrupt:
        log(f"interrupted; the same command with --resume goes on from {Path(out, 'checkpoints')}")
        return 130
    if not PartialState().is_main_process:  # under torchrun one process answers
        return 0
    text = (
        f"{result.steps} steps in {result.seconds:.0f} s, loss {result.loss:.4f}\n"
        f"{result.adapter_dir}"
    )
    return output.answer(asdict(result), text)


def merge(
    *,
    adapter: Annotated[str, Parameter(group=RESULT)],
    out: Annotated[str, Parameter(group=RESULT)],
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Write base and adapter as one model that plain Transformers loads.

    Args:
        adapter: Adapter folder.
        out: New folder for the merged model.
    """
    from agent_finetune import adapters
    from agent_finetune.settings import read_settings

    adapters.merge(Path(adapter), Path(out), read_settings())
    return output.answer({"out": out}, out)


def quickstart(
    *,
    model: Annotated[str, Parameter(group=RESULT)] = "smollm2-135m-instruct",
    minutes: Annotated[float, Parameter(group=RESULT)] = 9.0,
    out: Annotated[str, Parameter(group=RESULT)] = "runs/quickstart",
    seed: Annotated[int, Parameter(group=RESULT)] = 0,
) -> None:
    """See a real model fail to call a tool, learn it, and be measured.

    Args:
        model: Hub id, folder or GGUF file to train instead.
        minutes: Time for everything after installation; less is trained on a slow machine.
        out: Folder for data, adapter, reports and plot.
        seed: Seed of the training.
    """
    from agent_finetune.quickstart import QuickstartConfig, run
    from agent_finetune.settings import read_settings

    config = QuickstartConfig(model=model, minutes=minutes, out=out, seed=seed)
    run(config, read_settings(), report=log)
