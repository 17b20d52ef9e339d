"""The files that the paper published become role sets, through the reader of this package."""

import copy
import json

import pytest
from agent_rows import (
    UMI_BACKBONE,
    UMI_HUB_CALLER,
    UMI_HUB_CONCLUSION,
    UMI_PLANNER,
    UMI_RAW,
    UMI_SUMMARIZER,
)

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.records import ToolCall
from agent_finetune.roles.data import role_sets
from agent_finetune.roles.prompts import Next, Part, Plan, step_of
from modelscope_agent_train.sources import read_dataset

QUIZ = ToolCall(name="quiz_for_moodring", arguments={"quizid": "2"})


def read(tmp_path, *rows):
    path = tmp_path / "published.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    found = readers.read(str(path), settings=Settings(offline=True))
    assert found.format == "alpha_umi"
    return found.examples


def ending(content, **arguments):
    row = copy.deepcopy(UMI_RAW)
    call = {"name": "Finish", "arguments": json.dumps(arguments)}
    row["chains"][-1] = {"role": "assistant", "content": content, "function_call": call}
    return row


def steps(example):
    return [step_of(m) for m in example.messages if m.role == "assistant"]


def rows_of(made):
    return [(part, row) for part, rows in made.sets.items() for row in rows]


def test_a_raw_trajectory_keeps_its_thoughts_apart_from_its_answer(tmp_path):
    row = ending("I know.", return_type="give_answer", final_answer="Here it is.")
    (example,) = read(tmp_path, row)
    called, answered = steps(example)
    assert (called.plan, called.calls) == (Plan(thought="I fetch it.", next=Next.CALL), (QUIZ,))
    assert answered.plan == Plan(thought="I know.", next=Next.CONCLUDE)
    assert answered.answer == "Here it is."
    made = role_sets([example])
    assert {part.value: len(rows) for part, rows in made.sets.items()} == {
        "backbone": 2,
        "planner": 2,
        "caller": 1,
        "summarizer": 1,
    }
    assert made.sets[Part.SUMMARIZER][0].messages[-2].text == "planner: I know.\nNext: conclusion."


def test_a_raw_trajectory_that_gives_up_is_planned_to(tmp_path):
    (example,) = read(tmp_path, ending("No way.", return_type="give_up_and_restart"))
    assert steps(example)[-1].plan == Plan(thought="No way.", next=Next.GIVE_UP)
    planned = role_sets([example]).sets[Part.PLANNER][-1]
    assert planned.messages[-1].text == "No way.\nNext: give up."


def test_a_turn_that_is_marked_invalid_is_seen_and_not_learned(tmp_path):
    row = copy.deepcopy(UMI_RAW)
    row["chains"][3]["valid"] = False
    made = role_sets(read(tmp_path, row))
    assert made.sets[Part.CALLER] == ()
    assert len(made.sets[Part.PLANNER]) == 1


@pytest.mark.parametrize(
    ("row", "part", "said"),
    [
        (UMI_BACKBONE, Part.BACKBONE, ("I fetch another.", (QUIZ,))),
        (UMI_PLANNER, Part.PLANNER, ("I should fetch it.\nNext: caller.", ())),
        (UMI_SUMMARIZER, Part.SUMMARIZER, ("There are two.", ())),
        (UMI_HUB_CALLER, Part.CALLER, ("", (QUIZ,))),
        (UMI_HUB_CONCLUSION, Part.SUMMARIZER, ("There are two.", ())),
    ],
)
def test_a_rendered_row_is_a_row_of_the_set_that_it_was_made_for(tmp_path, row, part, said):
    made = role_sets(read(tmp_path, row))
    assert made.left_out == {}
    ((found, made_row),) = rows_of(made)
    assert (found, made_row.messages[-1].text, made_row.messages[-1].tool_calls) == (part, *said)
    shown = [(m.role, m.text) for m in made_row.messages[1:-1]]
    assert shown[0] == ("user", "ASKED")
    assert ("tool", "OBSERVED") in shown
    assert [tool["function"]["name"] for tool in made_row.tools] == (
        [] if part is Part.SUMMARIZER else ["quiz_for_moodring"]
    )
    assert not any(
        label in m.text for m in made_row.messages for label in ("</s>", "history", "observation:")
    )


def test_the_rows_that_ship_with_this_package_all_become_rows():
    examples = read_dataset(["alpha_umi-sample"], settings=Settings(offline=True)).examples
    made = role_sets(examples)
    assert made.left_out == {}
    assert [len(made.sets[part]) for part in Part] == [0, 2, 2, 2]
    called = made.sets[Part.CALLER][0]
    assert [m.role for m in called.messages] == ["system", "user", "user", "assistant"]
    written = made.sets[Part.SUMMARIZER][0]
    assert [m.role for m in written.messages] == [
        *("system", "user", "assistant", "tool", "user", "assistant")
    ]
