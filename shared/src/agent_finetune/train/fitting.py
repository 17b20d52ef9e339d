"""`fit`: from rows of tokens to an adapter on disk, read from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import EarlyStoppingCallback, PrinterCallback

from agent_finetune import adapters, artifacts, attention
from agent_finetune.config import TrainConfig
from agent_finetune.contracts import LoadedModel, TrainJob, TrainResult
from agent_finetune.errors import ConfigError, TrainError
from agent_finetune.models.quiet import bars_on_a_terminal
from agent_finetune.train import distributed, folder, memory, pairs, preference, record
from agent_finetune.train.arguments import (
    keeps_format,
    torch_dtype,
    total_steps,
    trainer_config,
)
from agent_finetune.train.callbacks import (
    CheckpointKeeper,
    GradientCheck,
    HistoryWriter,
    ProgressBar,
    StepCount,
)
from agent_finetune.train.history import History
from agent_finetune.train.plots import loss_curve
from agent_finetune.train.retention import Keeper
from agent_finetune.train.trainer import (
    Housekeeping,
    RowCollator,
    SupervisedTrainer,
    check_weights,
)


def fit(job: TrainJob) -> TrainResult:
    """Train, and write what the run leaves behind into `job.out`.

    The model is changed in place: it carries the trained adapter (or weights) afterwards, in
    evaluation mode; after DeepSpeed's stage 3 it stays in parts, and the adapter on disk is the
    one to go on with. Under torchrun every process calls this, and process 0 writes.

    Raises:
        ConfigError: `job.out` holds another run, or one that these settings cannot resume.
        DataError: A row has no trained token, or rows are not of the objective's kind.
        TrainError: The loss, a gradient or a weight is no longer a number, or memory ran out.
        DiskError: There is no room for what a run leaves behind.
    """
    config = job.config.train
    distributed.check(job.config)
    pairs.check(config.objective, job.train_rows)
    if job.retention is not None and config.method == "full":
        raise ConfigError(
            "method is 'full' and a retention is given; without an adapter there is "
            "no base left to hold to"
        )
    loaded = replace(job.loaded, model=_with_trainable_weights(job))
    attention.register()
    packed = (
        config.objective == "sft"
        and config.pack
        and attention.can_pack(adapters.base_model(loaded.model))
    )
    resumes = config.resume and bool(folder.whole_checkpoints(job.out))
    with ExitStack() as stack:
        stack.enter_context(adapters.quiet())
        stack.enter_context(bars_on_a_terminal())
        stack.enter_context(distributed.engine(config))
        args = trainer_config(
            config,
            loaded,
            job.out,
            rows=job.train_rows,
            packed=packed,
            evaluates=bool(job.eval_rows),
            resumes=resumes,
        )
        if args.should_save:
            stack.enter_context(folder.claimed(job.out, resume=config.resume))
        run = record.of(job, loaded, processes=args.world_size, packed=packed)
        checkpoint = _begin(job, run, args)
        # No other process looks at the folder before process 0 has put it in order.
        args.distributed_state.wait_for_everyone()
        taken = StepCount()
        with _ending_told(job, run, args, taken), memory.told(job, taken):
            return _train(job, loaded, args, run, checkpoint, taken, packed=packed)


def _with_trainable_weights(job: TrainJob) -> Any:
    """The model with what is to be trained on it, and only that, ready for gradients."""
    model = job.loaded.model
    if job.config.train.method == "full":
        if isinstance(model, PeftModel):
            raise ConfigError("method is 'full' and an adapter is on the model; merge it first")
        if job.loaded.config.quantization != "none":  # the files may be, whatever was asked for
            raise ConfigError(
                f"method is 'full' and the weights of {job.loaded.resolved.name!r} are held in "
                f"{job.loaded.config.quantization}; use method lora, or a base that is not so"
            )
        if not keeps_format(job.loaded.config) and job.config.train.deepspeed is None:
            model = model.float()
        return model.requires_grad_(True)
    if not isinstance(model, PeftModel):
        return adapters.attach(job.loaded, job.config.lora, seed=job.config.train.seed)
    model.set_adapter(model.active_adapter)  # which also makes it trainable
    return model


def _begin(job: TrainJob, run: dict[str, Any], args: Any) -> Path | None:
    """Put the folder in order, and find the checkpoint to go on from.

    Raises:
        ConfigError: The folder holds another run, or this one and nothing is left to do.
    """
    config = job.config.train
    steps = total_steps(config, len(job.train_rows), args.world_size)
    whole = folder.whole_checkpoints(job.out) if config.resume else []
    if args.should_save:
        before = folder.read_run(job.out)
        if before is not None:
            folder.check_same(job.out, before, run["must_stay"])
            folder.check_resumable(job.out, before)
            if before["status"] == "finished" and before["steps"] >= steps:
                raise ConfigError(
                    f"{job.out}: this run finished at step {before['steps']}, and {steps} were "
                    "asked for; raise max_steps or epochs to go on"
                )
        folder.clear(job.out)
        artifacts.write_json(job.out / folder.RUN, run)
    # A run killed after its last checkpoint has no step left to take from there; one before it
    # leads to the same weights.
    return max((path for step, path in whole if step < steps), key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _train(
    job: TrainJob,
    loaded: LoadedModel,
    args: Any,
    run: dict[str, Any],
    checkpoint: Path | None,
    taken: StepCount,
    *,
    packed: bool,
) -> TrainResult:
    base = adapters.base_model(loaded.model)
    usual_attention = base.config._attn_implementation
    ours = packed and not usual_attention.startswith("flash")  # flash attention packs by itself
    config = job.config.train
    keeper = CheckpointKeeper(job.out, config.keep_checkpoints)
    callbacks: list[Any] = [taken, GradientCheck(), keeper]
    if config.patience is not None:
        callbacks.append(EarlyStoppingCallback(config.patience))
    writer: HistoryWriter | None = None  # of process 0
    with ExitStack() as stack:
        if args.should_save:
            resume_at = None if checkpoint is None else _step_of(checkpoint)
            history = History(job.out / folder.HISTORY, resume_at=resume_at)
            writer = HistoryWriter(history, lambda: _tool_metrics(job, loaded, usual_attention))
            bar = ProgressBar(history)
            stack.callback(bar.close)
            callbacks += [writer, bar]
        callbacks += job.callbacks
        trainer = _trainer(job, loaded, args, callbacks, packed=packed)
        stack.enter_context(attention.using(base, attention.PACKED) if ours else nullcontext())
        with _hostile_refused(checkpoint):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if job.eval_rows and not _evaluated_at_end(trainer):
            trainer.evaluate()
    check_weights(loaded.model, trainer.state.global_step)
    weights = _taken_out(trainer, loaded, config)
    result = _result(job, trainer, writer)
    if writer is not None:
        _write(job, loaded, writer.history, run, result, weights)
    args.distributed_state.wait_for_everyone()
    return result


@contextmanager
def _hostile_refused(checkpoint: Path | None) -> Iterator[None]:
    """Say that a checkpoint holds more than numbers.

    Transformers keeps optimizer, schedule and random state in files of PyTorch, which are pickles;
    it reads them by an unpickler that makes tensors and plain values, and nothing else.
    """
    try:
        yield
    except UnpicklingError as error:
        raise TrainError(
            f"{checkpoint}: its optimizer.pt, scheduler.pt or rng_state.pth holds something else "
            "than numbers, which was not run, or is damaged; it is none of ours, remove this "
            "checkpoint and resume from the one before"
        ) from error


def _taken_out(
    trainer: Housekeeping, loaded: LoadedModel, config: TrainConfig
) -> dict[str, Any] | None:
    """Take the model out of what wraps it for training: what is served must be what was saved.

    Returns:
        What process 0 writes where no process holds a whole model, None where the model is whole.
    """
    trainer.accelerator.unwrap_model(loaded.model, keep_fp32_wrapper=False)
    loaded.model.eval()
    dtype = torch_dtype(loaded.dtype) if config.method == "full" else torch.float32
    stage = distributed.stage_of(config)
    if stage == 3:
        return distributed.gathered(loaded.model, keep=trainer.args.should_save, dtype=dtype)
    if stage is not None:
        distributed.take_masters(loaded.model)
    if config.method == "full":
        loaded.model.to(dtype)
    return None


def _trainer(
    job: TrainJob, loaded: LoadedModel, args: Any, callbacks: list[Any], *, packed: bool
) -> Housekeeping:
    config = job.config.train
    trainer: Housekeeping
    if config.objective == "sft":
        trainer = _supervised(job, loaded, args, callbacks, packed=packed)
    else:
        trainer = preference.trainer(config, loaded, args, job.train_rows, job.eval_rows, callbacks)
    trainer.remove_callback(PrinterCallback)
    if not (config.method == "full" and keeps_format(loaded.config)):
        adapters.float32_masters(loaded.model)  # TRL rounds adapters of quantized models
    if isinstance(trainer, preference.Referenced):
        trainer.hold_to(config.reference)
    if job.retention is not None:
        pad_id = loaded.tokenizer.pad_token_id or 0
        trainer.keeper = Keeper(job.retention, pad_id=pad_id, packed=packed, seed=config.seed)
    return trainer


def _supervised(
    job: TrainJob, loaded: LoadedModel, args: Any, callbacks: list[Any], *, packed: bool
) -> SupervisedTrainer:
    rows = [*job.train_rows, *job.eval_rows]
    count = len(job.train_rows)
    pad_id = loaded.tokenizer.pad_token_id
    return SupervisedTrainer(
        model=loaded.model,
        args=args,
        data_collator=RowCollator(rows, pad_id=0 if pad_id is None else pad_id, packed=packed),
        train_dataset=_dataset(range(count)),
        eval_dataset=_dataset(range(count, len(rows))) if job.eval_rows else None,
        processing_class=loaded.tokenizer,
        callbacks=callbacks,
    )


def _dataset(rows: range) -> Dataset:
    """What Transformers shuffles and deals out; the collator turns indices into rows."""
    return Dataset.from_dict({"row": list(rows)})


def _evaluated_at_end(trainer: Housekeeping) -> bool:
    steps = [line["step"] for line in trainer.state.log_history if "eval_loss" in line]
    return bool(steps) and steps[-1] == trainer.state.global_step


def _tool_metrics(job: TrainJob, loaded: LoadedModel, usual_attention: str) -> Mapping[str, float]:
    """Generate and score the tool calls of the held-out examples, with the weights as they are."""
    if not job.eval_examples:
        return {}
    from agent_finetune import evaluate

    training = loaded.model.training
    loaded.model.eval()
    with attention.using(adapters.base_model(loaded.model), usual_attention):
        report = evaluate.evaluate(loaded, job.eval_examples)
    loaded.model.train(training)
    return dict(report.metrics)


@contextmanager
def _ending_told(job: TrainJob, run: dict[str, Any], args: Any, taken: StepCount) -> Iterator[None]:
    """Say in run.json that a run was stopped or failed; the error goes on."""
    try:
        yield
    except BaseException as error:
        if args.should_save:
            with suppress(OSError):  # a full disk is what is told already
                told = record.stopped(run, error, steps=taken.steps)
                artifacts.write_json(job.out / folder.RUN, told)
        raise


def _result(job: TrainJob, trainer: Housekeeping, writer: HistoryWriter | None) -> TrainResult:
    config, state = job.config.train, trainer.state
    best = state.best_global_step if config.patience is not None else None
    return TrainResult(
        adapter_dir=job.out / ("model" if config.method == "full" else "adapter"),
        steps=state.global_step,
        loss=next(line["loss"] for line in reversed(state.log_history) if "loss" in line),
        seconds=0.0 if writer is None else writer.seconds,
        train_tokens=state.num_input_tokens_seen,
        metrics={} if writer is None else record.metrics_after(writer.history, at=best),
    )


def _write(
    job: TrainJob,
    loaded: LoadedModel,
    history: History,
    run: dict[str, Any],
    result: TrainResult,
    weights: dict[str, Any] | None,
) -> None:
    """Write weights, plot and metrics, and last of all that the run has finished."""
    with artifacts.new_folder(result.adapter_dir, replace=True) as target:
        adapters.save(loaded.model, loaded.tokenizer, target, weights=weights)
    objective = job.config.train.objective
    unit = "nats per trained token" if objective == "sft" else f"{objective}, per row"
    loss_curve(history, job.out / folder.PLOT, unit=unit)
    before, after = record.metrics_before(history), dict(result.metrics)
    artifacts.write_json(job.out / folder.METRICS, {"before": before, "after": after})
    artifacts.write_json(job.out / folder.RUN, record.finished(run, result))
