"""Reading data into Examples: files, folders and hub ids, in eight formats and the plugins' own.

`read` is what a run calls. `open_source` and `convert` are what a plugin's reader is made of:

    @hookimpl
    def finetune_read_examples(source, format):
        if format != "mine":
            return None
        return Reading(format="mine", items=convert(source.rows, my_example_of_a_row))

Formats, most specific first: bfcl, messages, sharegpt, lima, dolly, alpaca, prompt_completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent_finetune import plugins
from agent_finetune.errors import DataError
from agent_finetune.readers.rows import convert
from agent_finetune.readers.sources import OpenedSource, is_database, open_source
from agent_finetune.records import BadRow, Example, Message

if TYPE_CHECKING:
    from agent_finetune.config import BadRowPolicy, DataConfig
    from agent_finetune.contracts import Settings

__all__ = [
    "OpenedSource",
    "ReadResult",
    "convert",
    "is_database",
    "open_source",
    "read",
    "read_configured",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadResult:
    """What was read, and what was not."""

    format: str
    """Name of the format, found or given."""
    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]
    """Rows that were skipped, each with its file, line and reason."""
    digest: str
    """`sha256:...` of the data; see `OpenedSource.digest`."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that are nothing to learn from, counted by the reason."""


def read(
    name: str,
    *,
    format: str = "auto",
    on_bad_row: BadRowPolicy = "stop",
    split: str = "train",
    settings: Settings,
) -> ReadResult:
    """Read data into Examples, through the plugins' readers and the kernel's.

    Args:
        name: File, folder, hub id or `bfcl`; see `open_source`.
        format: A format's name, or auto.
        on_bad_row: `stop` raises at the first row that cannot be read, `skip` keeps it in `bad`.
        split: Split of a hub dataset.
        settings: Token and cache.

    Raises:
        DataError: The data cannot be found or parsed, its format is not known, a row is bad and
            the policy is stop, or not one row could be read.
    """
    source = open_source(name, settings, split)
    reading = plugins.read_examples(source, format)
    examples: list[Example] = []
    bad: list[BadRow] = []
    for item in reading.items:
        if isinstance(item, Example):
            examples.append(item)
        elif on_bad_row == "stop":
            raise DataError(f"{item.source}: {item.reason}")
        else:
            bad.append(item)
    if not examples:
        first = f"; the first: {bad[0].source}: {bad[0].reason}" if bad else ""
        left = "".join(f"; {count} left out: {why}" for why, count in reading.left_out.items())
        raise DataError(f"{name}: none of {len(bad)} rows could be read{first}{left}")
    return ReadResult(
        format=reading.format,
        examples=tuple(examples),
        bad=tuple(bad),
        digest=reading.digest or source.digest,
        left_out=reading.left_out,
    )


def read_configured(
    config: DataConfig, settings: Settings, *, name: str | None = None
) -> ReadResult:
    """Read the data of a config by its policies; `name` reads other data by the same ones.

    Raises:
        DataError: As `read`.
    """
    result = read(
        name or config.data,
        format=config.format,
        on_bad_row=config.on_bad_row,
        split=config.split,
        settings=settings,
    )
    if not config.system_prompt:
        return result
    system = Message(role="system", text=config.system_prompt)
    return replace(result, examples=tuple(_begun(each, system) for each in result.examples))


def _begun(example: Example, system: Message) -> Example:
    """The example behind a system message, where it has none and was not generated without one."""
    if any(turn.role == "system" or turn.generation is not None for turn in example.messages):
        return example
    return replace(example, messages=(system, *example.messages))
