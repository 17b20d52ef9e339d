"""Files that others wrote, read by libraries that others wrote: what may come of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent_finetune.errors import FinetuneError, ModelError


@contextmanager
def told(place: str, what: str = "cannot be read") -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into one line for the user.

    There is no list of what that may be: parsers of JSON, safetensors and tokenizers raise errors
    of their own, trip over a value of another type, or ask for memory that a length in the file
    claims.

    Args:
        place: What is read.
        what: What it means that it fails.

    Raises:
        ModelError: Anything was raised that is not ours and no interruption.
    """
    try:
        yield
    except FinetuneError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ModelError(f"{place}: {what}: {in_one_line(error)}") from error


def is_panic(error: BaseException) -> bool:
    """Whether code in Rust gave up; PyO3 has no module from which the class could be imported."""
    return type(error).__name__ == "PanicException"


def in_one_line(error: BaseException) -> str:
    """What an error says, or what it is when it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
