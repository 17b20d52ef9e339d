"""The command line `agent-finetune`: the only place for argv, printing and exit codes.

Exit codes: 0 it worked; 1 our bug, with its traceback; 2 the user can fix it, in one line on
stderr; 130 interrupted (Ctrl-C); 143 terminated (SIGTERM). Data goes to stdout, the log to stderr.
"""

from agent_finetune.cli.app import main

__all__ = ["main"]
