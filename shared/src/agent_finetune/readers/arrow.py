"""Arrow tables (parquet files, hub datasets) as rows, without the nulls that Arrow invented.

Arrow stores objects as structs, and a struct column has one set of keys for all rows: a tool with
the parameter `city` comes back with the other tools' parameters too, as nulls. Nobody can tell an
invented null from one that was written, so the rule is: **inside a struct, a key whose value is
null is dropped.** Losing a null that was meant costs an optional argument at most; keeping an
invented one would teach the model arguments that do not exist. Untouched are nulls that are list
items, whole columns that are null, JSON columns (`arrow.json`, the `Json()` feature of datasets)
and strings that hold JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.records import Row

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1024
"""Rows turned into Python objects at a time."""


def parquet_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a parquet file, named `file:row`, counted from 1.

    Raises:
        DataError: It cannot be opened or is not parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a parquet file that can be read: {reason}") from error
    if not table.num_rows:
        raise DataError(f"{path}: the file holds no rows")
    return tuple(table_rows(table, str(path)))


def table_rows(table: pa.Table, name: str) -> Iterator[Row]:
    """The rows of a table, named `name:row`.

    Raises:
        DataError: A value is not what its type says.
    """
    import pyarrow as pa

    try:
        cleaners = {field.name: _cleaner(field.type) for field in table.schema}
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: the name of a column is not UTF-8: {error}") from error
    number = 0
    for batch in table.to_batches(max_chunksize=BATCH):
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException) as error:  # no UTF-8, the year 10000
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{name}:{number + 1}: in these rows is what cannot be read: {reason}"
            ) from error
        for raw in rows:
            number += 1
            source = f"{name}:{number}"
            try:
                data = {key: cleaners[key](value) for key, value in raw.items()}
            except DataError as error:
                yield Row(source=source, problem=str(error))
            else:
                yield Row(source=source, data=data)


def _cleaner(kind: pa.DataType) -> Callable[[Any], Any]:
    """What turns a Python value of this Arrow type into what was written."""
    import pyarrow as pa

    if isinstance(kind, pa.JsonType):
        return lambda value: None if value is None else strictjson.loads(value)
    if pa.types.is_struct(kind):
        inner = {field.name: _cleaner(field.type) for field in kind}
        return lambda value: _without_nulls(value, inner)
    if (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
    ):
        item = _cleaner(kind.value_type)
        return lambda value: None if value is None else [item(v) for v in value]
    return lambda value: value


def _without_nulls(
    value: Mapping[str, Any] | None, inner: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any] | None:
    if value is None:
        return None
    return {key: inner[key](v) for key, v in value.items() if v is not None}
