"""`train`, `merge` and `quickstart`: the verbs that write weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from agent_finetune import ending
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
from agent_finetune.errors import ModelError

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

    from agent_finetune import train as training
    from agent_finetune.settings import read_settings

    try:
        result = training.run(config, read_settings(), report=log)
    except KeyboardInterrupt as error:
        if _answers():
            log(f"{ending.word(error)} {_left_behind(Path(out))}")
        return ending.code(error)
    if not _answers():
        return 0
    text = (
        f"{result.steps} steps in {result.seconds:.0f} s, loss {result.loss:.4f}\n"
        f"{result.adapter_dir}"
    )
    return output.answer(asdict(result), text)


def _answers() -> bool:
    """Whether this process is the one that speaks: under torchrun there are several."""
    from torch import distributed

    return not distributed.is_initialized() or distributed.get_rank() == 0


def _left_behind(out: Path) -> str:
    """What there is to go on from after a run that was stopped."""
    from agent_finetune.train import folder

    run = folder.read_run(out)
    if run is None:
        return "before training began; nothing was written"
    if run["status"] == "finished":
        return f"when the run was done; it is whole: {out}"
    whole = folder.whole_checkpoints(out)
    if not whole:
        return "before the first checkpoint (--save-steps); --resume begins again"
    return (
        f"at step {run.get('steps', whole[-1][0])}; the same command with --resume goes on from "
        f"{whole[-1][1]}"
    )


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
    from agent_finetune.models.hardware import ran_out_of_memory
    from agent_finetune.settings import read_settings

    try:
        adapters.merge(Path(adapter), Path(out), read_settings())
    except KeyboardInterrupt as error:
        log(f"{ending.word(error)}; {out} was not written")
        return ending.code(error)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        raise ModelError(
            f"{adapter}: out of memory; merging holds the base in memory, and {out} was not "
            "written. End other programs, or merge on a machine with more memory"
        ) from error
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
