"""Supervised training over TRL: what is held, what is written, and how a killed run goes on.

`run` does a whole job from a `RunConfig`, as the command line calls it. `fit` is its last part,
from rows of tokens to an adapter on disk, and what the kernel answers to
`finetune_train_adapter`.
"""

from agent_finetune.train.fitting import fit
from agent_finetune.train.job import run

__all__ = ["fit", "run"]
