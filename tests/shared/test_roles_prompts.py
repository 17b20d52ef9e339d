"""What a part is trained on is what it is served; what is said reads back as it was meant."""

import pytest
from chat_templates import NAMES, renderer
from hypothesis import given
from hypothesis import strategies as st
from role_histories import ALARM, GIVES_UP, LONG, TOLD, TOOLS, TWO_STEPS, WEATHER, says, user

from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Example, Generation, Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.roles.data import role_sets
from agent_finetune.roles.prompts import (
    ROLES,
    SYSTEM,
    Next,
    Part,
    Plan,
    Seen,
    Step,
    backbone_turn,
    read_backbone,
    read_plan,
    see,
    step_of,
    target_of,
    turn_of,
)
from agent_finetune.testing import tiny_tokenizer

THOUGHTS = st.sampled_from(["", "I look.", "a\nb", "**so**", "Next I look: x", "x\nNext: caller."])
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(
    lambda text: " ".join(text.split())
)
PLAIN = WORDS.filter(lambda text: not any(w in text.lower() for w in ("next", "give", ":")))
PLANS = st.builds(Plan, thought=THOUGHTS | PLAIN, next=st.sampled_from(Next))
STEPS = st.one_of(
    st.builds(
        Step,
        plan=st.builds(Plan, thought=PLAIN, next=st.just(Next.CALL)),
        calls=st.sampled_from([(WEATHER,), (WEATHER, ALARM)]),
    ),
    st.builds(
        Step,
        plan=st.builds(Plan, thought=PLAIN, next=st.just(Next.CONCLUDE)),
        answer=PLAIN | st.just("two\nlines"),
    ),
    st.builds(Step, plan=st.builds(Plan, thought=PLAIN, next=st.just(Next.GIVE_UP))),
)
ONE_CALL = ("gptoss", "llama3_1", "llama3_2")
each_template = pytest.mark.parametrize("name", [*NAMES, "none"])


def rendered_by(name: str) -> Renderer:
    """By the templates that TRL ships, and by none, as a base model has."""
    return Renderer(tiny_tokenizer()) if name == "none" else renderer(name)


@given(PLANS)
def test_a_plan_reads_back_as_it_was_written(plan: Plan) -> None:
    assert read_plan(plan.text()) == plan


@given(st.text(max_size=60) | st.from_regex(r"(a|\n|Next:| |caller|planner:|give up|\.|\*){0,9}"))
def test_whatever_is_read_once_reads_the_same_again(text: str) -> None:
    plan = read_plan(text)
    assert read_plan(plan.text()) == plan


@pytest.mark.parametrize(
    ("text", "thought", "following"),
    [
        ("I look.\nNext: caller.", "I look.", Next.CALL),
        ("I look.\n Next: Caller", "I look.", Next.CALL),
        ("I look. NEXT: the caller!", "I look.", Next.CALL),
        ("planner: I know.\n**Next:** conclusion", "I know.", Next.CONCLUDE),
        ("assistant:\nNext: summarizer.", "", Next.CONCLUDE),
        ("No way.\nnext: give_up.", "No way.", Next.GIVE_UP),
        ("I look.\nNext: caller.\nAction: f\nplanner: I", "I look.", Next.CALL),
        ("a\nNext: caller.\nNext: conclusion.", "a\nNext: caller.", Next.CONCLUDE),
        ("What comes next: caller or conclusion?", "What comes next: caller or conclusion?", None),
        ("Next: dinner.", "Next: dinner.", None),
        ("", "", None),
    ],
)
def test_a_plan_is_read_whatever_its_case_stop_and_label(text, thought, following) -> None:
    assert read_plan(text) == Plan(thought=thought, next=following)


def test_reading_takes_no_longer_than_the_text_is_long() -> None:
    for piece in ("\n", "* ", "Next: ", "Next: the ", "planner:", "next:caller x\n"):
        assert isinstance(read_plan(piece * 20000), Plan)


@given(STEPS)
def test_a_step_is_the_same_after_standing_in_a_history(step: Step) -> None:
    assert step_of(turn_of(step)) == step


@given(STEPS)
def test_what_the_single_model_says_reads_back_as_the_step(step: Step) -> None:
    said = backbone_turn(step)
    assert read_backbone(said.text, said.tool_calls) == step


@pytest.mark.parametrize("next", [Next.CALL, None])
def test_a_step_without_its_call_is_kept_in_words(next: Next | None) -> None:
    step = Step(plan=Plan(thought="I look.", next=next))
    assert turn_of(step).text == step.plan.text()
    read = step_of(turn_of(step))
    assert (read == step) if next else (read.answer == "I look.")


@pytest.mark.parametrize(
    ("turn", "step"),
    [
        (says("I look.", WEATHER), ("I look.", Next.CALL, "")),
        (says("Words.", WEATHER, thinking=" I look.\n"), ("I look.", Next.CALL, "")),
        (says("planner: I look.\nNext: caller.", WEATHER), ("I look.", Next.CALL, "")),
        (says("", WEATHER), ("", Next.CALL, "")),
        (says(" It is clear. "), ("", Next.CONCLUDE, "It is clear.")),
        (says("Clear.", thinking="I know."), ("I know.", Next.CONCLUDE, "Clear.")),
        (says("I'd say: give up smoking."), ("", Next.CONCLUDE, "I'd say: give up smoking.")),
        (says("I do. Next: caller."), ("", Next.CONCLUDE, "I do. Next: caller.")),
        (says("I know.\nNext: conclusion."), ("I know.", Next.CONCLUDE, "")),
        (says("*Give up!*"), ("", Next.GIVE_UP, "")),
        (says("No way.\n\nI give up and restart."), ("No way.", Next.GIVE_UP, "")),
        (says("No way.\nNext: give up."), ("No way.", Next.GIVE_UP, "")),
        (says("give up", thinking="No way."), ("No way.", Next.GIVE_UP, "")),
    ],
)
def test_a_turn_of_a_history_is_taken_apart(turn: Message, step: tuple[str, Next, str]) -> None:
    found = step_of(turn)
    assert (found.plan.thought, found.plan.next, found.answer) == step
    assert found.calls == turn.tool_calls


@pytest.mark.parametrize(
    ("arguments", "following", "answer"),
    [
        ({"return_type": "give_answer", "final_answer": "Clear. "}, Next.CONCLUDE, "Clear."),
        ({"return_type": "give_up_and_restart"}, Next.GIVE_UP, ""),
        ({"return_type": "give_answer"}, Next.GIVE_UP, ""),
    ],
)
def test_toolbenchs_finish_is_an_answer_or_a_giving_up(arguments, following, answer) -> None:
    step = step_of(says("I end.", ToolCall(name="Finish", arguments=arguments)))
    assert step == Step(plan=Plan(thought="I end.", next=following), answer=answer)


def test_a_tool_of_that_name_is_a_tool() -> None:
    call = ToolCall(name="Finish", arguments={"line": 3})
    assert step_of(says("", call)).calls == (call,)


def test_only_an_assistants_turn_is_a_step() -> None:
    with pytest.raises(DataError, match="a 'tool' message is no step"):
        step_of(TOLD)


@pytest.mark.parametrize(
    ("text", "thought", "following", "answer"),
    [
        ("I know.\nConclusion: It is\nclear.", "I know.", Next.CONCLUDE, "It is\nclear."),
        ("conclusion: I\ngive up", "", Next.CONCLUDE, "I\ngive up"),
        ("No way.\nGive up.", "No way.", Next.GIVE_UP, ""),
        ("It is clear.", "It is clear.", None, ""),
    ],
)
def test_the_single_models_words_are_read(text, thought, following, answer) -> None:
    step = Step(plan=Plan(thought=thought, next=following), answer=answer)
    assert read_backbone(text) == step


def test_words_that_a_template_says_as_thinking_are_the_thought_of_a_call() -> None:
    assert read_backbone("", (WEATHER,), "I look.").plan == Plan(thought="I look.", next=Next.CALL)


def test_past_turns_have_one_form_and_the_roles_share_it() -> None:
    history = LONG.messages[:-1]
    plan = Plan(thought="I think.", next=Next.CALL)
    planner = see(Part.PLANNER, history, TOOLS)
    assert [m.text for m in planner.messages if m.role == "assistant"] == [
        "get_weather tells it.\nNext: caller.",
        "It is clear.",
        "Next: caller.",
        "All is set.",
    ]
    for part in (Part.CALLER, Part.SUMMARIZER):
        seen = see(part, history, TOOLS, plan)
        assert seen.messages[1:-1] == planner.messages[1:]
        assert seen.messages[-1] == user("planner: I think.\nNext: caller.")
    single = see(Part.BACKBONE, history, TOOLS)
    assert [m.text for m in single.messages if m.role == "assistant"] == [
        "get_weather tells it.",
        "It is clear.",
        "",
        "All is set.",
    ]
    assert [m.tool_calls for m in single.messages] == [m.tool_calls for m in history]


def test_a_past_giving_up_is_shown_as_one() -> None:
    seen = see(Part.PLANNER, (*GIVES_UP.messages, user("Really?")), TOOLS)
    assert seen.messages[2].text == "give up"


def test_what_tools_answer_and_users_ask_is_shown_whole() -> None:
    long = Message(role="tool", text=" word\n" * 5000, tool_call_id="c1", name="get_weather")
    history = (user(" Hi?\n"), says("", WEATHER), long)
    for part in ROLES:
        plan = None if part is Part.PLANNER else Plan(thought="t", next=Next.CONCLUDE)
        messages = see(part, history, TOOLS, plan).messages
        assert messages[1] == history[0]
        assert messages[3] == long


def test_a_role_is_told_its_task_first_then_what_the_conversation_says() -> None:
    (message, *_) = see(Part.PLANNER, LONG.messages[:2]).messages
    assert message == Message(role="system", text=f"{SYSTEM[Part.PLANNER]}\n\nBe kind.")
    alone = see(Part.PLANNER, LONG.messages[:1]).messages
    assert alone == (message,)


def test_exact_ids_of_another_form_are_not_shown() -> None:
    recorded = says("a", generation=Generation(prompt_ids=(1,), ids=(2,)))
    shown = see(Part.BACKBONE, (user("q"), recorded)).messages[-1]
    assert shown == says("a", trained=False)


def test_the_summarizer_is_offered_no_tools() -> None:
    plan = Plan(thought="", next=Next.CONCLUDE)
    assert see(Part.SUMMARIZER, TWO_STEPS.messages[:3], TOOLS, plan).tools == ()
    assert see(Part.CALLER, TWO_STEPS.messages[:3], TOOLS, plan).tools == TOOLS


@pytest.mark.parametrize("part", list(Part))
def test_a_plan_is_for_those_who_answer_to_it(part: Part) -> None:
    answers = part in (Part.CALLER, Part.SUMMARIZER)
    plan = None if answers else Plan(thought="", next=Next.CALL)
    with pytest.raises(ConfigError, match=f"legal for {part} is {'one' if answers else 'none'}"):
        see(part, TWO_STEPS.messages[:1], TOOLS, plan)


def live(example: Example, place: int) -> dict[Part, tuple[Seen, Message]]:
    """Prompts and answers of a live agent that has said what the trajectory says so far.

    The history is what the agent made itself, out of what its own parts had said.
    """
    history = list(example.messages)
    for at in range(place):
        if history[at].role == "assistant":
            gold = step_of(history[at])
            plan = read_plan(target_of(Part.PLANNER, gold).text)
            history[at] = turn_of(Step(plan=plan, calls=gold.calls, answer=gold.answer))
    step = step_of(history[place])
    plan = read_plan(target_of(Part.PLANNER, step).text)
    told = {Part.CALLER: plan, Part.SUMMARIZER: plan}
    return {
        part: (
            see(part, history[:place], example.tools, told.get(part)),
            target_of(part, step),
        )
        for part in Part
    }


@each_template
def test_rows_are_the_prompts_of_a_live_agent_and_only_the_answer_is_trained(name: str) -> None:
    served = rendered_by(name)
    example = TWO_STEPS if name in ONE_CALL else LONG
    places = [i for i, m in enumerate(example.messages) if m.role == "assistant"]
    for part, rows in role_sets([example]).sets.items():
        assert rows
        for row in rows:
            number = int(row.id.partition("#")[2].partition("-")[0])
            seen, answer = live(example, places[number - 1])[part]
            (tokens,) = served.rows(row)
            prompt = served.prompt(served.said_messages(seen.messages), seen.tools).ids
            assert tokens.ids[: len(prompt)] == prompt
            assert not any(tokens.trained[: len(prompt)])
            assert all(tokens.trained[len(prompt) :])
            said = served.parse(tokens.ids[len(prompt) :], row.tools)
            assert [(c.name, c.arguments) for c in said.calls] == [
                (c.name, c.arguments) for c in answer.tool_calls
            ]
            if not answer.tool_calls:
                assert said.text == answer.text


@pytest.mark.parametrize("name", ONE_CALL)
def test_a_template_for_one_call_a_turn_is_taught_one_after_the_other(name: str) -> None:
    served = renderer(name)
    assert "one-call-per-turn" in served.adaptation.names
    rows = role_sets([LONG], one_call=True).sets
    assert [len(row.messages[-1].tool_calls) for row in rows[Part.CALLER]] == [1, 1, 1]
    assert all(served.rows(row) for part in Part for row in rows[part])


def test_the_label_that_is_served_is_the_one_that_was_trained() -> None:
    """The released code trains a history of `assistant:` and serves one of `planner:`."""
    sets = role_sets([TWO_STEPS]).sets
    (called,) = sets[Part.CALLER]
    planned, again = sets[Part.PLANNER]
    written = planned.messages[-1].text
    assert called.messages[-2].text == f"planner: {written}"
    assert again.messages[2].text == written
    texts = [m.text for rows in sets.values() for row in rows for m in row.messages]
    assert not any("assistant:" in text for text in texts)
