"""`training_args` of the 2024 example: every field of Transformers' TrainingArguments, told apart.

A field becomes one of ours, changes nothing in what is learned and is noted, or has one value
that we can keep to; any other value of it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentscope_finetune.training_fields import ADAMW, EVERY, FIXED, NAMES, NOTED, TAKEN
from agentscope_finetune.values2024 import choice, device, flag, number, text, unknown, whole, wrong
from agentscope_finetune.weights2024 import fixed


@dataclass(kw_only=True)
class TrainingArguments:
    """What `training_args` said."""

    train: dict[str, Any] = field(default_factory=dict)
    """Fields of our TrainConfig."""
    dtype: str | None = None
    device: str | None = None
    max_length: int | None = None
    output_dir: str | None = None
    notes: list[str] = field(default_factory=list)


def read_training_arguments(arguments: Mapping[str, object]) -> TrainingArguments:
    """Read `training_args`; a value of None is as if the field were absent.

    Raises:
        ConfigError: A field that does not exist, or whose value cannot be kept to.
    """
    for name in arguments:
        if name not in NAMES:
            raise unknown(f"training_args.{name}", NAMES, "field of TrainingArguments")
    given = {name: value for name, value in arguments.items() if value is not None}
    found = TrainingArguments()
    for name, value in given.items():
        key = f"training_args.{name}"
        if name in TAKEN:
            ours, read = TAKEN[name]
            found.train[ours] = read(key, value)
            found.notes.append(f"{key}: {ours} {found.train[ours]!r}")
        elif name in FIXED:
            fixed(key, value, FIXED, set(NAMES), "field of TrainingArguments")
            found.notes.append(f"{key}: as it always is here")
        elif name in NOTED:
            found.notes.append(f"{key}: {NOTED[name]}")
    _read_length(given, found)
    _read_evaluation(given, found)
    _read_saving(given, found)
    _read_optimizer(given, found)
    _read_place(given, found)
    return found


def _read_length(given: Mapping[str, object], found: TrainingArguments) -> None:
    """`max_steps`, `warmup_steps` and the most tokens of a row."""
    if "max_steps" in given:
        steps = whole(least=-1)("training_args.max_steps", given["max_steps"])
        if steps > 0:
            found.train["max_steps"] = steps
        found.notes.append(f"training_args.max_steps: {steps if steps > 0 else 'no limit'}")
    if "warmup_steps" in given:
        _read_warmup(given["warmup_steps"], found)
    for name in ("max_length", "max_seq_length"):
        if name in given:
            found.max_length = whole(least=8)(f"training_args.{name}", given[name])
            found.notes.append(f"training_args.{name}: rows of at most {found.max_length} tokens")


def _read_warmup(value: object, found: TrainingArguments) -> None:
    """Steps become a share of `max_steps`; below 1 they are a share already (Transformers 5)."""
    key = "training_args.warmup_steps"
    steps: float = number()(key, value)
    if steps >= 1:
        total = found.train.get("max_steps")
        if total is None or steps >= total:
            raise wrong(
                key, value, "a number below max_steps; without max_steps give warmup_ratio instead"
            )
        # The kernel rounds the product down; half a step more makes that exact.
        steps = (whole(least=1)(key, value) + 0.5) / total
    if steps or "warmup" not in found.train:
        found.train["warmup"] = steps
    found.notes.append(f"{key}: warmup {found.train['warmup']:.4g} of the steps")


def _read_evaluation(given: Mapping[str, object], found: TrainingArguments) -> None:
    when = "no"
    for name in ("evaluation_strategy", "eval_strategy"):
        if name in given:
            when = choice(*EVERY)(f"training_args.{name}", given[name])
            meaning = {"epoch": "at the end of each epoch", "steps": "every eval_steps"}.get(
                when, "measured only where there is held-out data"
            )
            found.notes.append(f"training_args.{name}: {meaning}")
    if "eval_steps" in given:
        steps = whole(least=1)("training_args.eval_steps", given["eval_steps"])
        used = when != "epoch"
        found.notes.append(
            "training_args.eval_steps: "
            + (f"eval_steps {steps}" if used else "no effect with eval_strategy 'epoch'")
        )
    elif when == "steps":
        steps, used = found.train.get("log_steps", 1), True  # as Transformers has it
    else:
        return
    if used:
        found.train["eval_steps"] = steps


def _read_saving(given: Mapping[str, object], found: TrainingArguments) -> None:
    when = None
    if "save_strategy" in given:
        when = choice(*EVERY)("training_args.save_strategy", given["save_strategy"])
        meaning = {"steps": "every save_steps", "epoch": "at the end of each epoch"}.get(
            when, "checkpoints are kept all the same, so that a killed run can go on"
        )
        found.notes.append(f"training_args.save_strategy: {meaning}")
    if "save_steps" in given:
        steps = whole(least=1)("training_args.save_steps", given["save_steps"])
        used = when in (None, "steps")
        found.notes.append(
            "training_args.save_steps: "
            + (f"save_steps {steps}" if used else f"no effect with save_strategy {when!r}")
        )
        if used:
            found.train["save_steps"] = steps
    elif when == "steps":
        found.train["save_steps"] = 500  # as Transformers has it


def _read_optimizer(given: Mapping[str, object], found: TrainingArguments) -> None:
    if "optim" in given:
        name = choice(*ADAMW)("training_args.optim", given["optim"])
        found.notes.append(
            f"training_args.optim: {name} is AdamW; its states are float32 and not paged, which "
            "runs on every device"
        )
    if "data_seed" in given:
        key = "training_args.data_seed"
        seed = whole(least=0)(key, given["data_seed"])
        if seed != found.train.setdefault("seed", seed):
            raise wrong(key, given["data_seed"], f"the same as seed, {found.train['seed']}")
        found.notes.append(f"{key}: seed {seed}")


def _read_place(given: Mapping[str, object], found: TrainingArguments) -> None:
    """Number format, device and folder."""
    bf16, fp16 = (flag(f"training_args.{n}", given.get(n, False)) for n in ("bf16", "fp16"))
    if bf16 and fp16:
        raise wrong("training_args.fp16", True, "False beside bf16")
    for name, wanted, ours in (("bf16", bf16, "bfloat16"), ("fp16", fp16, "float16")):
        if wanted:
            found.dtype = ours
        if name in given:
            found.notes.append(f"training_args.{name}: {ours if wanted else 'no effect'}")
    for name in ("use_cpu", "no_cuda"):
        if name in given:
            if flag(f"training_args.{name}", given[name]):
                found.device = device("training_args." + name, "cpu")
            found.notes.append(f"training_args.{name}: device {found.device or 'as it is'}")
    if "output_dir" in given:
        found.output_dir = text("training_args.output_dir", given["output_dir"])
        found.notes.append("training_args.output_dir: the run's folder is made in it")
