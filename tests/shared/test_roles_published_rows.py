"""The paper's published rows, whose history is one text, as rows of the set they were made for."""

import pytest
from role_histories import TOOLS, WEATHER, says, user

from agent_finetune.records import Example, Message
from agent_finetune.roles.data import role_sets
from agent_finetune.roles.prompts import Part

APIS = "The conversation history is:\n"
PLAN = "\nYou are the assistant to plan what to do next. Next: caller or conclusion or give up."
THOUGHT = "\nThe thought of this step is:\n{}\nBase on the thought make an api call"
ACTION = 'Action: get_weather\nAction Input: {"city": "Lisbon"}'
PAST = f"user: ASKED a</s>b?</s>assistant: I look.\n Next: caller.</s>caller: \n{ACTION}</s>"
SEEN_PAST = [
    ("user", "ASKED a</s>b?"),
    ("assistant", "I look.\nNext: caller."),
    ("tool", "user: no label"),
]


def published(prompt: str, target: Message) -> Example:
    return Example(id="p", source="train.json:1", tools=TOOLS, messages=(user(prompt), target))


def only(example: Example) -> tuple[Part, Example]:
    made = role_sets([example])
    assert made.left_out == {}
    (found,) = ((part, row) for part, rows in made.sets.items() for row in rows)
    return found


def shown(row: Example) -> list[tuple[str, str]]:
    return [(m.role, m.text) for m in row.messages]


def test_a_published_row_of_the_planner_is_one_of_its_set() -> None:
    prompt = f"{APIS}{PAST}observation: user: no label</s>{PLAN}"
    part, row = only(published(prompt, says("I know.\n Next: conclusion.")))
    assert part is Part.PLANNER
    assert shown(row)[1:] == [*SEEN_PAST, ("assistant", "I know.\nNext: conclusion.")]
    assert row.messages[2].tool_calls == (WEATHER,)
    assert row.id == "p#1-planner"


@pytest.mark.parametrize(
    "repeated", ["", "assistant: I look.\n Next: caller.</s>", "planner: I look.</s>"]
)
def test_a_published_row_of_the_caller_has_the_thought_once(repeated: str) -> None:
    prompt = f"{APIS}user: ASKED</s>{repeated}{THOUGHT.format('I look.')}"
    part, row = only(published(prompt, says("", WEATHER)))
    assert part is Part.CALLER
    assert shown(row)[1:] == [
        ("user", "ASKED"),
        ("user", "planner: I look.\nNext: caller."),
        ("assistant", ""),
    ]


@pytest.mark.parametrize("planned", ["", "assistant: I know.\n Next: conclusion."])
def test_a_published_row_of_the_summarizer_answers_to_the_plan(planned: str) -> None:
    prompt = (
        "Make a conclusion based on the conversation history:\n"
        f"{PAST}observation: user: no label</s>{planned}"
    )
    part, row = only(published(prompt, says("Clear.")))
    thought = "I know.\n" if planned else ""
    assert part is Part.SUMMARIZER
    assert shown(row)[1:] == [
        *SEEN_PAST,
        ("user", f"planner: {thought}Next: conclusion."),
        ("assistant", "Clear."),
    ]
    assert row.tools == ()


def test_a_published_row_of_the_backbone_has_calls_in_its_history() -> None:
    prompt = (
        f"{APIS}user: ASKED</s>assistant: I look.\n{ACTION}</s>observation: clear</s>"
        "assistant: I know.\n Next: conclusion.</s>conclusion: Clear.</s>user: More?</s>"
        "\nYou should answer the action of next step"
    )
    part, row = only(published(prompt, says("It is over.\nconclusion: No.")))
    assert part is Part.BACKBONE
    assert shown(row)[1:] == [
        ("user", "ASKED"),
        ("assistant", "I look."),
        ("tool", "clear"),
        ("assistant", "Clear."),
        ("user", "More?"),
        ("assistant", "It is over.\nconclusion: No."),
    ]
    assert row.messages[2].tool_calls == (WEATHER,)


def test_a_published_turn_that_is_another_than_the_plan_stays_in_the_history() -> None:
    prompt = f"{APIS}system: Be kind.</s>user: Hi</s>assistant: Hello.{THOUGHT.format('I look.')}"
    _, row = only(published(prompt, says("", WEATHER)))
    assert shown(row)[0][1].endswith("\n\nBe kind.")
    assert shown(row)[1:-1] == [
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "planner: I look.\nNext: caller."),
    ]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (
            "user: q</s>assistant: I</s>caller: Action: f\nAction Input: {oops</s>",
            "the input of a call in its history is no JSON object",
        ),
        ("nobody</s>user: q</s>", "its history names nobody who speaks first"),
    ],
)
def test_a_published_history_that_cannot_be_read_is_left_out_and_counted(history, reason) -> None:
    made = role_sets([published(f"{APIS}{history}{PLAN}", says("Next: caller."))])
    assert not any(made.sets.values())
    assert made.left_out == {f"cannot be taken apart: {reason}": 1}


def test_a_published_plan_that_names_no_next_step_is_left_out() -> None:
    made = role_sets([published(f"{APIS}user: ASKED</s>{PLAN}", says("I dream."))])
    assert made.left_out == {"planner: no next step is named": 1}
