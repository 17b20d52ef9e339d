"""The end of a run: it is measured, described, and sent off where that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune import artifacts
from agent_finetune.contracts import Secret
from agent_finetune.errors import FinetuneError
from modelscope_agent_train import outputs
from modelscope_agent_train.arguments import SftArguments

if TYPE_CHECKING:
    from agent_finetune.config import ModelConfig, RunConfig
    from agent_finetune.contracts import Settings, TrainResult
    from agent_finetune.records import Example

Say = Callable[[str], None]
ARGUMENTS = "sft_args.json"


def finish(
    arguments: SftArguments,
    config: RunConfig,
    settings: Settings,
    result: TrainResult,
    held_out: Sequence[Example],
    say: Say,
) -> tuple[Mapping[str, float], str]:
    """Measure a run, and write what stands beside its weights; process 0 alone calls this.

    Returns:
        All figures, and what to print: the evaluation's table, and where things lie.

    Raises:
        FinetuneError: The data says nowhere what is right, or the hub refuses.
    """
    out = Path(config.out)
    values = {**asdict(arguments), "hub_token": None}
    artifacts.write_json(out / ARGUMENTS, values)
    metrics, lines = dict(result.metrics), []
    if arguments.evaluate and held_out:
        measured, table = _measure(arguments, config, settings, result, held_out, say)
        metrics |= measured
        lines += [table, ""]
    describe(out, result.adapter_dir, values, metrics)
    lines += [
        f"steps: {result.steps} in {result.seconds:.0f} s, loss {result.loss:.4f}",
        f"{'adapter' if config.train.method == 'lora' else 'model'}: {result.adapter_dir}",
        f"run: {out}",
    ]
    if arguments.push_to_hub:
        lines.append(f"sent to: {_sent(arguments, result.adapter_dir, lines, say)}")
    return metrics, "\n".join(lines)


def _sent(arguments: SftArguments, weights: Path, lines: Sequence[str], say: Say) -> str:
    """Send the result off; where that fails, what came of the run is told before the error."""
    try:
        return outputs.push(
            weights,
            str(arguments.hub_model_id),
            private=arguments.hub_private_repo,
            token=token_of(arguments),
            say=say,
        )
    except FinetuneError:
        say("\n".join(lines))
        raise


def describe(
    out: Path, weights: Path, values: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """Put configuration.json and a card beside the weights; run.json tells them as they are now."""
    from agent_finetune import adapters
    from agent_finetune.train import folder

    outputs.write_card_and_configuration(weights, arguments=values, metrics=metrics)
    run = {**(folder.read_run(out) or {}), "adapter_digest": adapters.digest(weights)}
    artifacts.write_json(out / folder.RUN, run)


def _measure(
    arguments: SftArguments,
    config: RunConfig,
    settings: Settings,
    result: TrainResult,
    held_out: Sequence[Example],
    say: Say,
) -> tuple[Mapping[str, float], str]:
    """Tool calls on the held-out examples, of the weights as they were written."""
    from agent_finetune import adapters
    from agent_finetune.evaluate import progress
    from modelscope_agent_train.evaluation import evaluate_examples
    from modelscope_agent_train.evaluation.legacy_text import evaluate_text

    most = arguments.evaluate_sample
    chosen = held_out if most == -1 else held_out[:most]
    if len(chosen) < len(held_out):
        say(f"evaluation: {len(chosen)} of {len(held_out)} held-out rows (--evaluate_sample)")
    loaded = adapters.open_model(as_trained(config, result.adapter_dir), settings)
    with progress("answers") as on_progress:
        measure = evaluate_text if arguments.legacy_format else evaluate_examples
        report = measure(
            loaded, chosen, max_new_tokens=arguments.max_new_tokens, on_progress=on_progress
        )
    folder = Path(config.out) / "evaluation"
    report.write(folder)
    return report.metrics, f"{report.table()}\n\neach step: {folder}"


def token_of(arguments: SftArguments) -> Secret | None:
    """The token that was given as a flag; None leaves it to the environment."""
    return None if arguments.hub_token is None else Secret(arguments.hub_token)


def as_trained(config: RunConfig, written: Path) -> ModelConfig:
    """The model that a run wrote, on the machine of the run."""
    if config.train.method == "lora":
        return replace(config.model, adapter=str(written))
    return replace(config.model, model=str(written), revision=None)
