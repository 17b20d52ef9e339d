"""How good a model is at an agent's steps: its answers scored, or the loss on the right ones."""

from agent_finetune.evaluate.answers import Answer, Asked, answers
from agent_finetune.evaluate.evaluating import asked, evaluate, score
from agent_finetune.evaluate.losses import Loss, evaluate_loss
from agent_finetune.evaluate.preferences import (
    LogProbability,
    log_probabilities,
    preference_accuracy,
)
from agent_finetune.evaluate.progress import progress
from agent_finetune.evaluate.report import Report
from agent_finetune.evaluate.steps import Step, Steps, steps_of

__all__ = [
    "Answer",
    "Asked",
    "LogProbability",
    "Loss",
    "Report",
    "Step",
    "Steps",
    "answers",
    "asked",
    "evaluate",
    "evaluate_loss",
    "log_probabilities",
    "preference_accuracy",
    "progress",
    "score",
    "steps_of",
]
