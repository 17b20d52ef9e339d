"""A guarded update: training beside the live model, the gate, and only then another version.

Whatever fails, is rejected or is killed on the way leaves model, revision and answers as they
were: a version is on disk whole or not at all, and one pointer says which one speaks.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from filelock import FileLock, Timeout

from agent_finetune.config import Dtype
from agent_finetune.contracts import Request, Settings
from agent_finetune.engine import process
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.engine.served import Served
from agent_finetune.engine.worker import Worker
from agent_finetune.errors import BusyError, DataError, RenderError
from agent_finetune.feedback import Learning
from agent_finetune.records import BadRow
from agent_finetune.render import Renderer
from agent_finetune.train import fits
from agent_finetune.update.gate import Check, decide
from agent_finetune.update.general import Said, base_answers
from agent_finetune.update.job import ADAPTER, JOB, OUTCOME, Outcome, Rows, UpdateJob
from agent_finetune.update.options import UpdateConfig
from agent_finetune.versions import Versions

Progress: TypeAlias = "Callable[[Mapping[str, Any]], None]"


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateReport:
    """What came of an update."""

    name: str
    accepted: bool
    version: int | None
    """The version that speaks now; None is the base."""
    revision: str
    """What answers under this name are made with now."""
    checks: tuple[Check, ...]
    labels_checked: bool
    """Whether a trusted set was given; without one, wrong labels are learned like right ones."""
    dropped: tuple[BadRow, ...]
    """What could not be learned from, and why."""
    stats: Mapping[str, Any]
    """JSON: log-probabilities before and after, losses, rows, tokens, seconds."""

    def __str__(self) -> str:
        verdict = "accepted" if self.accepted else "rejected; everything stands as it was"
        labels = "" if self.labels_checked else "labels not checked: no trusted set was given"
        lines = [f"update of {self.name!r}: {verdict}", *map(str, self.checks), labels]
        return "\n".join(line for line in lines if line)


def update(
    worker: Worker,
    name: str,
    learning: Learning,
    *,
    store: Path,
    config: UpdateConfig,
    settings: Settings,
    trusted: Learning | None,
    on_progress: Progress | None,
) -> UpdateReport:
    """See `LocalEngine.update`."""
    started = time.monotonic()
    versions = Versions(store, name)
    with _alone(versions, on_progress), versions.begin() as staging:
        parent = versions.current()
        before = None if parent is None else versions.adapter_dir(parent)
        job, dropped = _job(worker, learning, trusted, before, config, settings)
        job.write(staging)
        room = worker.call(lambda served: _room(served, job, config))
        with nullcontext() if room.enough else worker.away():
            _train(staging, settings, config.processes, on_progress)
        outcome = Outcome.read(staging)
        checks = decide(outcome.before, outcome.after, outcome.base_loss, config.gate)
        accepted = all(check.passed for check in checks)
        stats = _stats(job, outcome, checks, room, time.monotonic() - started)
        number = parent
        if accepted:
            _tidy(staging)
            number = versions.commit(staging, {"parent": parent, **stats})
            _go_live(worker, name, versions, number)
    revision = worker.call(lambda served: served.revision_of(name))
    return UpdateReport(
        name=name,
        accepted=accepted,
        version=number,
        revision=revision,
        checks=checks,
        labels_checked=bool(job.trusted),
        dropped=dropped,
        stats={**stats, "revision": revision},
    )


_under_way: set[Path] = set()
"""Names that this process is updating, as folders of their versions."""
_guard = threading.Lock()


@contextmanager
def _alone(versions: Versions, on_progress: Progress | None) -> Iterator[None]:
    """One update of a name at a time: this process's own is refused, another's is waited for."""
    key = versions.folder.resolve()
    with _guard:
        if key in _under_way:
            raise BusyError(f"another update of {versions.name!r} is under way")
        _under_way.add(key)
    try:
        versions.folder.mkdir(parents=True, exist_ok=True)
        with _waited_for(FileLock(versions.folder / ".update.lock"), versions.name, on_progress):
            yield
    finally:
        _under_way.remove(key)


@contextmanager
def _waited_for(lock: FileLock, name: str, on_progress: Progress | None) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if on_progress is not None:
            on_progress({"waiting": f"another process is updating {name!r}; waiting for its end"})
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _job(
    worker: Worker,
    learning: Learning,
    trusted: Learning | None,
    adapter: Path | None,
    config: UpdateConfig,
    settings: Settings,
) -> tuple[UpdateJob, tuple[BadRow, ...]]:
    """Feedback as ids, rendered by the tokenizer that serves; and what could not be."""
    dropped = list(learning.dropped)
    rows = _rows(worker, learning, config.max_length, dropped)
    if not rows:
        reasons = "; ".join(f"{row.source}: {row.reason}" for row in dropped[:3])
        raise DataError(f"nothing to learn from{': ' if reasons else ''}{reasons}")
    held_out = Rows() if trusted is None else _rows(worker, trusted, config.max_length, dropped)
    if trusted is not None and not held_out:
        raise DataError("the trusted set has nothing in it that can be measured")

    def ask(request: Request) -> LiveGeneration:
        generation = LiveGeneration()
        worker.submit(generation, request)
        return generation

    loaded = worker.call(lambda served: served.loaded)
    general = base_answers("general", loaded.digest, ask, settings.cache_dir)
    retained: Sequence[Said] = ()
    if config.retention:
        retained = base_answers("retention", loaded.digest, ask, settings.cache_dir)
    model = replace(
        loaded.config,
        adapter=None if adapter is None else str(adapter),
        device=config.device or loaded.device,
        dtype=cast("Dtype", loaded.dtype),
    )
    job = UpdateJob(
        model=model,
        lora=config.lora,
        train=config.train,
        rows=rows,
        trusted=held_out,
        general=tuple(general),
        retained=tuple(retained),
        retention=config.retention,
    )
    return job, tuple(dropped)


def _rows(worker: Worker, learning: Learning, longest: int, dropped: list[BadRow]) -> Rows:
    """Render on the engine's thread, one item at a time, so that answers go on between them."""

    def render(how: Callable[[Renderer, Any], Any], item: Any) -> Any:
        return worker.call(lambda served: how(served.base.renderer, item))

    def rendered(items: Sequence[Any], how: Callable[[Renderer, Any], Any]) -> list[Any]:
        made = []
        for item in items:
            where = item.source or item.id or "feedback"
            try:
                found = render(how, item)
            except (RenderError, DataError) as error:
                dropped.append(BadRow(source=where, reason=str(error)))
                continue
            lengths = [row.length for row in (found if isinstance(found, tuple) else (found,))]
            if max(lengths) > longest:
                reason = f"{max(lengths)} tokens; the most is {longest}"
                dropped.append(BadRow(source=where, reason=reason))
                continue
            made.append((item, found))
        return made

    demonstrated = rendered(learning.demonstrations, Renderer.rows)
    steps = [
        (step.prompt, step.ids) for item, _ in demonstrated for step in render(Renderer.steps, item)
    ]
    return Rows(
        pairs=tuple(row for _, row in rendered(learning.preferences, Renderer.pair)),
        verdicts=tuple(row for _, row in rendered(learning.verdicts, Renderer.verdict)),
        demonstrations=tuple(row for _, rows in demonstrated for row in rows),
        demonstrated=tuple(steps),
    )


def _room(served: Served, job: UpdateJob, config: UpdateConfig) -> fits.Room:
    model = served.loaded.model
    rows = [row for _, rows in job.rows.phases for row in rows]
    longest = max(row.length for row in rows)
    return fits.estimate(
        model,
        trained=fits.lora_weights(model, config.lora.rank, config.lora.targets),
        tokens=2 * config.train.batch_size * longest,
        device=torch.device(job.model.device),
    )


def _train(staging: Path, settings: Settings, processes: int, on_progress: Progress | None) -> None:
    """Run the processes that train, and tell how far they are."""
    seen = 0

    def poll() -> None:
        nonlocal seen
        seen = _tell(staging, seen, on_progress)

    process.train("update", staging, settings, processes=processes, poll=poll)


def _tell(staging: Path, seen: int, on_progress: Progress | None) -> int:
    """Hand on the lines of the histories that have come; answers how many there are."""
    if on_progress is None:
        return seen
    lines = [
        {"objective": objective, **json.loads(line)}
        for objective in ("sft", "kto", "dpo")
        if (path := staging / objective / "history.jsonl").is_file()
        for line in path.read_text("utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
    for line in lines[seen:]:
        on_progress(line)
    return len(lines)


def _stats(
    job: UpdateJob,
    outcome: Outcome,
    checks: Sequence[Check],
    room: fits.Room,
    seconds: float,
) -> dict[str, Any]:
    """What a version keeps: numbers, and where its data came from; no words of it."""
    return {
        "checks": [asdict(check) for check in checks],
        "before": asdict(outcome.before),
        "after": asdict(outcome.after),
        "base_loss": outcome.base_loss,
        "training": list(outcome.phases),
        "trained_on": [row.source for _, rows in job.rows.phases for row in rows],
        "labels": "checked on a trusted set" if job.trusted else "not checked",
        "memory": str(room),
        "train": asdict(job.train),
        "seconds": round(seconds, 1),
    }


def _tidy(staging: Path) -> None:
    """Keep the adapter and the losses; the job holds what people said, and goes."""
    for name in (JOB, OUTCOME, process.LOG):
        (staging / name).unlink()
    for objective in ("sft", "kto", "dpo"):
        for name in ("checkpoints", ADAPTER):
            shutil.rmtree(staging / objective / name, ignore_errors=True)


def _go_live(worker: Worker, name: str, versions: Versions, number: int) -> None:
    """Read the new version while the old one speaks, then flip the pointer."""
    tried = f"{name} (version {number})"
    worker.attach(tried, versions.adapter_dir(number))
    versions.use(number)
    worker.attach(name, versions.folder)
    worker.detach(tried)
