"""Rendering: a conversation becomes the token ids that the model sees and produces."""

from agent_finetune.render.adapt import Adaptation
from agent_finetune.render.fit import FitResult
from agent_finetune.render.renderer import Renderer

__all__ = ["Adaptation", "FitResult", "Renderer"]
