"""`llm_sft.py`: ModelScope-Agent's training script, on the kernel.

`main` is the command line, `sft` the same from Python:

    from modelscope_agent_train.arguments import SftArguments
    from modelscope_agent_train.sft import sft

    result = sft(SftArguments(model_type="smollm2-135m-instruct", dataset="msagent-sample"))
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import ConfigError, FinetuneError
from modelscope_agent_train import effects as telling
from modelscope_agent_train import finishing, outputs, plan, run_folders
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.effect_words import Facts
from modelscope_agent_train.effects import Effect
from modelscope_agent_train.flags import parse

if TYPE_CHECKING:
    from agent_finetune.config import RunConfig
    from agent_finetune.contracts import Settings
    from agent_finetune.train.job import RowsOf
    from modelscope_agent_train.plan import Machine

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SftResult:
    """What a run left behind."""

    output_dir: Path
    adapter_dir: Path
    """PEFT folder for lora, model folder for full."""
    metrics: Mapping[str, float]
    """Losses, and the figures of the evaluation at the end; only in process 0."""
    effects: tuple[Effect, ...]
    text: str = ""
    """The evaluation's table, and where things lie."""


@dataclass(kw_only=True, slots=True)
class _Data:
    """What reading a run's data answers besides rows."""

    held_out: Sequence[Any] = field(default_factory=tuple)


def main(argv: Sequence[str] | None = None, *, prog: str = "llm_sft.py") -> int:
    """Read flags, train, and print what came of it; answer the exit code."""
    from agent_finetune.settings import read_settings

    words = sys.argv[1:] if argv is None else list(argv)
    # Whenever it is imported it warns that a package we do not use is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        parsed = parse(SftArguments, words, prog=prog)
        result = sft(
            parsed.arguments,
            given=parsed.given,
            ignored=parsed.ignored,
            settings=read_settings(),
            report=_tell,
        )
    except FinetuneError as error:
        _tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted; the same command with --resume_from_ckpt true goes on from the last")
        return 130
    if result.text:
        print(result.text, flush=True)
    return 0


def sft(
    arguments: SftArguments,
    *,
    given: Collection[str] | None = None,
    ignored: Sequence[str] = (),
    settings: Settings | None = None,
    report: Say | None = None,
) -> SftResult:
    """Train, measure and write one run. Under torchrun every process calls this.

    Args:
        arguments: Every flag.
        given: Which flags were said; None takes those that differ from their defaults.
        ignored: Words of the command line that were left out.
        settings: Cache, tokens and offline switch; None reads the environment and `.env`.
        report: Gets what is told on the way, in process 0 alone.

    Raises:
        FinetuneError: Something the user must change; the message says what.
    """
    from agent_finetune.settings import read_settings
    from agent_finetune.train import job

    settings = settings or read_settings()
    if arguments.local_files_only:
        settings = replace(settings, offline=True)
    chosen = plan.chosen_model(arguments)
    parent = Path(arguments.output_dir) / chosen.label
    plan.run_config(arguments, chosen, machine_of(arguments, 1), out=parent, resume=False)
    state = _processes(arguments)
    machine = machine_of(arguments, state.num_processes)
    say: Say = (report or _silent) if state.is_main_process else _silent
    chosen = plan.located(arguments, chosen, settings, say)
    out, resumed = _folder(arguments, parent, state)
    config = plan.run_config(arguments, chosen, machine, out=out, resume=resumed is not None)
    facts = Facts(arguments=arguments, chosen=chosen, machine=machine, run=config, resumed=resumed)
    effects = telling.of(facts, telling.given_in(arguments) if given is None else given)
    say(telling.table(effects, ignored))
    data = _Data()
    try:
        result = job.run(
            config,
            settings,
            report=say,
            read=_reader(arguments, data),
            chat_template=_template(arguments, config, settings),
        )
    except FinetuneError:
        if state.is_main_process:
            run_folders.remove_empty(out)
        raise
    if not state.is_main_process:
        return SftResult(
            output_dir=out, adapter_dir=result.adapter_dir, metrics=result.metrics, effects=effects
        )
    metrics, text = finishing.finish(arguments, config, settings, result, data.held_out, say)
    return SftResult(
        output_dir=out,
        adapter_dir=result.adapter_dir,
        metrics=metrics,
        effects=effects,
        text=text,
    )


def machine_of(arguments: SftArguments, processes: int) -> Machine:
    """What this machine can do for these flags; imports torch."""
    from importlib.util import find_spec

    import torch

    gpu = torch.cuda.is_available() and arguments.device != "cpu"
    return plan.Machine(
        gpu=gpu, flash_attn=gpu and find_spec("flash_attn") is not None, processes=processes
    )


def _processes(arguments: SftArguments) -> Any:
    """`accelerate.PartialState`: who we are under torchrun, talking as `ddp_backend` says.

    Raises:
        ConfigError: That way to talk is not there.
    """
    import torch
    from accelerate import PartialState

    cpu = arguments.device == "cpu" or not torch.cuda.is_available()
    backend = arguments.ddp_backend
    if not torch.distributed.is_torchelastic_launched() or (cpu and backend == "nccl"):
        backend = None  # Accelerate's own choice: gloo on a CPU
    try:
        return PartialState(cpu=cpu, **({} if backend is None else {"backend": backend}))
    except (ValueError, RuntimeError) as error:
        if backend is None:
            raise
        raise ConfigError(f"--ddp_backend {backend}: {error}") from error


def _folder(arguments: SftArguments, parent: Path, state: Any) -> tuple[Path, str | None]:
    """This run's folder, the same in every process, and the checkpoint it goes on from."""
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [None, None, None]
    if state.is_main_process:
        try:
            found[:2] = _made_folder(arguments, parent)
        except FinetuneError as error:
            found[2] = error  # every process must stop, not the first alone
    broadcast_object_list(found)
    if found[2] is not None:
        raise found[2]
    return Path(found[0]), found[1]


def _made_folder(arguments: SftArguments, parent: Path) -> tuple[str, str | None]:
    if arguments.push_to_hub:  # told now, not after hours of training
        outputs.check_push(arguments.hub_model_id, token=finishing.token_of(arguments))
    word = arguments.resume_from_ckpt
    checkpoint = None if word is None else run_folders.find_checkpoint(word, parent)
    out = run_folders.new_run(parent, now=datetime.now())
    if checkpoint is None:
        return str(out), None
    run_folders.begin_from(checkpoint, out)
    return str(out), str(checkpoint.path)


def _template(arguments: SftArguments, config: RunConfig, settings: Settings) -> str | None:
    """The text of 2023 as a chat template, so that whoever serves the model speaks it."""
    if not arguments.legacy_format:
        return None
    from agent_finetune import models, plugins
    from modelscope_agent_train import legacy

    resolved = plugins.resolve_model(config.model.model, config.model.revision, settings)
    return legacy.template(models.load_tokenizer(config.model, resolved, settings))


def _reader(arguments: SftArguments, data: _Data) -> Callable[[RunConfig, Settings, Say], RowsOf]:
    """What reads the data for `job.run`, and keeps the held-out examples for the end."""

    def read(config: RunConfig, settings: Settings, say: Say) -> RowsOf:
        from agent_finetune.train import job
        from modelscope_agent_train import legacy, sources, splits

        rows_of = legacy.rows_of if arguments.legacy_format else job.rows_of
        found = sources.read_dataset(
            sources.names_of(config.data.data),
            settings=settings,
            format=legacy.FORMAT if arguments.legacy_format else config.data.format,
            on_bad_row=config.data.on_bad_row,
            sample=arguments.dataset_sample,
            seed=arguments.dataset_seed,
            hub=arguments.hub,  # type: ignore[arg-type]
            local_files_only=arguments.local_files_only,
            report=say,
        )
        training, data.held_out = splits.split(
            found.examples,
            test_ratio=arguments.dataset_test_ratio,
            seed=arguments.dataset_seed,
            by=arguments.split_by,  # type: ignore[arg-type]
        )
        if found.bad:
            first = found.bad[0]
            say(f"data: {len(found.bad)} rows left out; the first: {first.source}: {first.reason}")
        if not training:
            raise ConfigError(
                f"--dataset_test_ratio {arguments.dataset_test_ratio} of {len(found.examples)} "
                "rows leaves nothing to train on; lower it, or give more data"
            )
        return rows_of(training, data.held_out, [found], config.data, say)

    return read


def _tell(line: str) -> None:
    if line:
        print(line, file=sys.stderr, flush=True)


def _silent(_: str) -> None:
    """What processes other than the first report."""
