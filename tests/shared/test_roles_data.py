"""Trajectories become rows for each part, by the paper's rules, and nothing is lost unsaid."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chat_templates import tokenizer
from role_histories import (
    ALARM,
    GIVES_UP,
    LONG,
    TOLD,
    TWO_STEPS,
    WEATHER,
    says,
    user,
)

from agent_finetune import readers
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.records import AcceptedCall, Example, Generation, Message, ToolCall
from agent_finetune.roles.data import role_sets, says_one_call, write_sets
from agent_finetune.roles.prompts import Part

UNKNOWN = ToolCall(name="invented", arguments={})


def ids(rows: tuple[Example, ...]) -> list[str]:
    return [row.id for row in rows]


def steps(*turns: Message, **more: object) -> Example:
    messages = (user("q"), *(m for turn in turns for m in (turn, TOLD)))
    return replace(TWO_STEPS, messages=messages, **more)  # type: ignore[arg-type]


def counts(example: Example) -> tuple[dict[str, int], dict[str, int]]:
    made = role_sets([example])
    return {p.value: len(rows) for p, rows in made.sets.items() if rows}, dict(made.left_out)


def test_each_step_is_a_row_of_each_part_that_speaks_in_it() -> None:
    made = role_sets([TWO_STEPS, GIVES_UP])
    assert {part.value: ids(rows) for part, rows in made.sets.items()} == {
        "backbone": ["two#1-backbone", "two#2-backbone", "up#1-backbone"],
        "planner": ["two#1-planner", "two#2-planner", "up#1-planner"],
        "caller": ["two#1-caller"],
        "summarizer": ["two#2-summarizer"],
    }
    assert made.left_out == {}
    assert {row.source for rows in made.sets.values() for row in rows} == {
        "t.jsonl:1",
        "t.jsonl:2",
    }


def test_the_targets_are_what_each_part_says() -> None:
    sets = role_sets([TWO_STEPS, GIVES_UP]).sets
    said = {
        part.value: [(row.messages[-1].text, row.messages[-1].tool_calls) for row in rows]
        for part, rows in sets.items()
    }
    assert said == {
        "backbone": [
            ("get_weather tells it.", (WEATHER,)),
            ("The result has it.\nconclusion: It is clear.", ()),
            ("No function books flights.\ngive up", ()),
        ],
        "planner": [
            ("get_weather tells it.\nNext: caller.", ()),
            ("The result has it.\nNext: conclusion.", ()),
            ("No function books flights.\nNext: give up.", ()),
        ],
        "caller": [("", (WEATHER,))],
        "summarizer": [("It is clear.", ())],
    }


def test_only_the_last_turn_of_a_row_is_trained() -> None:
    for rows in role_sets([LONG]).sets.values():
        for row in rows:
            trained = [m for m in row.messages if m.role == "assistant" and m.trained]
            assert trained == [row.messages[-1]]


def test_several_requests_and_several_calls_in_a_turn_are_rows_too() -> None:
    sets = role_sets([LONG]).sets
    assert ids(sets[Part.PLANNER]) == [f"long#{n}-planner" for n in range(1, 6)]
    assert [row.messages[-1].tool_calls for row in sets[Part.CALLER]] == [
        (WEATHER,),
        (WEATHER, ALARM),
    ]
    assert ids(sets[Part.SUMMARIZER]) == ["long#2-summarizer", "long#4-summarizer"]
    assert [row.messages[-1].text for row in sets[Part.PLANNER]][2:] == [
        "Next: caller.",
        "Next: conclusion.",
        "No function flies.\nNext: give up.",
    ]


def test_calls_can_be_made_steps_of_their_own() -> None:
    sets = role_sets([LONG], one_call=True).sets
    called = [row.messages[-1].tool_calls for row in sets[Part.CALLER]]
    assert called == [(WEATHER,), (WEATHER,), (ALARM,)]


def test_a_models_template_says_whether_they_have_to_be(tmp_path: Path) -> None:
    for name, wanted in (("llama3_1", True), ("qwen2_5", False)):
        folder = tmp_path / name
        tokenizer(name).save_pretrained(folder)
        (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (folder / "model.safetensors").touch()  # no weight is read
        assert says_one_call(ModelConfig(model=str(folder)), Settings(offline=True)) is wanted


def test_no_debugging_limit_is_left_in() -> None:
    many = [replace(TWO_STEPS, id=str(n)) for n in range(79)]
    sets = role_sets(many).sets
    assert [len(sets[part]) for part in Part] == [158, 158, 79, 79]


def test_test_examples_are_kept_out_by_id_and_counted() -> None:
    made = role_sets([TWO_STEPS, GIVES_UP, LONG], without={"two", "long", "other"})
    assert {row.id for rows in made.sets.values() for row in rows} == {
        "up#1-backbone",
        "up#1-planner",
    }
    assert made.left_out == {"kept out by its id": 2}


def test_a_row_of_a_test_example_is_kept_out_as_well() -> None:
    (row,) = role_sets([TWO_STEPS]).sets[Part.SUMMARIZER]
    assert role_sets([row], without=["two"]).left_out == {"kept out by its id": 1}
    assert role_sets([row], without=["tw"]).left_out == {}


def test_a_test_example_without_an_id_is_refused() -> None:
    with pytest.raises(DataError, match="without holds an empty id"):
        role_sets([TWO_STEPS], without=["two", ""])


def test_an_invented_tool_is_for_neither_planner_nor_caller() -> None:
    made, left_out = counts(steps(says("t", UNKNOWN), says("t", WEATHER, UNKNOWN)))
    assert made == {"backbone": 2}
    assert left_out == {
        "planner: calls a tool that is not offered": 2,
        "caller: calls a tool that is not offered": 2,
    }


def test_an_empty_conclusion_is_planned_and_never_written() -> None:
    made, left_out = counts(steps(says("I know.\nNext: conclusion.")))
    assert made == {"planner": 1}
    assert set(left_out) == {
        "backbone: the conclusion is empty",
        "summarizer: the conclusion is empty",
    }


def test_a_call_that_is_missing_is_planned_and_never_made() -> None:
    made, left_out = counts(steps(says("I look.\nNext: caller.")))
    assert made == {"planner": 1}
    assert set(left_out) == {"backbone: the call is missing", "caller: the call is missing"}


def test_turns_that_are_context_only_give_no_rows_but_are_seen() -> None:
    example = steps(says("wrong", UNKNOWN, trained=False), says("right", WEATHER))
    rows = role_sets([example]).sets[Part.PLANNER]
    assert ids(rows) == ["two#2-planner"]
    assert rows[0].messages[2].text == "wrong\nNext: caller."


def test_an_example_without_a_turn_to_learn_is_counted() -> None:
    asked = replace(TWO_STEPS, messages=TWO_STEPS.messages[:1])
    assert role_sets([asked]).left_out == {"no turn of an assistant to learn": 1}


def test_tools_and_their_results_are_not_cut() -> None:
    long = {"type": "function", "function": {"name": "t" * 200, "description": "d" * 5000}}
    told = Message(role="tool", text="r" * 50000)
    call = ToolCall(name="t" * 200, arguments={"a": "b" * 3000})
    example = replace(
        TWO_STEPS, tools=(long,), messages=(user("q"), says("", call), told, says("a"))
    )
    sets = role_sets([example]).sets
    assert sets[Part.CALLER][0].tools == (long,)
    assert sets[Part.CALLER][0].messages[-1].tool_calls == (call,)
    assert all(told in rows[-1].messages for p, rows in sets.items() if p is not Part.CALLER)


def test_an_example_without_an_id_is_named_by_its_place() -> None:
    rows = role_sets([replace(GIVES_UP, id="")]).sets[Part.PLANNER]
    assert ids(rows) == ["t.jsonl:2#1-planner"]


def test_other_right_calls_go_with_the_last_call() -> None:
    accepted = (AcceptedCall(name="get_weather", arguments={"city": ("Lisbon", "Lisboa")}),)
    example = replace(TWO_STEPS, messages=TWO_STEPS.messages[:2], accepted=accepted)
    sets = role_sets([example]).sets
    assert sets[Part.CALLER][0].accepted == sets[Part.BACKBONE][0].accepted == accepted
    assert sets[Part.PLANNER][0].accepted is None
    answered = role_sets([replace(TWO_STEPS, accepted=())]).sets
    assert all(row.accepted is None for rows in answered.values() for row in rows)


def test_rows_are_said_anew_and_not_by_ids_of_another_form() -> None:
    turn = says("I look.", WEATHER, generation=Generation(prompt_ids=(1,), ids=(2,)))
    for one_call in (False, True):
        sets = role_sets([steps(turn)], one_call=one_call).sets
        assert not any(m.generation for r in sets.values() for row in r for m in row.messages)


def test_written_sets_read_back_as_they_were(tmp_path: Path) -> None:
    named = replace(WEATHER, id="c1")
    told = replace(TOLD, tool_call_id="c1", name="get_weather")
    with_ids = replace(
        TWO_STEPS, id="ids", messages=(user("é?"), says("", named), told, says("Klar."))
    )
    made = role_sets([TWO_STEPS, GIVES_UP, LONG, with_ids])
    for part, path in write_sets(made, tmp_path).items():
        read = readers.read(str(path), settings=Settings(offline=True))
        assert read.format == "messages"
        assert [replace(row, source="") for row in read.examples] == [
            replace(row, source="") for row in made.sets[part]
        ]
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["source"] for line in lines] == [row.source for row in made.sets[part]]
        for line in lines:
            turns = [m for m in line["messages"] if m["role"] == "assistant"]
            assert [m.get("weight") for m in turns] == [0] * (len(turns) - 1) + [None]
