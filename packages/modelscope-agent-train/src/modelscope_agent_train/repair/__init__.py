"""Parts of ModelScope's own trainer that work again; see `register(repair_stock=True)`.

`trainer` is its `EpochBasedTrainer`, `deepspeed_hook` its hook and `checkpoints` what both save and
load, with the faults of ModelScope 1.40 mended. `agent-sft` needs none of it: its loop is the
kernel's.
"""
