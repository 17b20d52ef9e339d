"""The process that trains for a live engine: `python -m agent_finetune.cli.trainer VERB FOLDER`.

Settings come as JSON on stdin, so that a token is never in a file or in the list of processes.
Under torchrun, which hands its stdin on, each process takes one record of `RECORD` bytes. Stdin
stays open as long as the engine's process lives; when that is gone, so are these.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from pathlib import Path

from agent_finetune import ending
from agent_finetune.engine.process import RECORD, listen, write_error
from agent_finetune.errors import FinetuneError

ABANDONED = 3
"""Exit code when whoever asked is gone."""


def main() -> int:
    """Train what lies in the folder; 0 when done, 2 when the user must change something."""
    settings = listen(os.read(0, RECORD))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == "update":
        from agent_finetune.update.training import train as do
    else:
        from agent_finetune.train.handed import run as do

    try:
        with ending.by_signals():
            do(folder, settings)
    except FinetuneError as error:
        write_error(folder, error)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(ending.word(error), file=sys.stderr)
        return ending.code(error)
    return 0


def _end_with_parent() -> None:
    """End when the other side of the pipe closes, however it died; nothing is read from it."""
    pipe = select.poll()
    pipe.register(0, 0)  # that it was hung up is told in any case
    pipe.poll()
    os._exit(ABANDONED)


if __name__ == "__main__":
    sys.exit(main())
