"""How a model generates, in the names that other providers use."""

from __future__ import annotations

from pydantic import BaseModel, Field

REPLY_LENGTH = 512
"""Most tokens of a reply where an agent makes its own model and nobody says; as in 2024. A small
model may never stop, and on a CPU its whole context takes minutes."""


class GenerationParameters(BaseModel):
    """How to generate, in the names that other providers use."""

    max_tokens: int | None = Field(
        default=None,
        title="Max Tokens",
        description="The most tokens of an answer; unset, what the context still holds.",
        gt=0,
    )
    temperature: float | None = Field(
        default=None,
        title="Temperature",
        description="0 or unset takes the likeliest token each time.",
        ge=0,
        le=2,
    )
    top_p: float | None = Field(
        default=None,
        title="Top P",
        description="Share of the likeliest tokens that are drawn from.",
        gt=0,
        le=1,
    )
    top_k: int | None = Field(
        default=None,
        title="Top K",
        description="How many of the likeliest tokens are drawn from; 0 or unset is all.",
        ge=0,
    )
    repetition_penalty: float | None = Field(
        default=None,
        title="Repetition Penalty",
        description="Above 1 makes tokens less likely that were there before.",
        gt=0,
    )
    seed: int | None = Field(
        default=None, title="Seed", description="The same seed gives the same answer."
    )
    thinking_enable: bool | None = Field(
        default=None,
        title="Thinking",
        description="Whether the model thinks first; unset is the model's own way.",
    )
    stop: list[str] | None = Field(
        default=None, title="Stop", description="Texts that end an answer."
    )
