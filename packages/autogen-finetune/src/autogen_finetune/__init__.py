"""AutoGen's side of agent-finetune: saved classic AutoGen chats become training examples."""

__version__ = "0.1.0"
