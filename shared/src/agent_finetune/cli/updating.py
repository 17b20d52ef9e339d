"""The process that trains for a live engine: `python -m agent_finetune.cli.updating FOLDER`.

Settings come as one line of JSON on stdin, so that a token is never in a file or in the list of
processes. Stdin stays open as long as the engine's process lives; when that is gone, so is this.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TextIO

from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import FinetuneError

ABANDONED = 3
"""Exit code when whoever asked is gone."""


def main() -> int:
    """Train what lies in the folder; 0 when done, 2 when the user must change something."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
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


def _end_with(parent: TextIO) -> None:
    """End when the other side of the pipe closes, however it died."""
    while parent.read(1):
        pass
    os._exit(ABANDONED)


if __name__ == "__main__":
    sys.exit(main())
