"""How good a model is at an agent's steps: its answers scored, or the loss on the right ones."""

from agent_finetune.evaluate.evaluating import Steps, evaluate
from agent_finetune.evaluate.losses import Loss, evaluate_loss
from agent_finetune.evaluate.preferences import (
    LogProbability,
    log_probabilities,
    preference_accuracy,
)
from agent_finetune.evaluate.progress import progress
from agent_finetune.evaluate.report import Report

__all__ = [
    "LogProbability",
    "Loss",
    "Report",
    "Steps",
    "evaluate",
    "evaluate_loss",
    "log_probabilities",
    "preference_accuracy",
    "progress",
]
