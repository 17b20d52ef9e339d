"""Formats of one question and one answer, and of bare strings: Dolly, Alpaca, LIMA."""

from __future__ import annotations

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_example, from_json, missing_key, row_tools, shown
from agent_finetune.records import Example, Message, Row


def read_dolly(row: Row) -> Example:
    """Format `dolly`: `instruction`, `context`, `response` (databricks-dolly-15k).

    The context follows the instruction after a blank line; `category` is not used.
    """
    question = _question(row, "context")
    return as_example(row, [Message(role="user", text=question), _answer(row, "response")])


def read_alpaca(row: Row) -> Example:
    """Format `alpaca`: `instruction`, `input`, `output`.

    The input follows the instruction after a blank line, without the prompt that Alpaca put
    around both, because the model's own chat template takes its place. `system`, and `history` as
    pairs of question and answer, are read where a row has them.
    """
    messages = []
    if system := _text(row, "system"):
        messages.append(Message(role="system", text=system))
    messages += _history(row)
    messages += [Message(role="user", text=_question(row, "input")), _answer(row, "output")]
    return as_example(row, messages, row_tools(row))


def read_lima(row: Row) -> Example:
    """Format `lima`: `conversations` is a list of strings, user first, turns alternating."""
    if "conversations" not in row.data:
        raise DataError(missing_key(row, "conversations"))
    turns = from_json(row.data["conversations"], "conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise DataError(f"conversations is {shown(turns)}; expected a list of strings")
    if len(turns) % 2 or not turns:
        raise DataError(f"{len(turns)} turns; expected an answer to every question")
    return as_example(row, _alternating(turns))


def _history(row: Row) -> list[Message]:
    history = from_json(row.data.get("history") or [], "history")
    if not isinstance(history, list):
        raise DataError(f"history is {shown(history)}; expected a list of pairs")
    messages: list[Message] = []
    for pair in history:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(t, str) for t in pair)
        ):
            raise DataError(f"history holds {shown(pair)}; expected [question, answer]")
        messages += _alternating(pair)
    return messages


def _alternating(turns: list[str]) -> list[Message]:
    return [
        Message(role="assistant" if index % 2 else "user", text=turn)
        for index, turn in enumerate(turns)
    ]


def _question(row: Row, extra: str) -> str:
    if "instruction" not in row.data:
        raise DataError(missing_key(row, "instruction"))
    parts = (_text(row, "instruction"), _text(row, extra))
    question = "\n\n".join(part for part in parts if part)
    if not question:
        raise DataError(f"instruction and {extra} are both empty")
    return question


def _answer(row: Row, key: str) -> Message:
    if key not in row.data:
        raise DataError(missing_key(row, key))
    return Message(role="assistant", text=_text(row, key))


def _text(row: Row, key: str) -> str:
    value = row.data.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{key} is {shown(value)}; expected a string")
    return value or ""
