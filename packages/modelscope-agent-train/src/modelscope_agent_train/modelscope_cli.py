"""`modelscope agent-sft`: the training script as a command of ModelScope's own program.

ModelScope imports this at every command of its program, so nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
from typing import Any

_NO_OPTION = "\0"
"""A character that begins no word: the flags are ours to read, with our own errors."""


class AgentSft:
    """Found through the entry point `modelscope_hub.cli_plugins`."""

    name = "agent-sft"

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    @staticmethod
    def register(subparsers: Any) -> None:
        """Add the command to ModelScope's parser."""
        parser = subparsers.add_parser(
            AgentSft.name,
            help="Fine-tune a model on agent data (modelscope-agent-train).",
            prefix_chars=_NO_OPTION,
            add_help=False,  # --help is ours too
        )
        parser.add_argument("words", nargs=argparse.REMAINDER)
        parser.set_defaults(_command=AgentSft)

    def execute(self) -> None:
        """Train.

        Raises:
            SystemExit: With the exit code, which ModelScope's program passes on.
        """
        from modelscope_agent_train import sft

        raise SystemExit(sft.main(self.args.words, prog=f"modelscope {AgentSft.name}"))
