"""Learning from feedback: what people say about answers, turned into records to train on.

    shapes = read_feedback([("better", "worse"), {"id": "gen-7", "label": "up"}])
    learning = align(shapes, log=engine.recent(), thread=messages)

`read_feedback` normalises every shape that is in use, `align` puts each to the generation that
it judges. Neither knows a host, and neither guesses: what could be two things is an error.
"""

from agent_finetune.feedback.aligning import align
from agent_finetune.feedback.finding import Lookup
from agent_finetune.feedback.reading import read_feedback, read_feedback_file
from agent_finetune.feedback.shapes import (
    About,
    Demonstration,
    Learning,
    Pair,
    PromptSource,
    Reward,
    Shape,
    Thumb,
)

__all__ = [
    "About",
    "Demonstration",
    "Learning",
    "Lookup",
    "Pair",
    "PromptSource",
    "Reward",
    "Shape",
    "Thumb",
    "align",
    "read_feedback",
    "read_feedback_file",
]
