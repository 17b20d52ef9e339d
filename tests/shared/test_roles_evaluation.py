"""Teams held against trajectories, by script and on a real, tiny engine."""

import json
from dataclasses import asdict

import pytest
import torch
from command_line import answer_of
from live_engines import close_all, config_of, make_adapter, open_engine
from scripted_engine import Cut, ScriptedEngine

from agent_finetune import collate
from agent_finetune.errors import ConfigError, ContextError, DataError
from agent_finetune.records import AcceptedCall, Example, Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.roles.data import role_sets
from agent_finetune.roles.evaluation import evaluate_runs, evaluate_steps
from agent_finetune.roles.prompts import ROLES, Part
from agent_finetune.roles.running import STUCK, WRONG_CALL
from agent_finetune.roles.team import Team
from agent_finetune.testing import save_tiny_model, tiny_model, tiny_tokenizer

TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "hotels")
)


def user(text):
    return Message(role="user", text=text)


def calls(name, id=None, thinking="I need it.", **arguments):
    call = ToolCall(name=name, arguments=arguments, id=id)
    return Message(role="assistant", thinking=thinking, tool_calls=(call,))


def result(text, id=None):
    return Message(role="tool", text=text, tool_call_id=id)


def says(text, **options):
    return Message(role="assistant", text=text, **options)


TRIP = Example(
    messages=(
        user("Weather in Paris, then hotels"),
        calls("weather", city="Paris"),
        result("sun"),
        calls("hotels", city="Paris"),
        result("Ritz"),
        says("It is sunny; the Ritz is free."),
    ),
    tools=TOOLS,
    id="trip",
    source="trips.jsonl:1",
)
JOKE = Example(messages=(user("A joke?"), says("give up")), tools=TOOLS, id="joke")


def call(name="weather", city="Paris"):
    written = json.dumps({"name": name, "arguments": {"city": city}})
    return f"<tool_call>\n{written}\n</tool_call>"


def single(*answers):
    """A team of one, whose answers are one line each."""
    engine = ScriptedEngine(*answers)
    return Team(engine, {Part.BACKBONE: None}), engine


def value(report):
    return {name: measure.value for name, measure in report.measures.items()}


# Step by step


def test_every_step_is_asked_after_the_right_history():
    engine = ScriptedEngine(
        "Next: caller.",
        "Next: caller.",
        "Next: conclusion.",
        "Next: give up.",
        call(),
        call("hotels", "Rome"),
        "It is sunny.",
    )
    report = evaluate_steps(Team(engine, dict.fromkeys(ROLES)), [TRIP, JOKE])
    assert [row["step"] for row in report.rows] == [1, 3, 5, 1]
    # Another city and the wrong last answer change nothing of what is asked after them.
    third = engine.requests[2].messages
    assert [m.role for m in third] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert third[-2].tool_calls == TRIP.messages[3].tool_calls
    found = value(report)
    assert found["plan_accuracy"] == 1
    assert found["action_exact_match"] == 1
    assert found["hallucination"] == 0
    assert found["argument_f1"] == pytest.approx((1 + 0.5) / 2)
    assert found["argument_f1_nonempty"] == pytest.approx((1 + 0.5) / 2)
    assert found["exact_match"] == 0.5
    # "it is sunny" in "it is sunny the ritz is free": P = 3/3, R = 3/7
    assert found["rouge_l"] == pytest.approx(0.6)
    assert found["cut_off"] == found["too_long"] == 0
    assert report.measures["plan_accuracy"].n == 4
    assert report.examples == 2


def test_a_row_tells_what_was_right_what_was_said_and_how_it_was_marked():
    report = evaluate_steps(single("I look.\n" + call("hotel"))[0], [TRIP])
    row = report.rows[0]
    assert (row["id"], row["source"], row["step"]) == ("trip", "trips.jsonl:1", 1)
    assert row["right"] == {
        "next": "caller",
        "calls": [{"name": "weather", "arguments": {"city": ["Paris"]}}],
        "answer": "",
    }
    assert row["said"]["backbone"].startswith("I look.\n{")
    assert row["calls"] == [{"name": "hotel", "arguments": {"city": "Paris"}}]
    assert (row["plan_right"], row["names_right"], row["hallucinated"]) == (True, False, True)
    assert report.rows[2]["names_right"] is None
    assert json.loads(json.dumps(report.rows)) == list(report.rows)


def test_accepted_values_are_right_at_their_step_alone():
    def accepted(example, place):
        assert example is TRIP
        one = AcceptedCall(name="weather", arguments={"city": ("Paris", "Paris, France")})
        return [one] if place == 1 else []

    team, _ = single(call(city="Paris, France"), call("hotels", "Paris, France"), "conclusion: .")
    report = evaluate_steps(team, [TRIP], accepted=accepted)
    assert [row["argument_f1"] for row in report.rows] == [1, 0.5, None]


def test_an_example_may_carry_its_own_alternatives_for_its_last_turn():
    paris = AcceptedCall(name="weather", arguments={"city": ("Lutetia", "Paris")})
    example = Example(messages=TRIP.messages[:2], tools=TOOLS, accepted=(paris,))
    report = evaluate_steps(single(call(city="lutetia"))[0], [example])
    assert report.rows[0]["exact"] is True


def test_turns_of_others_are_history_only():
    other = Example(
        messages=(user("Hi"), says("Hello", trained=False), user("A joke?"), says("No"))
    )
    assert [row["step"] for row in evaluate_steps(single("x")[0], [other]).rows] == [3]
    with pytest.raises(DataError, match="1 examples, and no assistant turn"):
        evaluate_steps(single("x")[0], [Example(messages=(user("Hi"),))])


def test_answers_that_were_cut_off_or_could_not_be_asked_for_are_counted():
    team, _ = single(Cut("conclusion: It"), ContextError("too long"), call(), "give up")
    report = evaluate_steps(team, [TRIP, JOKE])
    assert value(report)["cut_off"] == value(report)["too_long"] == 0.25
    assert value(report)["plan_accuracy"] == 0.25
    assert report.rows[1]["too_long"] == {"backbone": "too long"}


def test_a_report_is_a_table_and_is_written_whole(tmp_path):
    report = evaluate_steps(single("give up")[0], [JOKE, JOKE])
    heads, values, _, n = report.table("single").splitlines()
    assert [h.strip() for h in heads.split("  ") if h.strip()] == [
        "Plan ACC",
        "Act. EM",
        "Hallu.",
        "Arg F1",
        "Arg F1 (non-empty)",
        "R-L",
    ]
    assert values.split() == ["single", "100.0%", "-", "0.0%", "-", "-", "-"]
    assert n.split() == ["n", "2", "2"]
    report.write(tmp_path)
    lines = (tmp_path / "examples.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["joke", "joke"]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["metrics"]["plan_accuracy"]["hits"] == 2
    assert found["counts"]["examples"] == 2


# End to end


def test_a_right_call_gets_the_trajectorys_result_and_a_wrong_one_an_error():
    team, engine = single(
        call(), call("hotels", "Rome"), call("hotels"), "conclusion: It is sunny; the Ritz is free."
    )
    told = []
    report = evaluate_runs(team, [TRIP], on_progress=lambda *progress: told.append(progress))
    seen = engine.requests[-1].messages
    assert [m.text for m in seen if m.role == "tool"] == ["sun", WRONG_CALL, "Ritz"]
    found = value(report)
    assert (found["done"], found["done_with_detours"], found["calls_right"]) == (0, 1, 0)
    assert (found["ended_right"], found["rouge_l"], found["steps"]) == (1, 1, 4)
    assert told[-1] == (1, 1)


def test_right_calls_and_a_right_end_are_done_whatever_their_order():
    team, _ = single(call("hotels"), call(), "conclusion: done")
    report = evaluate_runs(team, [TRIP])
    assert value(report)["done"] == 1
    assert report.measures["done"].hits == 1
    assert [turn["next"] for turn in report.rows[0]["turns"]] == ["caller", "caller", "conclusion"]


@pytest.mark.parametrize(
    ("answers", "ended"),
    [
        (["give up"], "give up"),
        (["conclusion: no"], "conclusion"),
        (["who knows"], "unreadable"),
        ([call()], "out_of_steps"),
        (["<tool_call>\n{'name</tool_call>"], "no_call"),
        ([ContextError("too long")], "too_long"),
    ],
)
def test_a_run_ends_in_one_of_these_ways(answers, ended):
    report = evaluate_runs(single(*answers)[0], [JOKE], most_steps=3)
    assert report.rows[0]["ended"] == ended
    assert report.rows[0]["done"] is (ended == "give up")
    assert report.rows[0]["steps"] == (3 if ended == "out_of_steps" else 1)
    assert {why for why in STUCK if value(report)[why]} == {ended} & {*STUCK}


def test_a_call_where_none_was_right_is_not_done():
    report = evaluate_runs(single(call(), "give up")[0], [JOKE])
    found = value(report)
    assert (found["done"], found["done_with_detours"], found["ended_right"]) == (0, 1, 1)


def test_results_can_be_had_from_elsewhere():
    team, engine = single(call(), "conclusion: ok")
    evaluate_runs(team, [TRIP], result_of=lambda example, call: f"{example.id}: {call.name}")
    assert engine.requests[-1].messages[-1].text == "trip: weather"


def test_results_are_found_by_the_ids_of_calls_and_accepted_values_get_them_too():
    both = Message(
        role="assistant",
        tool_calls=(
            ToolCall(name="weather", arguments={"city": "Paris"}, id="a"),
            ToolCall(name="hotels", arguments={"city": "Paris"}, id="b"),
        ),
    )
    messages = (user("Both?"), both, result("Ritz", "b"), result("sun", "a"), says("ok"))
    example = Example(messages=messages, tools=TOOLS)

    def accepted(example, place):
        return [
            AcceptedCall(name=name, arguments={"city": ("Paris", "Lutetia")})
            for name in ("weather", "hotels")
        ]

    team, engine = single(call(city="Lutetia"), call("hotels"), "conclusion: ok")
    report = evaluate_runs(team, [example], accepted=accepted)
    assert [m.text for m in engine.requests[-1].messages if m.role == "tool"] == ["sun", "Ritz"]
    assert value(report)["done"] == 1


def test_runs_go_on_from_the_last_user_turn_side_by_side():
    chat = Example(messages=(user("Hi"), says("Hello"), *TRIP.messages), tools=TOOLS)
    team, engine = single(call(), "give up", "conclusion: no")
    report = evaluate_runs(team, [chat, JOKE], most_steps=2)
    assert [m.role for m in engine.requests[0].messages] == ["system", "user", "assistant", "user"]
    assert [row["steps"] for row in report.rows] == [2, 1]
    assert len(engine.requests) == 3


def test_what_is_no_whole_trajectory_is_left_out_and_counted():
    cut = [Example(messages=TRIP.messages[:n], tools=TOOLS) for n in (5, 4, 2)]
    report = evaluate_runs(single("give up")[0], [JOKE, *cut])
    assert report.left_out == {"ends in a 'tool' message": 1, "ends in a call": 2}
    assert report.measures["done"].n == report.examples == 1
    with pytest.raises(DataError, match=r"1 examples, and no trajectory .*: 1 ends in a call"):
        evaluate_runs(single("x")[0], cut[1:2])
    with pytest.raises(ConfigError, match="most_steps"):
        evaluate_runs(single("x")[0], [TRIP], most_steps=0)


def test_turns_that_do_not_say_what_is_right_are_left_out_and_counted():
    nothing = Example(messages=(user("Hi"), says("Hm.\nNext: caller.")))
    row = Example(
        messages=(
            user("The conversation history is:\nuser: q</s>\nThe thought of this step is: t"),
            says("x"),
        )
    )
    report = evaluate_steps(single("give up")[0], [nothing, JOKE, row])
    assert report.left_out == {
        "the call is missing": 1,
        "a published row of one part, no trajectory": 1,
    }
    assert len(report.rows) == 1


def test_a_report_of_runs_is_a_table_and_is_written(tmp_path):
    report = evaluate_runs(single("give up")[0], [JOKE])
    assert report.table("single").splitlines()[1].split()[:3] == ["single", "100.0%", "100.0%"]
    report.write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["done"]["value"] == 1


# On a real engine


def test_what_was_taught_as_rows_of_the_roles_is_what_they_do_when_they_serve(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    short = Example(messages=(*TRIP.messages[:3], TRIP.messages[-1]), tools=TOOLS[:1], id="short")
    sets = role_sets([short, JOKE]).sets
    learn(model, Renderer(tokenizer), [row for part in ROLES for row in sets[part]])
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    team = Team(open_engine(tmp_path), dict.fromkeys(ROLES), max_new_tokens=120)
    steps, runs = (measure(team, [short, JOKE]) for measure in (evaluate_steps, evaluate_runs))
    assert [row["next"] for row in steps.rows] == ["caller", "conclusion", "give up"]
    assert value(steps)["plan_accuracy"] == value(steps)["exact_match"] == 1
    assert value(steps)["rouge_l"] == value(runs)["rouge_l"] == 1
    assert value(runs)["done"] == 1
    close_all()


def test_the_command_line_measures_single_steps_where_no_trajectory_is_whole(tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    folder = tmp_path / "run"
    make_adapter(model, folder / "backbone" / "adapter", seed=0)
    told = {"version": 1, "layout": "single", "method": "lora", "model": asdict(config_of(model))}
    told["parts"] = {"backbone": "backbone/adapter"}
    (folder / "roles.json").write_text(json.dumps(told))
    data = tmp_path / "data.jsonl"
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    data.write_text(json.dumps({"messages": said, "tools": TOOLS}))
    words = ["--folder", folder, "--data", data, "--out", tmp_path / "out", "--max-new-tokens", 4]
    found = answer_of("roles", capsys, "eval", *words)
    assert found["steps"]["plan_accuracy"]["n"] == 1
    assert "runs" not in found
    assert (tmp_path / "out" / "steps" / "examples.jsonl").exists()
    close_all()


def learn(model, renderer, rows):
    """Plain torch, until the rows are known by heart."""
    batch = collate.pad([made for row in rows for made in renderer.rows(row)], pad_id=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            return
    raise AssertionError(f"loss is still {loss:.3f}")


def test_three_adapters_on_one_engine_are_measured_step_by_step_and_end_to_end(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    engine = open_engine(model)
    for seed, part in enumerate(ROLES):
        engine.attach(part.value, make_adapter(model, tmp_path / part.value, seed=seed))
    team = Team(engine, {part: part.value for part in ROLES}, max_new_tokens=8)
    steps = evaluate_steps(team, [TRIP, JOKE])
    runs = evaluate_runs(team, [TRIP, JOKE], most_steps=2)
    assert steps.measures["plan_accuracy"].n == 4
    assert runs.measures["done"].n == 2
    # Random weights plan nothing: what they say is kept, and marked as wrong.
    assert value(steps)["unreadable"] == value(runs)["unreadable"] == 1
    assert all(row["tokens"] == {"planner": 8} for row in steps.rows)
    close_all()
