"""What is tested was not trained: not the same question, and by tools not the same tool."""

import pytest

from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Example, Message
from modelscope_agent_train.splits import split


def example(question, *tools, answers=1, trained=True):
    turns = [Message(role="user", text=question)]
    for number in range(answers):
        last = number == answers - 1
        turns.append(Message(role="assistant", text=f"answer {number}", trained=last or trained))
    offered = tuple({"type": "function", "function": {"name": name}} for name in tools)
    return Example(messages=tuple(turns), tools=offered)


def names(examples):
    return {name for each in examples for name in each.tool_names}


def test_the_ratio_is_met_and_order_is_kept():
    rows = [example(f"question {n}") for n in range(100)]
    train, test = split(rows, test_ratio=0.2, seed=1)
    assert (len(train), len(test)) == (80, 20)
    assert [row for row in rows if row in test] == test
    assert [row for row in rows if row in train] == train


def test_the_seed_alone_decides():
    rows = [example(f"question {n}") for n in range(40)]
    assert split(rows, test_ratio=0.1, seed=3) == split(rows, test_ratio=0.1, seed=3)
    assert split(rows, test_ratio=0.1, seed=3) != split(rows, test_ratio=0.1, seed=4)


def test_the_steps_of_one_conversation_stay_on_one_side():
    # ToolBench has a row for each step, whose earlier answers are context only.
    rows = [
        example(f"question {n}", "f", answers=step, trained=False)
        for n in range(30)
        for step in (1, 2, 3)
    ]
    train, test = split(rows, test_ratio=0.2, seed=0)
    asked = [{row.messages[0].text for row in part} for part in (train, test)]
    assert asked[0].isdisjoint(asked[1])
    assert len(test) == 18


def test_no_tool_of_a_test_row_is_trained():
    rows = [example(f"{n}", f"tool {n % 30}", f"tool {n % 30 + 100}") for n in range(120)]
    train, test = split(rows, test_ratio=0.25, seed=0, by="tools")
    assert len(test) >= 24
    assert names(train).isdisjoint(names(test))


def test_one_large_family_does_not_become_the_whole_test():
    rows = [example(f"{n}", "well known") for n in range(20)]
    rows += [example(f"single {n}", f"tool {n}") for n in range(80)]
    for seed in range(5):
        _, test = split(rows, test_ratio=0.2, seed=seed, by="tools")
        assert "well known" not in names(test)


def test_none_and_all_can_be_asked_for():
    rows = [example("a"), example("b")]
    assert split(rows, test_ratio=0, seed=0) == (rows, [])
    assert split(rows, test_ratio=1.0, seed=0) == ([], rows)


def test_a_small_share_of_few_rows_is_one_row():
    assert len(split([example(f"{n}") for n in range(5)], test_ratio=0.01, seed=0)[1]) == 1


def test_a_small_share_of_few_rows_is_one_conversation_where_each_has_several():
    rows = [example(f"{n // 2}") for n in range(6)]
    training, held_out = split(rows, test_ratio=0.01, seed=0)
    assert (len(training), len(held_out)) == (4, 2)


def test_rows_that_must_all_stay_together_cannot_be_split():
    rows = [example(f"{n}", "one") for n in range(10)]
    with pytest.raises(DataError, match="group that must stay together by tools has 10; raise"):
        split(rows, test_ratio=0.2, seed=0, by="tools")


@pytest.mark.parametrize("options", [{"test_ratio": 1.5}, {"test_ratio": 0.1, "by": "words"}])
def test_what_is_not_legal_is_named(options):
    with pytest.raises(ConfigError, match=r"1\.5|words"):
        split([example("a")], seed=0, **options)
