"""ModelScope's side of agent-finetune: MSAgent-Bench rows become training examples."""

__version__ = "0.1.0"
