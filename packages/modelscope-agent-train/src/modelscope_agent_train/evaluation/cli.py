"""`modelscope-agent-train eval`: measure a model, a checkpoint, an endpoint, or two files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import ConfigError, DataError, FinetuneError
from modelscope_agent_train.arguments import CommonArguments
from modelscope_agent_train.flags import flag, parse

if TYPE_CHECKING:
    from agent_finetune.contracts import Secret, Settings
    from agent_finetune.records import Example
    from modelscope_agent_train.evaluation.report import Report

PROG = "modelscope-agent-train eval"


@dataclass(frozen=True, kw_only=True)
class EvalArguments(CommonArguments):
    """Measure how well a model calls tools, on conversations that say what is right."""

    ckpt_dir: str | None = flag(
        None, "run folder, adapter or whole weights, ms-swift's too; unset, the model as it is"
    )
    endpoint: str | None = flag(None, "measure an OpenAI-compatible endpoint: http://host:8000/v1")
    endpoint_model: str | None = flag(None, "name of the model there")
    endpoint_key_file: str | None = flag(None, "file that holds its key")
    endpoint_parallel: int = flag(4, "requests under way at once")
    ref_path: str | None = flag(None, "file of right turns, to score pred_path by; no model is run")
    pred_path: str | None = flag(None, "file of what was said")
    split: str = flag("train", "split of a data set that has several")
    dataset_test_ratio: float = flag(
        1.0,
        "measure the share that sft holds out with the same ratio, sample and seeds; 1 is all",
        aliases=["dataset_test_size"],
    )
    free_run: bool = flag(False, "also let conversations run on the model's own turns")
    legacy_metrics: bool = flag(False, "also give the numbers of the scripts of 2023")
    output_dir: str | None = flag(None, "folder for metrics.json and a line for each step")
    batch_size: int = flag(8, "steps generated at once")
    max_new_tokens: int = flag(512, "most tokens of an answer")

    def check(self) -> None:
        super().check()
        for name, value in (
            ("batch_size", self.batch_size),
            ("max_new_tokens", self.max_new_tokens),
            ("endpoint_parallel", self.endpoint_parallel),
        ):
            if value < 1:
                raise ConfigError(f"--{name} is {value!r}; it must be at least 1")
        for one, other, values in (
            ("endpoint", "endpoint_model", (self.endpoint, self.endpoint_model)),
            ("ref_path", "pred_path", (self.ref_path, self.pred_path)),
        ):
            if values.count(None) == 1:
                raise ConfigError(f"--{one} and --{other} go together; give both or neither")
        if self.endpoint and self.legacy_format:
            raise ConfigError(
                "--legacy_format needs the model itself; an endpoint has its own form"
            )
        if self.free_run and self.legacy_format:
            raise ConfigError(
                "--free_run and --legacy_format: runs need a chat template; a checkpoint that was "
                "trained with --legacy_format carries the 2023 form as one, so leave "
                "--legacy_format out"
            )
        if self.output_dir is not None:
            check_folder(Path(self.output_dir))


def check_folder(path: Path) -> None:
    """Refuse a place for figures that cannot hold any, before they are measured.

    Raises:
        ConfigError: A part of the path is a file.
    """
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise ConfigError(f"--output_dir {path}: {place} is a file; give a folder")


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Read flags, measure, print the table; answer the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        parsed = parse(EvalArguments, words, prog=prog)
        if parsed.ignored:
            _tell(f"left out: {' '.join(parsed.ignored)}")
        report = evaluate(parsed.arguments, given=parsed.given)
    except FinetuneError as error:
        _tell(f"error: {error}")
        return 2
    print(report.table(), flush=True)
    if parsed.arguments.output_dir is not None:
        report.write(Path(parsed.arguments.output_dir))
        _tell(f"figures and every step: {parsed.arguments.output_dir}")
    return 0


def evaluate(
    arguments: EvalArguments, *, given: Collection[str] = (), settings: Settings | None = None
) -> Report:
    """Measure what the flags name.

    Args:
        arguments: Every flag.
        given: Flags that were said, to name those that do nothing here.
        settings: Cache, tokens and offline switch; None reads the environment and `.env`.

    Raises:
        FinetuneError: Something the user must change; the message says what.
    """
    from agent_finetune.settings import read_settings

    settings = settings or read_settings()
    if arguments.local_files_only:
        settings = replace(settings, offline=True)
    for line in idle(arguments, given):
        _tell(line)
    if arguments.ref_path is not None and arguments.pred_path is not None:
        from modelscope_agent_train.evaluation.files import score_files

        return score_files(
            Path(arguments.ref_path), Path(arguments.pred_path), legacy=arguments.legacy_metrics
        )
    examples = read_examples(arguments, settings)
    if arguments.endpoint is not None:
        return _endpoint(arguments, examples)
    return _model(arguments, examples, settings)


def idle(arguments: EvalArguments, given: Collection[str]) -> list[str]:
    """A line for each flag that was said and does nothing in an evaluation."""
    why = {
        "prompt": "2023 never used it",
        "max_length": "no prompt is cut; an answer after a cut one would measure the cut",
        "sft_type": "what a checkpoint is, is seen from its files",
        "seed": "the likeliest token is always taken; nothing is drawn",
    }
    if arguments.ref_path is not None:
        known = ("ref_path", "pred_path", "legacy_metrics", "output_dir", "ignore_args_error")
        why = dict.fromkeys(given, "two files are compared, no model is run")
        why = {name: reason for name, reason in why.items() if name not in known}
    return [f"--{name} does nothing here: {why[name]}" for name in given if name in why]


def read_examples(arguments: EvalArguments, settings: Settings) -> Sequence[Example]:
    """The conversations to measure on: all of the data, or what `sft` held out of it.

    Raises:
        ConfigError: No data is named.
        DataError: It cannot be read, or nothing is held out.
    """
    from modelscope_agent_train import sources, splits

    if arguments.dataset is None:
        raise ConfigError(
            "no data: give --dataset with held-out conversations, or --ref_path and --pred_path "
            f"with what was said to them; shipped are {', '.join(sources.sample_names())}"
        )
    found = sources.read_dataset(
        sources.names_of(arguments.dataset),
        settings=settings,
        format=_format(arguments),
        on_bad_row="skip" if arguments.on_bad_row == "skip" else "stop",
        sample=arguments.dataset_sample,
        seed=arguments.dataset_seed,
        hub=arguments.hub,  # type: ignore[arg-type]
        split=arguments.split,
        local_files_only=arguments.local_files_only,
        report=_tell,
    )
    if found.bad:
        first = found.bad[0]
        _tell(f"data: {len(found.bad)} rows left out; the first: {first.source}: {first.reason}")
    if arguments.dataset_test_ratio == 1:
        return found.examples
    _, held_out = splits.split(
        found.examples,
        test_ratio=arguments.dataset_test_ratio,
        seed=arguments.dataset_seed,
        by=arguments.split_by,  # type: ignore[arg-type]
    )
    if not held_out:
        raise DataError(
            f"--dataset_test_ratio {arguments.dataset_test_ratio} of {len(found.examples)} rows "
            "holds out none; raise it, or leave it out to measure on all"
        )
    _tell(f"data: {len(held_out)} of {len(found.examples)} rows are held out")
    return held_out


def _format(arguments: EvalArguments) -> str:
    from modelscope_agent_train import legacy

    return legacy.FORMAT if arguments.legacy_format else arguments.format


def _endpoint(arguments: EvalArguments, examples: Sequence[Example]) -> Report:
    from agent_finetune.evaluate import progress
    from modelscope_agent_train.evaluation import EndpointAnswerer, run

    answerer = EndpointAnswerer(
        url=str(arguments.endpoint),
        model=str(arguments.endpoint_model),
        key=_key(arguments.endpoint_key_file),
        max_new_tokens=arguments.max_new_tokens,
        parallel=arguments.endpoint_parallel,
    )
    with progress("answers") as on_progress:
        return run(
            answerer,
            examples,
            free_run=arguments.free_run,
            legacy=arguments.legacy_metrics,
            on_progress=on_progress,
        )


def _key(path: str | None) -> Secret | None:
    from agent_finetune.contracts import Secret

    if path is None:
        return None
    try:
        key = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--endpoint_key_file {path}: {error}") from error
    if not key:
        raise ConfigError(f"--endpoint_key_file {path}: is empty")
    return Secret(key)


def _model(arguments: EvalArguments, examples: Sequence[Example], settings: Settings) -> Report:
    from agent_finetune import adapters
    from agent_finetune.evaluate import progress
    from agent_finetune.models import loaded_context
    from modelscope_agent_train.evaluation import checkpoints, evaluate_examples

    config, found = checkpoints.configure(arguments, arguments.ckpt_dir, settings, say=_tell)
    loaded = adapters.open_model(config, settings)
    _tell(f"model: {loaded.resolved.name}, {loaded.dtype} on {loaded.device}")
    with progress("answers") as on_progress:
        if arguments.legacy_format:
            return _legacy_text(arguments, loaded, examples, on_progress)
        report = evaluate_examples(
            loaded,
            checkpoints.with_system(examples, found.system if found else None),
            batch_size=arguments.batch_size,
            max_new_tokens=arguments.max_new_tokens,
            free_run=arguments.free_run,
            legacy=arguments.legacy_metrics,
            on_progress=on_progress,
        )
    _warn_of_long_prompts(report, loaded_context(loaded))
    return report


def _warn_of_long_prompts(report: Report, context: int) -> None:
    long = sum((row["prompt_tokens"] or 0) > context for row in report.rows)
    if long:
        _tell(f"{long} steps have a prompt beyond the model's context of {context} tokens")


def _legacy_text(
    arguments: EvalArguments, loaded: Any, examples: Sequence[Example], on_progress: Any
) -> Report:
    from modelscope_agent_train.evaluation.legacy_text import evaluate_text

    return evaluate_text(
        loaded,
        examples,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        numbers=arguments.legacy_metrics,
        on_progress=on_progress,
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
