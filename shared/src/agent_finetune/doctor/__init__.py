"""What is installed here, what this machine has, and what of it would not work.

Nothing is guessed: every line is what metadata, a file of the system or an import in a process of
its own says. Light: this process imports neither torch nor a host, so that it runs where they are
broken. Nothing is written, and nobody is asked over the network.
"""

from agent_finetune.doctor.report import Report, examine

__all__ = ["Report", "examine"]
