"""AgentScope's side of agent-finetune: saved AgentScope conversations become training examples."""

__version__ = "0.1.0"
