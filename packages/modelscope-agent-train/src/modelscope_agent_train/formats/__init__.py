"""The forms that agent data comes in on ModelScope: each by its name, and found by its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent_finetune.contracts import Reading, Source
from agent_finetune.readers import convert
from agent_finetune.records import Example, Row
from modelscope_agent_train.formats import (
    agent_flan,
    agentfabric,
    agentinstruct,
    alpha_umi,
    msagent,
    react,
    toolbench,
    xlam,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One form of data."""

    name: str
    matches: Callable[[Sequence[Row]], bool]
    """Whether the first rows can be nothing but this."""
    read_row: Callable[[Row], Example]
    """One row; raises `DataError` where it does not read."""


FORMATS: Mapping[str, Format] = {
    name: Format(name=name, matches=matches, read_row=read_row)
    for name, matches, read_row in (
        (msagent.FORMAT, msagent.is_msagent, msagent.read_row),
        (agentfabric.FORMAT, agentfabric.is_agentfabric, agentfabric.read_row),
        (react.FORMAT, react.is_ms_agent, react.read_row),
        (alpha_umi.FORMAT, alpha_umi.is_alpha_umi, alpha_umi.read_row),
        (toolbench.FORMAT, toolbench.is_toolbench, toolbench.read_row),
        (agentinstruct.FORMAT, agentinstruct.is_agentinstruct, agentinstruct.read_row),
        (agent_flan.FORMAT, agent_flan.is_agent_flan, agent_flan.read_row),
        (xlam.FORMAT, xlam.is_xlam, xlam.read_row),
    )
}
"""Most specific first, which is the order in which they are tried."""


def detect(rows: Sequence[Row]) -> Format | None:
    """The first format that the rows can be nothing but."""
    return next((one for one in FORMATS.values() if one.matches(rows)), None)


def read_source(source: Source, format: str) -> Reading | None:
    """Read a source by a format's name, or by what its rows look like with `auto`."""
    found = detect(source.rows) if format == "auto" else FORMATS.get(format)
    if found is None:
        return None
    return Reading(format=found.name, items=convert(source.rows, found.read_row))
