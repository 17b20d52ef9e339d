"""What other packages log without need, left out where a program of ours runs."""

from __future__ import annotations

import logging

_NEEDLESS = ("Setting accelerator to CPU", "Gradient accumulation steps mismatch")


def hush() -> None:
    """Say nothing of what is as it should be; call it before anything heavy is imported.

    bitsandbytes warns at import that a package we do not use is missing. DeepSpeed, once it is
    installed, is imported by Accelerate in every run, and writes on stdout that there is no GPU.
    Accelerate calls it a mismatch that Transformers counts accumulation itself.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # DeepSpeed sets its logger's level at import; a filter stays.
    for name in ("DeepSpeed", "accelerate.accelerator"):
        logging.getLogger(name).addFilter(_is_needed)


def _is_needed(record: logging.LogRecord) -> bool:
    return not any(words in str(record.msg) for words in _NEEDLESS)
