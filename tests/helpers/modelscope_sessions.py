"""A session of `agent-sft` through ModelScope's `build_trainer`; a program for torchrun, too.

torchrun --nproc-per-node 2 modelscope_sessions.py '{"folder": ..., "out": ..., ...}'
"""

import json
import os
import signal
import sys
from pathlib import Path

from modelscope_trainers import conversations

import modelscope_agent_train as package

STEPS = 6
BATCH = 4
"""Rows in a step, of all processes together; the sample's 24 rows are 6 steps."""
SAVED = 3
"""Steps between checkpoints."""


class Losses:
    """A hook that keeps the loss of every iteration, as its process is told of it."""

    def __init__(self, killed_at=None):
        self.seen = []
        self.killed_at = killed_at

    def after_train_iter(self, trainer):
        self.seen.append(trainer.log_buffer.val_history["loss"][-1])
        if trainer.iter + 1 == self.killed_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)  # as when memory is short: nothing is tidied up


def build(folder, out, *, processes=1, deepspeed=None, hooks=()):
    from modelscope.trainers import build_trainer

    def modify(cfg):
        cfg.train.dataloader = {"batch_size_per_gpu": BATCH // processes}
        cfg.train.bf16 = False  # float32, which this machine may not choose by itself
        cfg.train.optimizer.lr = 1e-2
        cfg.train.checkpoint = {"period": {"save_strategy": "by_step", "interval": SAVED}}
        if deepspeed is not None:
            cfg.train.hooks.append(
                {
                    "type": "DeepspeedHook",
                    "config": deepspeed,
                    "save_zero_checkpoint": True,
                    "with_mpu": False,
                }
            )
        return cfg

    return build_trainer(
        "agent-sft",
        default_args={
            "model": str(folder),
            "train_dataset": conversations(STEPS * BATCH),
            "eval_dataset": conversations(2),
            "cfg_modify_fn": modify,
            # Dropout is drawn by each process for itself, so with it no two runs are alike.
            "efficient_tuners": package.LoRAConfig(rank=4, lora_alpha=64, lora_dropout=0.0),
            "work_dir": str(out),
            "max_epochs": 1,
            "device": "cpu",
            "callbacks": list(hooks),
        },
    )


def main():
    options = json.loads(sys.argv[1])
    checkpoint, killed_at = options.pop("checkpoint", None), options.pop("killed_at", None)
    losses = Losses(killed_at)
    trainer = build(**options, processes=int(os.environ["WORLD_SIZE"]), hooks=[losses])
    trainer.train(checkpoint)
    seen = {"losses": losses.seen, "metrics": trainer.metric_values, "iter": trainer.iter}
    Path(options["out"], f"seen_by_{os.environ['RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
