"""Held-out examples share no tool with trained ones."""

import pytest

from agent_finetune.errors import DataError
from agent_finetune.records import Example, Message
from agent_finetune.splits import hold_out_tools, tool_families


def offering(*names: str) -> Example:
    tools = tuple({"type": "function", "function": {"name": name}} for name in names)
    return Example(messages=(Message(role="user", text="hi"),), tools=tools, id="+".join(names))


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


def test_a_shared_tool_joins_families_through_a_third_example() -> None:
    families = tool_families([offering("a"), offering("b"), offering("c"), offering("a", "b")])
    assert [ids(family) for family in families] == [["a", "b", "a+b"], ["c"]]


def test_examples_without_tools_do_not_join() -> None:
    assert len(tool_families([offering(), offering()])) == 2


def test_no_tool_is_on_both_sides() -> None:
    examples = [offering(f"t{i}", f"t{i + 1}") for i in range(0, 30, 3)]
    examples += [offering(f"s{i}") for i in range(10)] + [offering("t0", "s0")]
    train, held = hold_out_tools(examples, one_tool=4, several_tools=4, seed=0)
    trained = {name for example in train for name in example.tool_names}
    assert len(held) == 8
    assert not trained & {name for example in held for name in example.tool_names}


def test_the_seed_chooses_and_the_same_seed_chooses_the_same() -> None:
    examples = [offering(f"t{i}") for i in range(50)]
    first, again, other = (
        ids(hold_out_tools(examples, one_tool=5, several_tools=0, seed=s)[1]) for s in (1, 1, 2)
    )
    assert first == again != other


def test_a_large_family_stays_in_training() -> None:
    examples = [offering("big") for _ in range(11)] + [offering("small")]
    _, held = hold_out_tools(examples, one_tool=1, several_tools=0, seed=0)
    assert ids(held) == ["small"]


def test_too_few_families_are_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(DataError, match="only 1 examples with one tool can be held out of 2"):
        hold_out_tools([offering("a")], one_tool=2, several_tools=0, seed=0)
