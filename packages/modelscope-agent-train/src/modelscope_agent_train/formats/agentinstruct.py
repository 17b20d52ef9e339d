r"""AgentInstruct (THUDM; os, db, alfworld, webshop, kg, mind2web; 1,866 rows), into Examples.

    {"id": "db_0", "conversations": [
      {"from": "human", "loss": null, "value": "instructions..."},
      {"from": "gpt", "loss": false, "value": "Ok."},
      {"from": "human", "loss": null, "value": "question"},
      {"from": "gpt", "loss": true, "value": "Action: Operation\n```sql\nSELECT 1;\n```"}]}

The six environments each have an action language of their own, told in the first turn, and no tool
has a schema; so actions stay the assistant's words, and what the environment answers is a user's
turn. `loss: false` is context only. Hub copies hold `conversations` as a string in Python, and one
of them without commas between the turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import shown
from agent_finetune.records import Example, Message, Row
from modelscope_agent_train.formats import turns

FORMAT = "agentinstruct"
LEGAL = ("human", "gpt", "system")


def fits(data: Mapping[str, Any]) -> bool:
    """Whether every turn of a row is human's or gpt's and has `loss`, which human's leaves null."""
    found = turns.glimpse(data)
    return bool(found) and all(
        "value" in turn
        and "loss" in turn
        and (
            isinstance(turn["loss"], bool)
            if turn.get("from") == "gpt"
            else turn.get("from") == "human" and turn["loss"] is None
        )
        for turn in found
    )


is_agentinstruct = turns.mostly(fits)


def read_row(row: Row) -> Example:
    """One trajectory; `conversations` is a list, or a string of one in Python or JSON.

    Raises:
        DataError: A turn cannot be read, or `loss` is true on none of them.
    """
    dialogue = turns.Dialogue()
    for what, turn in turns.turns(row):
        role, text = turns.role(turn, what, LEGAL), turns.said(turn, what)
        learned = trained(turn, what) or role != "assistant"
        dialogue.add(Message(role=role, text=text.strip(), trained=learned))
    return dialogue.example(row)


def trained(turn: Mapping[str, Any], what: str) -> bool:
    """Whether a turn is trained: `loss` is true, or says nothing.

    Raises:
        DataError: `loss` is something else.
    """
    loss = turn.get("loss")
    if loss is not None and not isinstance(loss, bool):
        raise DataError(f"{what}: loss is {shown(loss)}; legal: true, false, null")
    return loss is not False
