"""Small runs of ModelScope's trainers: a tiny model, a few rows, and a hook that looks on."""

import json
from pathlib import Path

import torch

import modelscope_agent_train
from agent_finetune.testing import save_tiny_model

SAMPLE = Path(modelscope_agent_train.__file__).parent / "samples" / "msagent.jsonl"


def tiny_folder(folder):
    """A model folder without configuration.json."""
    return Path(save_tiny_model(folder))


def conversations(count, start=0):
    lines = SAMPLE.read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines[start : start + count]]


class TokenRows(torch.utils.data.Dataset):
    """Rows as a script that tokenizes by itself makes them."""

    def __init__(self, count=4, length=12):
        generator = torch.Generator().manual_seed(0)
        self.rows = [torch.randint(5, 100, (length,), generator=generator) for _ in range(count)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        ids = self.rows[place]
        labels = ids.clone()
        labels[:4] = -100
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def stock_configuration(folder, **train):
    """A configuration that ModelScope's own trainer trains by."""
    file = Path(folder) / "stock.json"
    tree = {
        "framework": "pytorch",
        "task": "text-generation",
        "model": {"type": "llama"},
        "train": {
            "work_dir": str(Path(folder) / "work"),
            "max_epochs": 1,
            "dataloader": {"batch_size_per_gpu": 2, "workers_per_gpu": 0, "shuffle": False},
            "optimizer": {"type": "SGD", "lr": 0.5},
            "lr_scheduler": {"type": "StepLR", "step_size": 1},
            "checkpoint": {"period": {"save_strategy": "by_epoch", "interval": 1}},
            "hooks": [],
            **train,
        },
        "evaluation": {
            "dataloader": {"batch_size_per_gpu": 2, "workers_per_gpu": 0},
            "metrics": ["ppl"],
        },
    }
    file.write_text(json.dumps(tree), "utf-8")
    return str(file)


class Watching:
    """A hook that writes down what it is shown; any object with ModelScope's methods is one."""

    def __init__(self):
        self.seen = []

    def before_run(self, trainer):
        self.seen.append(("before_run", trainer.max_iters, trainer.max_epochs))

    def before_train_epoch(self, trainer):
        self.seen.append(("before_train_epoch", trainer.epoch))

    def before_train_iter(self, trainer):
        self.seen.append(("before_train_iter", trainer.iter))

    def after_train_iter(self, trainer):
        self.seen.append(("after_train_iter", trainer.iter))

    def before_val(self, trainer):
        self.seen.append(("before_val", trainer.mode))

    def after_val(self, trainer):
        self.seen.append(("after_val", sorted(trainer.metric_values)))

    def after_train_epoch(self, trainer):
        self.seen.append(("after_train_epoch", trainer.epoch))

    def after_run(self, trainer):
        self.seen.append(("after_run", trainer.iter))

    def of(self, stage):
        return [value for name, *value in self.seen if name == stage]
