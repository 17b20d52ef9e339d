"""Generations and feedback on disk, written only by who opens them; redacted before writing."""

from agent_finetune.recordings.recording import Feedback, Recording
from agent_finetune.recordings.store import Recordings, Which

__all__ = ["Feedback", "Recording", "Recordings", "Which"]
