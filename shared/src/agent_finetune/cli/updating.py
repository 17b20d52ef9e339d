"""The process that trains for a live engine: `python -m agent_finetune.cli.updating FOLDER`.

Settings come as JSON on stdin, so that a token is never in a file or in the list of processes.
Under torchrun, which hands its stdin on, each process takes one record of `RECORD` bytes. Stdin
stays open as long as the engine's process lives; when that is gone, so are these.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from pathlib import Path

from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import FinetuneError
from agent_finetune.update.job import RECORD

ABANDONED = 3
"""Exit code when whoever asked is gone."""


def main() -> int:
    """Train what lies in the folder; 0 when done, 2 when the user must change something."""
    told = json.loads(os.read(0, RECORD))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings = Settings(
        hub_token=Secret(told["token"]) if told["token"] else None,
        offline=told["offline"],
        cache_dir=Path(told["cache_dir"]),
    )
    from agent_finetune.update.training import train

    try:
        train(Path(sys.argv[1]), settings)
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _end_with_parent() -> None:
    """End when the other side of the pipe closes, however it died; nothing is read from it."""
    pipe = select.poll()
    pipe.register(0, 0)  # that it was hung up is told in any case
    pipe.poll()
    os._exit(ABANDONED)


if __name__ == "__main__":
    sys.exit(main())
