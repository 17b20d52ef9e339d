"""`learn`: from recordings or feedback to an adapter that has passed its gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Group, Parameter

from agent_finetune import ending
from agent_finetune.cli.options import (
    NO_OUTPUT,
    RESULT,
    TRAIN,
    AdapterFlags,
    ModelFlags,
    OutputFlags,
    log,
)
from agent_finetune.cli.training import DEFAULT_ADAPTER

# The annotations of inherited fields are read in this module too.
from agent_finetune.config import Method, Objective, Reference, Schedule, TrainConfig  # noqa: F401
from agent_finetune.contracts import EngineConfig
from agent_finetune.errors import ConfigError
from agent_finetune.update.gate import GateConfig
from agent_finetune.update.options import LEARNING, UpdateConfig
from agent_finetune.versions import Versions

if TYPE_CHECKING:
    from agent_finetune import feedback
    from agent_finetune.contracts import Settings

T = TypeVar("T")
Hidden = Annotated[T, Parameter(parse=False)]
"""No flag: giving one is an error, rather than something that is not looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningFlags(TrainConfig):
    """`TrainConfig` as flags, with what an update looks at and the defaults that it has."""

    method: Hidden[Method] = "lora"
    objective: Hidden[Objective] = "sft"
    eval_steps: Hidden[int | None] = None
    eval_generate: Hidden[int] = 0
    patience: Hidden[int | None] = None
    save_steps: Hidden[int | None] = None
    keep_checkpoints: Hidden[int] = 2
    resume: Hidden[bool] = False
    epochs: float = LEARNING.epochs
    """Passes over the data; max_steps wins."""
    batch_size: int = LEARNING.batch_size
    """Rows per forward pass and process."""
    learning_rate: float | None = LEARNING.learning_rate
    """Peak step size."""


TrainFlags = Annotated[LearningFlags, Parameter(name="*", group=TRAIN)]
DEFAULT_TRAIN = LearningFlags()
GateFlags = Annotated[GateConfig, Parameter(name="*", group=Group("Gate", sort_key=3))]
DEFAULT_GATE = GateConfig()
REJECTED = 1
"""Exit code of an update that did not pass its gate."""


def learn(
    source: Path,
    *,
    model: ModelFlags,
    store: Annotated[Path, Parameter(group=RESULT)],
    name: Annotated[str, Parameter(group=RESULT)],
    trusted: Annotated[Path | None, Parameter(group=RESULT)] = None,
    threshold: Annotated[float | None, Parameter(group=RESULT)] = None,
    demonstrations: Annotated[bool, Parameter(group=RESULT, negative=())] = False,
    lora: AdapterFlags = DEFAULT_ADAPTER,
    train: TrainFlags = DEFAULT_TRAIN,
    gate: GateFlags = DEFAULT_GATE,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Learn from recordings or a file of feedback; a worse adapter is not taken. Exits 1 then.

    Pairs are learned by DPO, verdicts by KTO, demonstrations by imitation. Engines that serve the
    name change over to the new version by themselves.

    Args:
        source: Database of recordings, or of them those of one agent as FILE#AGENT; or a file of
            feedback in any common shape.
        store: Folder of all adapters; the versions are in STORE/NAME.
        name: Name of the adapter.
        trusted: Held-out feedback whose labels are surely right; must not get worse.
        threshold: Reward from which an answer counts as good.
        demonstrations: Imitate the recorded answers too that nobody judged bad.
    """
    from agent_finetune.engine.local import LocalEngine
    from agent_finetune.settings import read_settings

    if model.adapter is not None:
        raise ConfigError(
            f"adapter is {model.adapter!r}; what is learned goes on from the version of --name "
            "that is current in --store"
        )
    settings = read_settings()
    learning = _learning(source, threshold, settings, demonstrations=demonstrations)
    held_out = None if trusted is None else _learning(trusted, threshold, settings)
    log(
        f"feedback: {len(learning.preferences)} pairs, {len(learning.verdicts)} verdicts, "
        f"{len(learning.demonstrations)} demonstrations, {len(learning.dropped)} dropped"
    )
    engine = LocalEngine(EngineConfig(model=model), settings)
    try:
        report = engine.update(
            name,
            learning,
            store=store,
            config=UpdateConfig(train=TrainConfig(**asdict(train)), lora=lora, gate=gate),
            trusted=held_out,
            on_progress=_tell,
        )
    except KeyboardInterrupt as error:
        current = Versions(store, name).current()
        in_use = "the base" if current is None else f"version {current}"
        log(f"{ending.word(error)}; {in_use} is in use for {name!r}")
        return ending.code(error)
    finally:
        engine.close()
    for row in report.dropped:
        log(f"dropped: {row.source}: {row.reason}")
    output.answer(asdict(report), str(report))
    return 0 if report.accepted else REJECTED


def _learning(
    source: Path, threshold: float | None, settings: Settings, *, demonstrations: bool = False
) -> feedback.Learning:
    """What there is to learn in a database of recordings or a file of feedback."""
    from agent_finetune.feedback import align, read_feedback, read_feedback_file
    from agent_finetune.readers import is_database, open_source
    from agent_finetune.recordings import Recordings, Which
    from agent_finetune.recordings.reading import asked_agent

    opened = open_source(str(source), settings)
    if opened.path is None or not is_database(opened.path):
        if demonstrations:
            raise ConfigError(
                f"demonstrations: {source} is no database of recordings, and says itself what to "
                "imitate"
            )
        return align(read_feedback_file(str(source), settings=settings), threshold=threshold)
    recordings = Recordings(opened.path, create=False)
    which = Which(agent=asked_agent(opened.name, opened.path))
    items: list[Any] = list(recordings.judgements(which))
    if demonstrations:
        items += recordings.examples(which)
    shapes = read_feedback(items, source=opened.path.name)
    return align(shapes, more=recordings, threshold=threshold)


def _tell(line: Mapping[str, Any]) -> None:
    """One line for each step of training, and for another process that has to end first."""
    if "waiting" in line:
        log(line["waiting"])
    if "loss" in line:
        log(f"{line['objective']} step {line['step']}  loss {line['loss']:.4f}")
