"""json, jsonl and csv files as rows, each with the number of the line it starts on."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.records import Row

ROW_KEYS = frozenset(
    ("messages", "conversations", "conversation", "tools", "functions", "function", "ground_truth")
    + ("prompt", "completion")
)
"""Keys whose lists belong to one row; an object with one of them is not a wrapper."""
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """One JSON value of a file: a line of a jsonl, an item of a json list."""

    source: str
    """`file:line`."""
    value: Any = None
    problem: str | None = None
    """Why the line does not parse; `value` is None then."""


def read_text(path: Path) -> str:
    """The whole file as UTF-8; a byte order mark is dropped.

    Raises:
        DataError: It cannot be opened, is empty, or holds another encoding (the line is named).
    """
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: {_encoding(raw, error)}") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that is not empty."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if not raw.strip(b"\xef\xbb\xbf \t\r\n"):
        raise DataError(f"{path}: the file is empty")
    return raw


def json_values(path: Path) -> tuple[Value, ...]:
    """The values of a json or jsonl file.

    A jsonl file gives one value per line that is not blank; a line that does not parse becomes a
    Value with a problem. A json file gives the items of its list, or of the one list of objects
    that its object wraps (`{"version": 1, "data": [...]}`), or else the object itself as the only
    value. A json file of several values is read as jsonl, which some publishers name so.

    Raises:
        DataError: The file cannot be read, or a json file does not parse; the line is named.
    """
    if path.suffix == ".jsonl":
        return tuple(_lines(path))
    text = read_text(path)
    start = _blank(text, 0)
    try:
        document, end = strictjson.decoder.raw_decode(text, start)
        strictjson.check_encodable(document, text)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(f"{path}:{line}: {strictjson.why(error)}") from error
    end = _blank(text, end)
    if end == len(text):
        return tuple(_items(path, text, start, document))
    if isinstance(document, Mapping):
        return tuple(_lines(path))
    line = text.count("\n", 0, end) + 1
    raise DataError(f"{path}:{line}: not JSON: more text after the end of the list")


def json_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a json or jsonl file; a value that is no object becomes a row with a problem."""
    return tuple(_row(value) for value in json_values(path))


def csv_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a csv file with a header; every cell is a string.

    A row with more or fewer cells than the header is a row with a problem. The line named is the
    one a row starts on, for a quoted cell may span several.

    Raises:
        DataError: The file cannot be read, a name is in the header twice, or a quote is not closed.
    """
    text = read_text(path)
    limit = csv.field_size_limit(len(text) + 1)  # the module's own 128 KiB is less than a long chat
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    rows: list[Row] = []
    try:
        header = next(reader)
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{path}:1: the column {twice!r} appears twice in the header")
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                rows.append(_csv_row(f"{path}:{line}", header, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return tuple(rows)


def _csv_row(source: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        problem = f"{len(cells)} cells, and the header has {len(header)}"
        return Row(source=source, problem=problem)
    return Row(source=source, data=dict(zip(header, cells, strict=True)))


def _row(value: Value) -> Row:
    if value.problem is not None:
        return Row(source=value.source, problem=value.problem)
    if not isinstance(value.value, Mapping):
        kind = type(value.value).__name__
        return Row(source=value.source, problem=f"the row is a {kind}; expected an object")
    return Row(source=value.source, data=value.value)


def _lines(path: Path) -> Iterator[Value]:
    """One value per line. Only a line feed ends a line: JSON strings may hold U+2028 and kin."""
    raw = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            yield Value(source=source, value=strictjson.loads(line.decode()))
        except UnicodeDecodeError as error:
            yield Value(source=source, problem=_encoding(raw, error))
        except DataError as error:
            yield Value(source=source, problem=str(error))


def _items(path: Path, text: str, start: int, document: Any) -> Iterator[Value]:
    """The items of a parsed document's list, with the lines they start on."""
    if isinstance(document, Mapping):
        key = _wrapped(document)
        if key is None:
            line = text.count("\n", 0, start) + 1
            yield Value(source=f"{path}:{line}", value=document)
            return
        start = _member(text, start, key)
    elif not isinstance(document, list):
        raise DataError(f"{path}: holds a {type(document).__name__}; expected a list of objects")
    line, counted = 1, 0
    position = _blank(text, start + 1)
    while text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        value, end = strictjson.decoder.raw_decode(text, position)
        yield Value(source=f"{path}:{line}", value=value)
        position = _blank(text, end)
        if text[position] == ",":
            position = _blank(text, position + 1)


def _wrapped(document: Mapping[str, Any]) -> str | None:
    """The key of the list of rows that an object wraps, or None when the object is a row itself."""
    lists = [
        key
        for key, value in document.items()
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
    ]
    rows = [key for key in lists if key not in ROW_KEYS]
    return rows[0] if len(rows) == 1 == len(lists) else None


def _member(text: str, start: int, key: str) -> int:
    """Where the value of a key begins in the text of a parsed object."""
    position = _blank(text, start + 1)
    while True:
        name, end = strictjson.decoder.raw_decode(text, position)
        position = _blank(text, _blank(text, end) + 1)
        if name == key:
            return position
        _, end = strictjson.decoder.raw_decode(text, position)
        position = _blank(text, _blank(text, end) + 1)


def _blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _encoding(raw: bytes, error: UnicodeDecodeError) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16; save it as UTF-8"
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
