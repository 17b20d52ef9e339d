"""What a guarded update does to a real model, and what its gate lets through, in one run.

    nox -s benchmark -- guarded_updates                # SmolLM2-135M
    nox -s benchmark -- guarded_updates --part one_update     # one part; the other stays as it was

Feedback is corrections: the model's own greedy answer is rejected, a short one is chosen
(benchmarks/updates/corrections.jsonl). Measured, and held to a bar:

    one update    of 8 pairs, everything included: at most 3 minutes; the chosen answer likelier per
                  token than the rejected for at least 7 of 8, and likelier than before for 8 of 8;
                  the greedy answer changed for at least 5; the loss on the general set up by less
                  than 3%; another adapter on the same engine answers exactly as before
    the gate      updates of 2 pairs each, from the base, with a trusted set of 8 other pairs: good
                  ones are all accepted, with 100 times the learning rate all rejected, with labels
                  swapped all rejected

Exits 1 when a bar is missed. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from live import ways

from agent_finetune.artifacts import write_json
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Request, Result
from agent_finetune.engine.local import LocalEngine
from agent_finetune.engine.updating import UpdateReport
from agent_finetune.errors import TrainError
from agent_finetune.feedback import Learning, align, read_feedback
from agent_finetune.records import Message
from agent_finetune.settings import read_settings
from agent_finetune.update.options import LEARNING, UpdateConfig

HERE = Path(__file__).parent
TOO_FAST = UpdateConfig(train=replace(LEARNING, learning_rate=100 * LEARNING.peak_learning_rate))
MINUTES = 3.0
KINDS = {"good": True, "too_fast": False, "swapped": False}
"""Kinds of updates, and whether they should be accepted."""


class Feedback:
    """Corrections of what the model says by itself."""

    def __init__(self, engine: LocalEngine, path: Path) -> None:
        self.engine = engine
        lines = path.read_text("utf-8").splitlines()
        self.items = [json.loads(line) for line in lines]
        asked = [engine.stream(request(item["prompt"])) for item in self.items]
        self.said = [generation.result() for generation in asked]
        self._log = {exchange.result.id: exchange for exchange in engine.recent()}

    def learning(self, start: int, count: int, *, swapped: bool = False) -> Learning:
        """Pairs of some of them."""
        chosen = range(start, start + count)
        shapes = [
            {"id": self.said[i].id, "correction": self.items[i]["correction"]} for i in chosen
        ]
        log = [self._log[self.said[i].id] for i in chosen]
        found = align(read_feedback(shapes), log)
        if not swapped:
            return found
        pairs = [
            replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in found.preferences
        ]
        return replace(found, preferences=tuple(pairs))


def request(prompt: str, adapter: str | None = None) -> Request:
    return Request(messages=[Message(role="user", text=prompt)], max_new_tokens=64, adapter=adapter)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON; 1 when a bar is missed."""
    options = arguments(argv)
    settings = read_settings()
    config = ModelConfig(model=options.model, dtype=options.dtype)
    # Nothing is found computed: in bfloat16 that is rounded differently from what is computed
    # afresh, and only the adapters are to make a difference here.
    engine = LocalEngine(EngineConfig(model=config, prefix_cache_mib=0), settings)
    target = options.json or HERE / f"results/guarded_updates-{engine.info().device}.json"
    report = json.loads(target.read_text("utf-8")) if target.is_file() else {}
    feedback = Feedback(engine, options.corrections)
    with TemporaryDirectory() as folder:
        store = Path(folder)
        if options.part in ("one_update", "all"):
            # The base's own answers are part of what a first update costs.
            shutil.rmtree(settings.cache_dir / "general", ignore_errors=True)
            (other,) = ways.write_adapters(config, 1, store / ".random", settings).values()
            engine.attach("other", other)
            report["one_update"] = described(options, engine) | one_update(engine, feedback, store)
            print(json.dumps(report["one_update"], indent=2))
        if options.part in ("gate", "all"):
            report["gate"] = described(options, engine) | {k: [] for k in KINDS}
            for kind, found in the_gate(engine, feedback, store, options.rounds):
                report["gate"][kind].append(found)
                print(kind, "accepted" if found["accepted"] else "rejected", flush=True)
                write_json(target, report)
    engine.close()
    report["bars"] = held(report)
    for name, passed in report["bars"].items():
        print(f"{'PASS' if passed else 'FAIL'}  {name}")
    write_json(target, report)
    return 0 if all(report["bars"].values()) else 1


def described(options: argparse.Namespace, engine: LocalEngine) -> dict[str, Any]:
    info = engine.info()
    return {
        "model": options.model,
        "device": info.device,
        "dtype": info.dtype,
        "machine": platform.processor() or platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def one_update(engine: LocalEngine, feedback: Feedback, store: Path) -> dict[str, Any]:
    """One update of 8 pairs, and what it changed."""
    prompts = [item["prompt"] for item in feedback.items[:8]]
    others = [engine.generate(request(prompt, "other")) for prompt in prompts]
    started = time.perf_counter()
    report = engine.update("first", feedback.learning(0, 8), store=store)
    seconds = time.perf_counter() - started
    before, after = report.stats["before"], report.stats["after"]
    changed = [engine.generate(request(prompt, "first")) for prompt in prompts]
    again = [engine.generate(request(prompt, "other")) for prompt in prompts]
    return {
        "accepted": report.accepted,
        "seconds": round(seconds, 1),
        "chosen_over_rejected_before": wins(before["trained"]),
        "chosen_over_rejected_after": wins(after["trained"]),
        "chosen_likelier_than_before": sum(
            new > old
            for new, old in zip(after["trained"]["liked"], before["trained"]["liked"], strict=True)
        ),
        "greedy_changed": differing(feedback.said[:8], changed),
        "general_loss_change": after["general"] / before["general"] - 1,
        "other_adapter_changed": differing(others, again),
        "answers": {
            prompt: [old.message.text, new.message.text]
            for prompt, old, new in zip(prompts, feedback.said, changed, strict=False)
        },
    }


def wins(scores: Mapping[str, Sequence[float]]) -> int:
    pairs = zip(scores["liked"], scores["disliked"], strict=True)
    return sum(liked > disliked for liked, disliked in pairs)


def differing(one: Sequence[Result], other: Sequence[Result]) -> int:
    return sum(a.message.text != b.message.text for a, b in zip(one, other, strict=True))


def the_gate(
    engine: LocalEngine, feedback: Feedback, store: Path, rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Updates that should pass, and updates that should not, in turn."""
    trusted = feedback.learning(48, 8)
    kinds: dict[str, tuple[UpdateConfig, bool]] = {
        "good": (UpdateConfig(), False),
        "too_fast": (TOO_FAST, False),
        "swapped": (UpdateConfig(), True),
    }
    for number in range(rounds):
        for kind, (config, swapped) in kinds.items():
            learning = feedback.learning(8 + 2 * number, 2, swapped=swapped)
            name = f"{kind}{number}"
            try:
                report = engine.update(name, learning, store=store, config=config, trusted=trusted)
            except TrainError as error:  # the loss was no number: nothing came of it either
                yield kind, {"accepted": False, "failed": [str(error)]}
                continue
            yield kind, told(report)


def told(report: UpdateReport) -> dict[str, Any]:
    before, after = report.stats["before"]["general"], report.stats["after"]["general"]
    return {
        "accepted": report.accepted,
        "seconds": report.stats["seconds"],
        "failed": [str(check) for check in report.checks if not check.passed],
        "general_loss_change": after / before - 1,
    }


def held(report: Mapping[str, Any]) -> dict[str, bool]:
    bars: dict[str, bool] = {}
    if first := report.get("one_update"):
        bars = {
            f"one update in {MINUTES} minutes": first["seconds"] <= 60 * MINUTES,
            "chosen over rejected for 7 of 8": first["chosen_over_rejected_after"] >= 7,
            "chosen likelier than before for 8 of 8": first["chosen_likelier_than_before"] == 8,
            "greedy answer changed for 5 of 8": first["greedy_changed"] >= 5,
            "general loss up by less than 3%": first["general_loss_change"] < 0.03,
            "another adapter answers as before": first["other_adapter_changed"] == 0,
        }
    for kind, wanted in KINDS.items():
        if found := report.get("gate", {}).get(kind):
            right = sum(each["accepted"] is wanted for each in found)
            word = "accepted" if wanted else "rejected"
            bars[f"{kind}: {right} of {len(found)} {word}"] = right == len(found)
    return bars


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a guarded update does to a real model.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--part", choices=("one_update", "gate", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=10, help="updates of each kind")
    parser.add_argument("--corrections", type=Path, default=HERE / "updates/corrections.jsonl")
    parser.add_argument("--json", type=Path, help="where the results go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
