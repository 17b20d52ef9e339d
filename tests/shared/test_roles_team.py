"""Three roles on one engine, turn by turn."""

import json
import shutil
from dataclasses import asdict

import pytest
from live_engines import close_all, config_of, make_adapter, open_engine
from scripted_engine import Cut, ScriptedEngine

from agent_finetune.contracts import Request, Settings
from agent_finetune.errors import ConfigError, ContextError, EngineError
from agent_finetune.records import Message, ToolCall
from agent_finetune.roles.prompts import ROLES, Next, Part, Plan, see
from agent_finetune.roles.team import Asked, Team, open_team
from agent_finetune.testing import save_tiny_model

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
NAMES = {part: f"the-{part}" for part in ROLES}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
PARIS = (ToolCall(name="get_weather", arguments={"city": "Paris"}),)


def ask(text="Weather in Paris?"):
    return Asked(messages=(Message(role="user", text=text),), tools=(TOOL,))


def team_of(*answers, names=NAMES, **options):
    engine = ScriptedEngine(*answers)
    return Team(engine, names, **options), engine


def single(*answers):
    return team_of(*answers, names={Part.BACKBONE: None})[0]


# The three roles


def test_a_plan_to_call_asks_the_caller_with_the_plan_in_its_prompt():
    team, engine = team_of("I need the weather.\nNext: caller.", CALL)
    (turn,) = team.turns([ask()])
    plan = Plan(thought="I need the weather.", next=Next.CALL)
    assert turn.step.plan == plan
    assert turn.step.calls == PARIS
    assert turn.step.answer == ""
    planner, caller = engine.requests
    assert (planner.adapter, caller.adapter) == ("the-planner", "the-caller")
    seen = see(Part.CALLER, ask().messages, ask().tools, plan)
    assert (tuple(caller.messages), tuple(caller.tools)) == (seen.messages, seen.tools)
    assert turn.said == {
        Part.PLANNER: "I need the weather.\nNext: caller.",
        Part.CALLER: '{"name": "get_weather", "arguments": {"city": "Paris"}}',
    }
    assert list(turn.tokens) == [Part.PLANNER, Part.CALLER]
    assert min(turn.tokens.values()) > 0


def test_a_plan_to_conclude_asks_the_summarizer_who_sees_no_tools():
    team, engine = team_of("I know.\nNext: conclusion.", "It is sunny.")
    (turn,) = team.turns([ask()])
    assert (turn.step.plan.next, turn.step.answer) == (Next.CONCLUDE, "It is sunny.")
    assert engine.requests[1].adapter == "the-summarizer"
    assert not engine.requests[1].tools


def test_a_plan_to_give_up_asks_nobody_else():
    team, engine = team_of("No tool helps.\nNext: give up.")
    (turn,) = team.turns([ask()])
    assert turn.step.plan == Plan(thought="No tool helps.", next=Next.GIVE_UP)
    assert len(engine.requests) == 1


def test_words_that_are_no_plan_lead_to_no_call_and_no_answer():
    team, engine = team_of("Sunny, I guess")
    (turn,) = team.turns([ask()])
    assert turn.step.plan == Plan(thought="Sunny, I guess", next=None)
    assert (turn.step.calls, turn.step.answer, len(engine.requests)) == ((), "", 1)


def test_a_planner_that_calls_a_tool_itself_has_no_plan_and_made_no_call():
    (turn,) = team_of(CALL)[0].turns([ask()])
    assert turn.step.plan.next is None
    assert turn.step.calls == ()
    assert "get_weather" in turn.said[Part.PLANNER]


def test_a_call_that_does_not_parse_is_kept_raw():
    team, _ = team_of("Next: caller.", '<tool_call>\n{"name": "get_weather", "argum</tool_call>')
    (turn,) = team.turns([ask()])
    assert turn.step.calls == ()
    assert '"get_weather", "argum' in turn.broken[0]
    assert turn.broken[0] in turn.said[Part.CALLER]


def test_who_was_cut_off_is_told():
    team, _ = team_of("Next: conclusion.", Cut("It is su"))
    assert team.turns([ask()])[0].cut_off == {Part.SUMMARIZER}


def test_all_planners_are_asked_before_anybody_else_and_answers_find_their_turns():
    team, engine = team_of(
        "Next: caller.", "Next: give up.", "who knows", "Next: conclusion.", CALL, "Sunny."
    )
    told = []
    turns = team.turns(
        [ask(text) for text in "abcd"], on_progress=lambda *progress: told.append(progress)
    )
    assert [turn.step.plan.next for turn in turns] == [
        Next.CALL,
        Next.GIVE_UP,
        None,
        Next.CONCLUDE,
    ]
    assert [turn.step.calls for turn in turns] == [PARIS, (), (), ()]
    assert [turn.step.answer for turn in turns] == ["", "", "", "Sunny."]
    assert [r.adapter for r in engine.requests] == [
        *["the-planner"] * 4,
        "the-caller",
        "the-summarizer",
    ]
    assert told == [(0, 4), (1, 4), (1, 4), (2, 4), (3, 4), (3, 4), (4, 4)]
    assert team_of("x")[0].turns([]) == []


def test_the_caller_is_free_unless_it_is_forced():
    free, engine = team_of("Next: caller.", CALL)
    free.turns([ask()])
    assert [r.tool_choice for r in engine.requests] == ["auto", "auto"]
    forced, engine = team_of("Next: caller.", "Next: caller.", CALL, force_call=True)
    forced.turns([ask(), Asked(messages=ask().messages)])
    assert [r.tool_choice for r in engine.requests] == ["auto", "auto", "required", "auto"]


def test_turns_are_greedy_and_bounded():
    team, engine = team_of("Next: caller.", CALL, max_new_tokens=17)
    team.turns([ask()])
    assert {(r.temperature, r.max_new_tokens) for r in engine.requests} == {(0.0, 17)}


# The single model, and the single model taught several tasks


@pytest.mark.parametrize(
    ("said", "next_", "calls", "answer"),
    [
        ("I look.\n" + CALL, Next.CALL, PARIS, ""),
        ("I know.\nconclusion: Sunny.", Next.CONCLUDE, (), "Sunny."),
        ("No tool helps.\ngive up", Next.GIVE_UP, (), ""),
        ("Sunny, I guess", None, (), ""),
        ('I look.\n<tool_call>\n{"name": "get_wea</tool_call>', Next.CALL, (), ""),
    ],
)
def test_the_single_model_does_all_in_one_turn(said, next_, calls, answer):
    team = single(said)
    (turn,) = team.turns([ask()])
    assert team.single
    assert turn.step.plan.next is next_
    assert (turn.step.calls, turn.step.answer) == (calls, answer)
    assert bool(turn.broken) is ("get_wea<" in said)
    assert list(turn.said) == [Part.BACKBONE]


def test_roles_may_share_one_adapter():
    team, engine = team_of("Next: caller.", CALL, names=dict.fromkeys(ROLES, "tasks"))
    assert team.turns([ask()])[0].step.calls == PARIS
    assert [r.adapter for r in engine.requests] == ["tasks", "tasks"]


@pytest.mark.parametrize(
    "parts", [(), (Part.PLANNER,), (*ROLES, Part.BACKBONE), (Part.CALLER, Part.SUMMARIZER)]
)
def test_a_team_of_other_parts_is_refused(parts):
    with pytest.raises(ConfigError, match="legal are backbone alone, or planner, caller"):
        Team(ScriptedEngine("x"), dict.fromkeys(parts))


def test_a_part_without_an_engine_is_refused():
    with pytest.raises(ConfigError, match="no engine for caller, summarizer"):
        Team({Part.PLANNER: ScriptedEngine("x")}, NAMES)


# What goes wrong


def test_a_prompt_that_is_too_long_is_no_plan_and_the_others_go_on():
    team, _ = team_of("Next: give up.", ContextError("the prompt has 9 tokens"), "Next: give up.")
    first, second, third = team.turns([ask(), ask(), ask()])
    assert second.step.plan.next is None
    assert second.too_long == {Part.PLANNER: "the prompt has 9 tokens"}
    assert not first.too_long
    assert third.step.plan.next is Next.GIVE_UP
    (turn,) = single(ContextError("too long")).turns([ask()])
    assert (turn.step.plan.next, turn.too_long) == (None, {Part.BACKBONE: "too long"})


def test_an_executor_whose_prompt_is_too_long_says_nothing():
    (turn,) = team_of("Next: caller.", ContextError("too long"))[0].turns([ask()])
    assert (turn.step.plan.next, turn.step.calls) == (Next.CALL, ())
    assert turn.too_long == {Part.CALLER: "too long"}


def test_an_engine_that_fails_fails_the_turns_and_cancels_the_rest():
    team, engine = team_of(EngineError("out of memory"), "Next: give up.")
    started = []
    stream = engine.stream
    engine.stream = lambda request: started.append(stream(request)) or started[-1]
    with pytest.raises(EngineError, match="out of memory"):
        team.turns([ask(), ask()])
    assert [generation.cancelled for generation in started] == [True, True]


def test_closing_a_team_closes_its_engines():
    team, engine = team_of("x")
    team.close()
    assert engine.closed


# On a real engine


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the recipe leaves behind, with adapters that are random."""
    root = tmp_path_factory.mktemp("trained")
    model = save_tiny_model(root / "model")
    for seed, part in enumerate(ROLES):
        make_adapter(model, root / "run" / part.value / "adapter", seed=seed)
    manifest(root / "run", model, {part: f"{part}/adapter" for part in ROLES})
    yield root / "run"
    close_all()


def manifest(folder, model, parts, **options):
    told = {"version": 1, "layout": "roles", "method": "lora", **options}
    told["model"] = asdict(config_of(model))
    told["parts"] = {part.value: path for part, path in parts.items()}
    (folder / "roles.json").write_text(json.dumps(told))


def test_each_role_speaks_with_its_own_adapter_on_one_base(trained):
    team = open_team(trained, Settings(), max_new_tokens=6)
    (engine,) = set(team.engines.values())
    assert set(team.adapters.values()) == set(engine.adapters())
    assert len(set(engine.adapters().values())) == 3
    said = {}
    for part in ROLES:
        plan = None if part is Part.PLANNER else Plan(thought="t", next=Next.CALL)
        request = team.request(part, ask(), plan)
        said[part] = engine.generate(request).message.generation.ids
        with_it = open_engine(
            trained.parent / "model", adapter=trained / part.value / "adapter"
        ).generate(Request(messages=request.messages, tools=request.tools, max_new_tokens=6))
        assert said[part] == with_it.message.generation.ids
    assert len(set(said.values())) == 3
    (turn,) = team.turns([ask()])
    assert turn.tokens == {Part.PLANNER: 6}
    team.close()


def test_two_trained_folders_on_the_same_weights_keep_their_names_apart(trained, tmp_path):
    model = trained.parent / "model"
    other = tmp_path / "other"
    make_adapter(model, other / "multi-task" / "adapter", seed=9)
    manifest(other, model, dict.fromkeys(ROLES, "multi-task/adapter"), layout="multi-task")
    engine = open_engine(model)
    one, two = Team.of(trained, engine), Team.of(other / "roles.json", engine)
    assert len(set(two.adapters.values())) == 1
    assert not set(one.adapters.values()) & set(two.adapters.values())
    assert set(engine.adapters()) >= {*one.adapters.values(), *two.adapters.values()}
    assert Team.of(trained, engine).adapters == one.adapters
    engine.close()


def test_the_single_model_is_opened_from_its_folder(trained, tmp_path):
    model = trained.parent / "model"
    folder = tmp_path / "single"
    shutil.copytree(trained / "planner", folder / "backbone")
    manifest(folder, model, {Part.BACKBONE: "backbone/adapter"}, layout="single")
    team = open_team(folder, Settings(), max_new_tokens=3)
    assert team.single
    assert team.turns([ask()])[0].tokens == {Part.BACKBONE: 3}
    team.close()


def test_whole_models_have_an_engine_each(trained, tmp_path):
    model = trained.parent / "model"
    folder = tmp_path / "full"
    shutil.copytree(model, folder / "planner" / "model")
    manifest(folder, model, dict.fromkeys(ROLES, "planner/model"), method="full")
    team = open_team(folder, Settings(), max_new_tokens=2)
    assert set(team.adapters.values()) == {None}
    assert team.turns([ask()])[0].tokens == {Part.PLANNER: 2}
    team.close()
    engine = open_engine(model)
    with pytest.raises(ConfigError, match="whole models, not adapters; use open_team"):
        Team.of(folder, engine)
    engine.close()


def test_a_folder_without_roles_says_what_makes_one(tmp_path):
    with pytest.raises(ConfigError, match=r"roles\.json: .*roles train"):
        open_team(tmp_path, Settings())
