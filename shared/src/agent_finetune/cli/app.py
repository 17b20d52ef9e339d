"""The verbs put together, and what becomes of an error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from agent_finetune import __version__, artifacts, ending, plugins
from agent_finetune.cli.adapters import adapters
from agent_finetune.cli.chat import chat
from agent_finetune.cli.doctor import doctor
from agent_finetune.cli.evaluation import evaluate
from agent_finetune.cli.inspection import inspect, list_plugins
from agent_finetune.cli.learning import learn
from agent_finetune.cli.options import apply_run_file, log
from agent_finetune.cli.recordings import recordings
from agent_finetune.cli.roles import roles
from agent_finetune.cli.training import merge, quickstart, train
from agent_finetune.contracts import Command
from agent_finetune.errors import FinetuneError, PluginError
from agent_finetune.foreign_logs import hush

VERBS: dict[str, Callable[..., int | None]] = {
    "train": train,
    "eval": evaluate,
    "inspect": inspect,
    "chat": chat,
    "learn": learn,
    "merge": merge,
    "plugins": list_plugins,
    "doctor": doctor,
    "quickstart": quickstart,
}
GROUPS: dict[str, App] = {"adapters": adapters, "recordings": recordings, "roles": roles}
"""Verbs that have verbs of their own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after the program's name; those of the process when None.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    hush()
    try:
        with ending.by_signals():
            code = _app(words)(words, exit_on_error=False, print_error=False)
    except FinetuneError as error:
        log(f"error: {error}")
        return 2
    except CycloptsError as error:
        # A config class refused a value: what it says is more than what cyclopts makes of it.
        cause = error.__cause__ if isinstance(error.__cause__, FinetuneError) else error
        log(f"error: {' '.join(str(cause).split())}")
        return 2
    except OSError as error:
        if not artifacts.lacks_room(error):
            raise
        log(f"error: {error.filename or 'a temporary file'}: {error.strerror}; make room")
        return 2
    except KeyboardInterrupt as error:
        log(ending.word(error))
        return ending.code(error)
    return int(code or 0)  # None after --help


def _app(words: Sequence[str]) -> App:
    # cyclopts: of tyro, jsonargparse and click, it alone takes dataclasses with the string under
    # a field as its help, reads TOML below the flags, and starts in 0.2 s.
    app = App(
        name="agent-finetune",
        help="Load, fine-tune and measure the model behind an agent.",
        version=__version__,
        config=apply_run_file,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=(), consume_multiple=True),
    )
    for name, function in VERBS.items():
        app.command(function, name=name)
    for group in GROUPS.values():
        app.command(group)
    # The doctor gets up where a plugin does not, and says why.
    for command in () if words[:1] == ["doctor"] else plugins.commands():
        if command.name in VERBS or command.name in GROUPS:
            raise PluginError(
                f"a plugin adds the command {command.name!r}, which is the kernel's own; "
                "give it another name"
            )
        app.command(_plugin_app(command))
    return app


def _plugin_app(command: Command) -> App:
    """Hand everything after the verb to the plugin, `--help` included."""
    app = App(name=command.name, help=command.help, help_flags=[], version_flags=[], config=())

    def run(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
        return command.run(arguments)

    app.default(run)
    return app
