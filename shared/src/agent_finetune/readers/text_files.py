"""json, jsonl and csv files as rows, each with the number of the line it starts on."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.records import Row

ROW_KEYS = frozenset(
    ("tools", "functions", "function", "ground_truth", "prompt", "completion", "history")
)
"""Keys whose lists of objects belong to one row: an object that has one wraps no rows."""
_BLANK = re.compile(r"[ \t\r\n]*")


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


def json_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a json or jsonl file.

    A jsonl file has a row per line that is not blank; a line that does not parse is a row with a
    problem. A json file has the items of its list, or of the one list of objects that its object
    wraps (`{"version": 1, "data": [...]}`), or else the object itself as the only row. A json file
    of several values is read as jsonl, which some publishers name so. A bare list of turns, as
    hosts save a conversation, is one row, under `messages` (or `conversations`, with from and
    value).

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
    raise DataError(f"{path}:{line}: not JSON: more text after the end of the first value")


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


def _row(source: str, value: Any) -> Row:
    if isinstance(value, Mapping):
        return Row(source=source, data=value)
    if key := _turns_key(value):
        return Row(source=source, data={key: value})
    kind = type(value).__name__
    return Row(source=source, problem=f"the row is of type {kind}; expected an object")


def _turns_key(value: Any) -> str | None:
    """The key under which a bare list of turns is read; None when it is something else."""
    if not isinstance(value, list) or not value or not isinstance(value[0], Mapping):
        return None
    first = value[0].keys()
    if "role" in first and first & {"content", "tool_calls", "function_call"}:
        return "messages"
    return "conversations" if {"from", "value"} <= first else None


def _lines(path: Path) -> Iterator[Row]:
    """One row per line. Only a line feed ends a line: JSON strings may hold U+2028 and kin."""
    raw = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            yield _row(source, strictjson.loads(line.decode()))
        except UnicodeDecodeError as error:
            yield Row(source=source, problem=_encoding(raw, error))
        except DataError as error:
            yield Row(source=source, problem=str(error))


def _items(path: Path, text: str, start: int, document: Any) -> Iterator[Row]:
    """The rows of a parsed document, with the lines they start on."""
    key = _wrapped(document) if isinstance(document, Mapping) else None
    if key is None and (isinstance(document, Mapping) or _turns_key(document)):
        yield _row(f"{path}:{text.count(chr(10), 0, start) + 1}", document)
        return
    if key is not None:
        start = _member(text, start, key)
    elif not isinstance(document, list):
        raise DataError(f"{path}: holds one {type(document).__name__}; expected a list of objects")
    line, counted = 1, 0
    position = _blank(text, start + 1)
    while text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        value, end = strictjson.decoder.raw_decode(text, position)
        yield _row(f"{path}:{line}", value)
        position = _blank(text, end)
        if text[position] == ",":
            position = _blank(text, position + 1)


def _wrapped(document: Mapping[str, Any]) -> str | None:
    """The key of the one list of rows that an object wraps; None when it is a row itself."""
    lists = [
        key
        for key, value in document.items()
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
    ]
    if len(lists) != 1 or lists[0] in ROW_KEYS or _turns_key(document[lists[0]]):
        return None
    return lists[0]


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
