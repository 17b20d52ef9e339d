"""Rendering: a conversation becomes the token ids that the model sees and produces."""

from agent_finetune.render.adapt import Adaptation
from agent_finetune.render.fit import FitResult
from agent_finetune.render.renderer import Renderer
from agent_finetune.render.turns import Prompt

__all__ = ["Adaptation", "FitResult", "Prompt", "Renderer"]
