"""AgentInstruct: words of six environments, with `loss` honoured."""

import pytest
from agent_formats import read, trained, turns
from agent_rows import AGENTINSTRUCT

from agent_finetune.errors import DataError


def test_turns_with_loss_are_trained_and_others_are_context():
    example = read("agentinstruct", AGENTINSTRUCT)
    assert trained(example) == [
        "Action: Operation\n```sql\nSELECT 1;\n```",
        'Action: Answer\nFinal Answer: ["1"]',
    ]
    assert [role for role, _, _ in turns(example)] == ["user", "assistant"] * 3
    assert example.id == "db_0"


def test_a_hub_copy_that_lost_its_commas_is_read():
    written = repr(AGENTINSTRUCT["conversations"]).replace("}, {", "}\n {")
    copied = read("agentinstruct", {"id": "db_0", "conversations": written})
    assert turns(copied) == turns(read("agentinstruct", AGENTINSTRUCT))
    assert trained(copied) == trained(read("agentinstruct", AGENTINSTRUCT))


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"from": "gpt", "loss": False, "value": "Ok."}, "no assistant turn is trained"),
        ({"from": "gpt", "loss": "yes", "value": "a"}, r"\[0\]: loss is 'yes'; legal: true, false"),
        ({"from": "gpt", "loss": True, "value": None}, r"\[0\]: value is None; expected a string"),
        ({"from": "user", "value": "a"}, r"\[0\]: from is 'user'; legal: human, gpt"),
    ],
)
def test_a_broken_row_says_where_and_why(turn, reason):
    with pytest.raises(DataError, match=reason):
        read("agentinstruct", {"conversations": [turn]})
