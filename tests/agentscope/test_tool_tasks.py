import asyncio
import json
import random
from pathlib import Path

import pytest
from agentscope.message import UserMsg
from agentscope.tool import FunctionTool, Toolkit
from agentscope_models import ScriptedEngine, scripted_model

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.records import AcceptedCall, Example, Message, Row, Section, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.settings import read_settings
from agent_finetune.testing import save_tiny_model, tiny_tokenizer
from agentscope_finetune import TransformersChatModel

TOKENIZER = tiny_tokenizer()


@pytest.fixture(autouse=True)
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def tasks(benchmark):
    from toolloop.loop import read_tasks

    return {task.id: task for task in read_tasks()}


def call(name, **arguments):
    text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{text}\n</tool_call>"


def right_calls(task):
    """The expected calls of a task with the first of the right values, as a model says them."""
    return [call(c.name, **{k: v[0] for k, v in c.arguments.items()}) for c in task.calls]


def play(task, *said):
    from toolloop.loop import attempt

    engine = ScriptedEngine(*said, tokenizer=TOKENIZER)
    return asyncio.run(attempt(task, TransformersChatModel(engine=engine, settings=Settings())))


def question(name, text="How many are 3 and 4?", **arguments):
    """One of the leaderboard's questions, with one call."""
    properties = {key: {"type": "integer", "description": key} for key in arguments}
    parameters = {"type": "object", "required": [*arguments], "properties": properties}
    function = {"name": name, "description": "Calculate.", "parameters": parameters}
    return Example(
        messages=(
            Message(role="user", text=text),
            Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=arguments),)),
        ),
        tools=({"type": "function", "function": function},),
    )


def make_rows(count=24, examples=(), **options):
    from toolloop import lessons

    return asyncio.run(lessons.rows(count, examples, fits=lambda _: True, **options))


def as_example(row):
    return readers.chat.read_messages(Row(data=row, source="test"))


def test_there_are_fifty_tasks_and_every_function_of_the_world_is_asked_for(tasks):
    from toolloop.world import World, functions

    assert len(tasks) == 50
    assert {c.name for task in tasks.values() for c in task.calls} == set(functions(World()))
    assert sum(len(task.tools) > 1 for task in tasks.values()) >= 25


def test_expected_calls_execute_and_the_right_answer_is_accepted(tasks):
    for task in tasks.values():
        found = play(task, *right_calls(task), f"It is {' and '.join(task.answer)}.")
        assert found.both, found


def test_the_result_that_a_task_asks_for_is_what_its_functions_give(tasks):
    from toolloop.loop import says
    from toolloop.world import World, functions

    for task in tasks.values():
        offered = functions(World())
        results = [
            json.dumps(offered[c.name](**{k: v[0] for k, v in c.arguments.items()}))
            for c in task.calls
        ]
        assert all(says(" ".join(results), value) for value in task.answer), (task, results)


def test_an_answer_with_another_value_is_refused(tasks):
    found = play(tasks["gate-2"], *right_calls(tasks["gate-2"]), "It is gate C15.")
    assert found.right_call
    assert not found.right_answer


def test_no_request_says_its_own_answer(tasks):
    from toolloop.loop import says

    for task in tasks.values():
        assert not all(says(task.request, value) for value in task.answer), task


def test_a_model_that_only_talks_has_executed_nothing_and_given_no_final_answer(tasks):
    found = play(tasks["days-1"], "It is 24.")
    assert (found.executed, found.answer) == ((), "")
    assert not found.right_call
    assert not found.right_answer


def test_wrong_arguments_are_executed_and_count_as_wrong(tasks):
    found = play(tasks["bill-2"], call("split_bill", total=150, people=6), "It is 18.75.")
    assert found.executed == (ToolCall(name="split_bill", arguments={"total": 150, "people": 6}),)
    assert not found.right_call
    assert found.right_answer


def test_one_call_too_many_is_wrong_though_the_answer_is_right(tasks):
    (right,) = right_calls(tasks["bill-2"])
    found = play(tasks["bill-2"], right, right, "It is 18.75.")
    assert len(found.executed) == 2
    assert not found.right_call


def test_a_call_that_agentscope_refuses_is_not_executed_and_may_be_made_good(tasks):
    (right,) = right_calls(tasks["weekday-1"])
    broken = call("weekday_of", date="1969-07-20")
    assert play(tasks["weekday-1"], broken, right, "It was a Sunday.").both


def test_arguments_that_python_refuses_are_not_executed(tasks):
    (right,) = right_calls(tasks["weekday-1"])
    refused = call("weekday_of", day="1969-07-20", year=1969)
    found = play(tasks["weekday-1"], refused, right, "It was a Sunday.")
    assert found.both
    assert len(found.executed) == 1


def test_a_function_that_fails_tells_the_agent_and_counts_as_wrong(tasks):
    found = play(tasks["shelf-2"], call("shelf_of", item="piano"), "I do not know.")
    assert "known are lamp" in found.said
    assert not found.right_call


def test_words_before_the_call_are_no_final_answer(tasks):
    (right,) = right_calls(tasks["days-1"])
    found = play(tasks["days-1"], f"It is 24. {right}", "Done.")
    assert found.right_call
    assert not found.right_answer


def test_the_two_calls_of_a_task_may_be_made_in_one_turn(tasks):
    task = tasks["two-2"]
    assert play(task, "\n".join(right_calls(task)), "They are 2264 and 8815.").both


def test_a_desk_booked_in_one_task_is_free_in_the_next(tasks):
    (right,) = right_calls(tasks["desk-1"])
    for _ in range(2):
        assert play(tasks["desk-1"], right, "Your code is D7-WED-1.").both


@pytest.mark.parametrize(
    ("text", "value", "there"),
    [
        ("That is 340.19 grams.", "340.19", True),
        ("It costs $1,024.50.", "1024.5", True),
        ("It is 68.00.", "68", True),
        ("It is 168.", "68", False),
        ("It occurs four times.", "4", True),
        ("It occurs fourteen times.", "4", False),
        ("On 2024-03-05.", "24", False),
        ("At 11:15.", "11", False),
        ("It is 12.5.", "12", False),
        ("it lies on shelf f12", "F12", True),
        ("It is on Mondays.", "Monday", False),
        ("Locker green 19.", "green 19", True),
    ],
)
def test_values_are_found_as_numbers_and_whole_words(text, value, there):
    from toolloop.loop import says

    assert says(text, value) is there


def test_no_function_of_a_task_is_offered_in_training():
    from toolloop import lessons, questions
    from toolloop.world import World, functions

    held = set().union(*map(questions.names_of, functions(World())))
    tempting = [
        question(name, a=3, b=4) for name in ("box_volume", "shop.splitBill", "calc_box_volume")
    ]
    rows = make_rows(40, [*tempting, question("sum_of", a=3, b=4)], share=0.9)
    names = {name for row in rows for name in lessons.offered_names(row)}
    assert "sum_of" in names
    assert lessons.practised_names() < names | {"sum_of"}
    assert not [name for name in names if questions.names_of(name) & held]


@pytest.mark.real
def test_the_leaderboard_gives_conversations_and_none_with_a_function_of_a_task():
    from toolloop import lessons, questions
    from toolloop.world import World, functions

    examples = readers.read("bfcl", settings=read_settings()).examples
    held = set().union(*map(questions.names_of, functions(World())))
    rows = make_rows(40, examples, share=1.0)
    assert all(not set(lessons.offered_names(row)) <= lessons.practised_names() for row in rows)
    chosen = filter(questions.usable, questions.without(examples, functions(World())))
    names = {name for example in chosen for name in example.tool_names}
    assert len(names) > 500
    assert not [name for name in names if questions.names_of(name) & held]


def test_a_practised_conversation_says_what_its_functions_really_gave():
    for row in make_rows(40, seed=3):
        *_, answer = row["messages"]
        results = [m["content"] for m in row["messages"] if m["role"] == "tool"]
        assert results
        for result in results:
            found = json.loads(result) if result.startswith("{") else {"": result}
            assert any(str(value) in answer["content"] for value in found.values()), row


def test_the_same_seed_makes_the_same_conversations():
    assert make_rows(seed=5) == make_rows(seed=5) != make_rows(seed=6)


def test_a_call_that_contradicts_its_schema_is_left_out():
    from toolloop import lessons

    wrong, right = question("sum_of", a="three", b=4), question("product_of", a=3, b=4)
    names = [lessons.offered_names(row) for row in make_rows(2, [wrong, right], share=1.0)]
    assert ["product_of"] in names
    assert ["sum_of"] not in names


def test_every_turn_of_the_model_is_trained_and_nothing_else():
    renderer = Renderer(TOKENIZER)
    for row in make_rows(12, [question("sum_of", a=3, b=4)]):
        (tokens,) = renderer.rows(as_example(row))
        said = TOKENIZER.decode([t for t, s in zip(tokens.ids, tokens.sections, strict=True) if s])
        turns = [m for m in row["messages"] if m["role"] == "assistant"]
        assert said.count("<|im_end|>") == len(turns)
        assert said.count("<tool_call>") == len(turns) - 1
        assert row["messages"][-1]["content"] in said
        assert "<tool_response>" not in said
        assert row["messages"][1]["content"] not in said
        assert Section.FINAL_ANSWER in tokens.sections


def test_what_is_trained_begins_with_each_prompt_that_the_agent_serves():
    from toolloop.lessons import practice
    from toolloop.loop import make_agent
    from toolloop.teaching import conversation

    lessons = practice(random.Random(1))
    renderer = Renderer(TOKENIZER)
    for _ in range(8):
        lesson = next(lessons)
        said = [call(c.name, **c.arguments) for c in lesson.calls]
        model = scripted_model(*said, lesson.answer)
        asyncio.run(
            make_agent(model, lesson.tools).reply(UserMsg(name="user", content=lesson.request))
        )
        example = as_example(asyncio.run(conversation(lesson)))
        (tokens,) = renderer.rows(example)
        assert len(model.engine.requests) == len(said) + 1
        for request in model.engine.requests:
            served = renderer.prompt_ids(request.messages, request.tools)
            assert tokens.ids[: len(served)] == served
            assert tuple(request.tools) == example.tools


def test_schemas_of_the_leaderboard_have_their_keys_in_the_order_of_agentscopes_own():
    from toolloop.leaderboard import lesson
    from toolloop.practice import Practice

    made = lesson(question("sum_of", number=3, divisor=4), random.Random(0))
    toolkit = Toolkit(tools=[FunctionTool(Practice().remainder), *made.tools])
    own, other = (tool["function"] for tool in asyncio.run(toolkit.get_tool_schemas()))
    assert [*own] == [*other]
    assert [*own["parameters"]] == [*other["parameters"]]
    inner, others = (s["parameters"]["properties"]["number"] for s in (own, other))
    assert [*inner] == [*others]


def test_the_script_measures_tunes_and_measures_again(benchmark, tmp_path, monkeypatch, capsys):
    import agentscope_tools

    folder = save_tiny_model(tmp_path / "model")
    read = readers.read
    asked = (question("sum_of", a=3, b=4),)
    found = readers.ReadResult(format="bfcl", examples=asked, bad=(), digest="sha256:0")
    monkeypatch.setattr(
        readers, "read", lambda name, *a, **k: found if name == "bfcl" else read(name, *a, **k)
    )
    monkeypatch.setattr(agentscope_tools, "MOST_TOKENS", 4000)
    monkeypatch.setattr(agentscope_tools, "MOST_ANSWER", 8)
    sizes = ["--tasks", "2", "--examples", "4", "--model", str(folder)]
    out, written = tmp_path / "out", tmp_path / "report.json"
    assert agentscope_tools.main([*sizes, "--out", str(out), "--json", str(written)]) == 1
    report = json.loads(written.read_text())
    assert report["before"] == report["after"] == {"right_call": 0, "right_answer": 0, "both": 0}
    assert (report["data"]["leaderboard"], report["data"]["practised"]) == (1, 3)
    assert [task["id"] for task in report["tasks"]] == ["ounces-1", "ounces-2"]
    assert len(list(out.glob("sft_*/adapter/adapter_config.json"))) == 1
    assert "0/2 (0%-66%)" in capsys.readouterr().out


def test_accepted_calls_are_read_with_all_their_values(tasks):
    assert tasks["stock-1"].calls == (
        AcceptedCall(name="stock_of", arguments={"item": ("lamp", "lamps")}),
    )
