"""`llm_sft.py`: ModelScope-Agent's training script, on the kernel.

`main` is the command line, `sft` the same from Python:

    from modelscope_agent_train.arguments import SftArguments
    from modelscope_agent_train.sft import sft

    result = sft(SftArguments(model_type="smollm2-135m-instruct", dataset="msagent-sample"))
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune import ending
from agent_finetune.errors import ConfigError, FinetuneError
from agent_finetune.foreign_logs import hush
from modelscope_agent_train import effects as telling
from modelscope_agent_train import finishing, outputs, plan, run_folders
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.effect_words import Facts
from modelscope_agent_train.effects import Effect
from modelscope_agent_train.flags import parse

if TYPE_CHECKING:
    from agent_finetune.config import RunConfig
    from agent_finetune.contracts import Settings
    from agent_finetune.render import Renderer
    from agent_finetune.train.job import RowsOf
    from agent_finetune.train.pairs import Rows
    from modelscope_agent_train.plan import Machine
    from modelscope_agent_train.sources import Data

Say = Callable[[str], None]
PATIENCE = 10.0
"""Seconds for which other processes leave it to the first one to say what is wrong."""


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


def main(argv: Sequence[str] | None = None, *, prog: str = "llm_sft.py") -> int:
    """Read flags, train, and print what came of it; answer the exit code."""
    from agent_finetune.settings import read_settings

    words = sys.argv[1:] if argv is None else list(argv)
    hush()
    try:
        parsed = parse(SftArguments, words, prog=prog)
        with ending.by_signals():
            result = sft(
                parsed.arguments,
                given=parsed.given,
                ignored=parsed.ignored,
                settings=read_settings(),
                report=_tell,
            )
    except FinetuneError as error:
        _tell_error(error)
        return 2
    except OSError as error:
        if error.errno not in run_folders.NO_ROOM:
            raise
        _tell_error(
            f"{error.filename or 'disk'}: {error.strerror}; checkpoints that are whole stay"
        )
        return 2
    except KeyboardInterrupt as error:
        if not _rank():
            _tell(str(error) or f"{ending.word(error)} before training began")
        return ending.code(error)
    if result.text:
        print(result.text, flush=True)
    return 0


def sft(
    arguments: SftArguments,
    *,
    data: Data | None = None,
    given: Collection[str] | None = None,
    ignored: Sequence[str] = (),
    settings: Settings | None = None,
    report: Say | None = None,
) -> SftResult:
    """Train, measure and write one run. Under torchrun every process calls this.

    Args:
        arguments: Every flag.
        data: An MsDataset, a `datasets.Dataset` or a list of rows, in place of the names in
            `arguments.dataset`.
        given: Which flags were said; None takes those that differ from their defaults.
        ignored: Words of the command line that were left out.
        settings: Cache, tokens and offline switch; None reads the environment and `.env`.
        report: Gets what is told on the way, in process 0 alone.

    Raises:
        FinetuneError: Something the user must change; the message says what.
        KeyboardInterrupt: As it came, with a line that says what there is to go on from.
    """
    from agent_finetune.settings import read_settings
    from agent_finetune.train import job
    from modelscope_agent_train import legacy, sources

    settings = settings or read_settings()
    if data is not None:
        arguments = _named(arguments, data)
    if arguments.local_files_only:
        settings = replace(settings, offline=True)
    chosen = plan.chosen_model(arguments)
    parent = Path(arguments.output_dir) / chosen.label
    plan.run_config(arguments, chosen, machine_of(arguments, 1), out=parent, resume=False)
    names = (data,) if data is not None else sources.names_of(str(arguments.dataset))
    if data is None:
        sources.check_names(names)  # before a model is fetched
    state = _processes(arguments)
    machine = machine_of(arguments, state.num_processes)
    say: Say = (report or _silent) if state.is_main_process else _silent
    out, resumed = _folder(arguments, parent, state)
    with run_folders.taken_back(out, resumed, by=state.is_main_process):
        chosen = plan.located(arguments, chosen, settings, say)
        config = plan.run_config(arguments, chosen, machine, out=out, resume=resumed is not None)
        facts = Facts(
            arguments=arguments, chosen=chosen, machine=machine, run=config, resumed=resumed
        )
        effects = telling.of(facts, telling.given_in(arguments) if given is None else given)
        say(telling.table(effects, ignored))
        read = _Reader(arguments=arguments, names=names, resumed=resumed, machine=machine)
        # The text of 2023 is saved as a chat template: whoever serves the model then speaks it.
        template = legacy.template if arguments.legacy_format else None
        result = job.run(config, settings, report=say, read=read, chat_template=template)
        metrics, text = result.metrics, ""
        if state.is_main_process:
            held_out = read.held_out
            metrics, text = finishing.finish(arguments, config, settings, result, held_out, say)
    return SftResult(
        output_dir=out,
        adapter_dir=result.adapter_dir,
        metrics=metrics,
        effects=effects,
        text=text,
    )


def _named(arguments: SftArguments, data: object) -> SftArguments:
    """Arguments that name data which is an object, for what is printed and written of them."""
    if arguments.dataset is not None:
        raise ConfigError(f"dataset is {arguments.dataset!r} and data is given too; give one")
    return replace(arguments, dataset=type(data).__name__)


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


def _folder(arguments: SftArguments, parent: Path, state: Any) -> tuple[Path, Path | None]:
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
    return Path(found[0]), None if found[1] is None else Path(found[1])


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


@dataclass(kw_only=True, slots=True)
class _Reader:
    """What reads the data for `job.run`, and keeps the held-out examples for the end."""

    arguments: SftArguments
    names: Sequence[Data]
    resumed: Path | None
    machine: Machine
    held_out: Sequence[Any] = ()

    def __call__(self, config: RunConfig, settings: Settings, say: Say) -> RowsOf:
        from agent_finetune.train import job
        from modelscope_agent_train import legacy, sources, splits

        arguments = self.arguments
        found = sources.read_dataset(
            self.names,
            settings=settings,
            format=legacy.FORMAT if arguments.legacy_format else config.data.format,
            on_bad_row=config.data.on_bad_row,
            sample=arguments.dataset_sample,
            seed=arguments.dataset_seed,
            hub=arguments.hub,  # type: ignore[arg-type]
            local_files_only=arguments.local_files_only,
            report=say,
        )
        training, self.held_out = splits.split(
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
        rows_of = legacy.rows_of if arguments.legacy_format else job.rows_of
        make = rows_of(training, self.held_out, [found], config.data, say)
        return make if self.resumed is None else self._checked(make, self.resumed, config, say)

    def _checked(self, make: RowsOf, resumed: Path, config: RunConfig, say: Say) -> RowsOf:
        """The same rows, once it is sure that steps are left to take with them."""
        from agent_finetune.train.arguments import total_steps

        def rows(renderer: Renderer, limit: int) -> Rows:
            made = make(renderer, limit)
            steps = total_steps(config.train, len(made.train), self.machine.processes)
            say(run_folders.check_left(resumed, steps))
            return made

        return rows


def _tell_error(error: object) -> None:
    """Say an error once, though under torchrun every process may meet it.

    Once the first process has ended, torchrun ends the others, so that these say only what the
    first did not meet.
    """
    if rank := _rank():
        time.sleep(PATIENCE)
    _tell(f"error{f' in process {rank}' if rank else ''}: {error}")


def _rank() -> int:
    """Which process this is under torchrun; 0 without."""
    return int(os.environ.get("RANK", "0"))


def _tell(line: str) -> None:
    if line:
        print(line, file=sys.stderr, flush=True)


def _silent(_: str) -> None:
    """What processes other than the first report."""
