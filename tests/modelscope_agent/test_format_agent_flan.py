"""Agent-FLAN: conversations about calls stay words, ReAct with listed tools becomes calls."""

import copy

import pytest
from agent_formats import functions, read, trained, turns
from agent_rows import FLAN, FLAN_REACT

from agent_finetune.errors import DataError
from modelscope_agent_train.formats import repair


def changed(place, **turn):
    row = copy.deepcopy(FLAN_REACT)
    row["conversation"][place].update(turn)
    return row


def test_a_call_taken_apart_stays_words_and_loss_is_honoured():
    example = read("agent_flan", FLAN)
    assert trained(example) == ["Tool: f"]
    assert example.tools == ()
    assert turns(example)[1:3] == [
        ("user", "ASKED What is the tool you want to use", []),
        ("assistant", "Tool: f", []),
    ]


def test_react_with_listed_tools_becomes_calls_and_results():
    example = read("agent_flan", FLAN_REACT)
    query = {"query": {"type": "string", "description": "words"}}
    schema = {"type": "object", "properties": query, "required": ["query"]}
    assert functions(example) == [("ArxivSearch", schema)]
    assert turns(example) == [
        ("system", "You are a assistant who can utilize external tools.", []),
        ("user", "ASKED for a report", []),
        ("assistant", "I search", [("ArxivSearch", {"query": "InternLM2"})]),
        ("tool", "OBSERVED papers", []),
        ("assistant", "that is it\nFound.", []),
    ]


def test_a_call_that_is_context_stays_context():
    assert trained(read("agent_flan", changed(2, loss=False))) == ["that is it\nFound."]


@pytest.mark.parametrize(
    "row",
    [
        changed(2, content="Thought: t\nAction: Unlisted\nAction Input: {}"),
        changed(2, content="Thought: t\nAction: ArxivSearch\nAction Input: words"),
        changed(0, content=FLAN_REACT["conversation"][0]["content"].replace("[{", "[{{")),
        changed(0, content="Search."),
    ],
)
def test_react_that_does_not_fit_its_tools_stays_words_as_a_whole(row):
    with repair.noted() as repairs:
        example = read("agent_flan", row)
    assert [text for _, text, _ in turns(example)] == [t["content"] for t in row["conversation"]]
    assert (example.tools, repairs) == ((), [])


def test_words_of_a_user_after_a_call_are_no_result():
    assert turns(read("agent_flan", changed(3, content="thanks")))[3] == ("user", "thanks", [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": []}, "no key 'conversation'; keys are 'conversations'"),
        ({"conversation": [{"role": "tool", "content": ""}]}, r"\[0\]: role is 'tool'; legal: sys"),
        ({"conversation": [{"role": "user", "content": []}]}, r"\[0\]: content is \[\]; expected"),
        (changed(2, loss=1), r"conversation\[2\]: loss is 1; legal: true, false, null"),
        ({"conversation": FLAN["conversation"][3:]}, "no assistant turn is trained"),
    ],
)
def test_a_broken_row_says_where_and_why(row, reason):
    with pytest.raises(DataError, match=reason):
        read("agent_flan", row)
