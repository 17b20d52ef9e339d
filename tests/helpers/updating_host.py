"""A program with a live agent that learns twice; the tests kill it."""

import sys
from pathlib import Path

from live_engines import open_engine

from agent_finetune.config import AdapterConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.feedback import align, read_feedback
from agent_finetune.update.gate import GateConfig
from agent_finetune.update.options import UpdateConfig
from agent_finetune.versions import Versions

PAIRS = [
    {"prompt": "What is the weather?", "chosen": "It is sunny.", "rejected": "system user"},
    {"prompt": "Who are you?", "chosen": "An assistant.", "rejected": "tool function"},
]
QUICK = UpdateConfig(
    train=TrainConfig(epochs=3, batch_size=2, learning_rate=3e-3),
    lora=AdapterConfig(rank=4),
    gate=GateConfig(max_forgetting=1.0, max_drift=1.0),
)


def learn(model: Path, store: Path, cache: Path, times: int = 2) -> None:
    engine = open_engine(model)
    engine._settings = Settings(cache_dir=cache)
    for _ in range(times):
        report = engine.update("helper", align(read_feedback(PAIRS)), store=store, config=QUICK)
        print(report.version, flush=True)
    engine.close()


def check_whole(store: Path) -> None:
    """The next start finds whole versions and a clean store."""
    versions = Versions(store, "helper")
    with versions.begin():
        pass
    numbers = [info.number for info in versions.list()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert versions.current() in (None, *numbers)
    for number in numbers:
        assert (versions.adapter_dir(number) / "adapter_model.safetensors").is_file()
        assert "checks" in versions.facts(number)
    assert not list((versions.folder / ".staging").iterdir())


if __name__ == "__main__":
    learn(*(Path(word) for word in sys.argv[1:4]))
