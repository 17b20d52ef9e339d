"""Whoever answers, held against recorded conversations; every figure is worked out by hand."""

import json
from dataclasses import replace

import pytest
from openai_server import teacher

from agent_finetune import metrics
from agent_finetune.contracts import Secret
from agent_finetune.errors import DataError, ModelError
from agent_finetune.evaluate import Answer, steps_of
from agent_finetune.records import AcceptedCall, Example, Message, ToolCall
from agent_finetune.toolcalls import ParsedTurn
from modelscope_agent_train.evaluation import EndpointAnswerer, run, score_files
from modelscope_agent_train.evaluation.free_runs import divergence, follow
from modelscope_agent_train.evaluation.openai_form import as_messages, turn_of


def tool(name, required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = (
    tool("get_weather", ["city"], city={"type": "string"}, days={"type": "integer"}),
    tool("get_time", city={"type": "string"}),
)


def call(name, **arguments):
    return ToolCall(name=name, arguments=arguments)


def user(text):
    return Message(role="user", text=text)


def says(text="", *calls):
    return Message(role="assistant", text=text, tool_calls=calls)


def result(text):
    return Message(role="tool", text=text)


TWO_CALLS = Example(
    messages=(
        user("Weather and time in Rome?"),
        says("", call("get_weather", city="Rome"), call("get_time", city="Rome")),
        result("sun"),
        result("noon"),
        says("sun at noon"),
        user("And in Oslo, the weather?"),
        says("", call("get_weather", city="Oslo")),
        result("snow"),
        says("snow"),
    ),
    tools=TOOLS,
    id="two",
    source="held.jsonl:1",
)
REFUSAL = Example(messages=(user("Who are you?"), says("a helpful agent")), tools=TOOLS, id="who")


class Scripted:
    """Answers by the last message's text; keeps what it was asked."""

    name = "scripted"

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def answer(self, asked, *, on_progress=None):
        self.asked += asked
        return [self.one(asked_.messages[-1]) for asked_ in asked]

    def one(self, last):
        text, calls, broken = self.answers.get(last.text.split()[-1].strip("?"), ("", (), ()))
        return Answer(said=text, turn=ParsedTurn(text=text, calls=calls, broken=broken))


ROME = (call("get_time", city="rome"), call("get_weather", city="Rome"))  # the other way round
RIGHT = {
    "Rome": ("", ROME, ()),
    "noon": ("sun at noon", (), ()),
    "sun": ("sun at noon", (), ()),
    "weather": ("", (call("get_weather", city="Oslo"),), ()),
    "snow": ("snow", (), ()),
    "you": ("a helpful agent", (), ()),
}


def test_who_says_what_is_recorded_gets_full_marks():
    report = run(Scripted(**RIGHT), [TWO_CALLS, REFUSAL], free_run=True)
    assert report.counts["steps"] == 5
    assert {k: v for k, v in report.metrics.items() if not k.startswith("free_")} == {
        "name_accuracy": 1,
        "exact_match": 1,
        "argument_f1": 1,
        "argument_f1_nonempty": 1,
        "valid_json": 1,
        "schema_valid": 1,
        "hallucinated": 0,
        "hallucinated_arguments": 0,
        "missing": 0,
        "spurious": 0,
        "rouge_l": 1,
        "cut_off": 0,
    }
    assert report.metrics["free_success"] == report.metrics["free_progress"] == 1


def test_every_step_is_asked_after_the_recorded_history():
    answerer = Scripted()
    run(answerer, [TWO_CALLS])
    assert [asked.messages for asked in answerer.asked] == [
        TWO_CALLS.messages[:1],
        TWO_CALLS.messages[:4],
        TWO_CALLS.messages[:6],
        TWO_CALLS.messages[:8],
    ]


def test_figures_by_hand_agree_with_the_kernels_metrics():
    answers = RIGHT | {
        # one right, one with an argument its schema does not list and of the wrong type
        "Rome": ("", (call("get_time", city="Rome"), call("get_weather", city=3, mood="")), ()),
        # a tool that is not offered, where words are wanted
        "snow": ("", (call("get_news"),), ()),
        # broken JSON
        "weather": ("", (), ('{"name": ',)),
        "you": ("helpful", (), ()),
    }
    report = run(Scripted(**answers), [TWO_CALLS, REFUSAL])
    assert {
        name: (m.hits, m.n) for name, m in report.steps.measures.items() if m.hits is not None
    } == {
        "name_accuracy": (1, 2),
        "exact_match": (0, 2),
        "valid_json": (3, 4),
        "schema_valid": (1, 4),
        "hallucinated": (1, 5),
        "hallucinated_arguments": (1, 2),  # of the calls of tools offered
        "missing": (0, 2),
        "spurious": (1, 3),
        "cut_off": (0, 5),
    }
    # get_time 1; get_weather: city is there and wrong, 0.5, over 2 predicted and 1 right: F 1/3
    assert report.metrics["argument_f1"] == pytest.approx(((1 + 1 / 3) / 2 + 0) / 2)
    assert report.metrics["rouge_l"] == pytest.approx((1 + 0 + 2 * 1 / (1 + 3)) / 3)
    scores = [
        metrics.score_step(a.turn.calls, s.calls, broken=len(a.turn.broken), tools=TOOLS)
        for e in (TWO_CALLS, REFUSAL)
        for s in steps_of(e, "all")
        for a in [Scripted(**answers).one(s.prompt[-1])]
    ]
    ours = {k: v for k, v in report.steps.measures.items() if k not in ("rouge_l", "cut_off")}
    assert ours == metrics.summarize(scores)


def test_rouge_is_right_for_chinese():
    example = replace(REFUSAL, messages=(user("天气 you"), says("北京今天天气晴好")))
    report = run(Scripted(you=("北京今天天气晴朗", (), ())), [example])
    assert report.metrics["rouge_l"] == pytest.approx(7 / 8)


def test_the_same_answers_give_the_same_report_twice():
    first, second = (run(Scripted(**RIGHT), [TWO_CALLS, REFUSAL], free_run=True) for _ in range(2))
    assert first == second


def test_nothing_to_measure_on_is_an_error():
    with pytest.raises(DataError, match="no examples"):
        run(Scripted(), [])


# Runs of the model's own


def test_a_run_goes_on_in_the_models_own_words_and_order():
    answerer = Scripted(**RIGHT)
    follow(answerer, [TWO_CALLS])
    last = answerer.asked[-1].messages
    assert last[1].tool_calls == ROME
    # the results follow the order of the model's calls
    assert [(m.name, m.text) for m in last[2:4]] == [("get_time", "noon"), ("get_weather", "sun")]
    assert last[5] == TWO_CALLS.messages[5]


def test_results_keep_the_models_own_call_ids():
    calls = (replace(ROME[0], id="b1"), replace(ROME[1], id="b2"))
    recorded = (
        replace(TWO_CALLS.messages[1].tool_calls[0], id="a1"),
        replace(TWO_CALLS.messages[1].tool_calls[1], id="a2"),
    )
    messages = (
        TWO_CALLS.messages[0],
        replace(TWO_CALLS.messages[1], tool_calls=recorded),
        Message(role="tool", text="noon", tool_call_id="a2"),  # they came the other way round
        Message(role="tool", text="sun", tool_call_id="a1"),
        says("sun at noon"),
    )
    answerer = Scripted(**RIGHT | {"Rome": ("", calls, ())})
    runs = follow(answerer, [replace(TWO_CALLS, messages=messages)])
    assert runs.measures["success"].value == 1
    given = answerer.asked[-1].messages[2:]
    assert [(m.tool_call_id, m.text) for m in given] == [("b1", "noon"), ("b2", "sun")]


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (("", (), ()), "missing"),
        (("", (call("get_time", city="Rome"),), ()), "wrong_name"),
        (
            ("", (call("get_weather", city="Rome"), call("get_time", city="Pisa")), ()),
            "wrong_arguments",
        ),
        (("", ROME, ("{",)), "broken"),
        (("", (), ("{",)), "broken"),
    ],
)
def test_a_run_ends_where_the_recording_cannot_tell(answer, how):
    answerer = Scripted(**RIGHT | {"Rome": answer})
    runs = follow(answerer, [TWO_CALLS])
    assert runs.rows[0]["diverged"] == how
    assert (runs.measures["success"].value, runs.measures["progress"].value) == (0, 0)
    assert runs.measures[how].value == 1
    assert len(answerer.asked) == 1


def test_progress_by_hand():
    # two of four steps, then a call where words are wanted; and a run of words alone
    spurious = RIGHT | {"weather": ("", (call("get_weather", city="Pisa"),), ())}
    runs = follow(Scripted(**spurious), [TWO_CALLS, REFUSAL])
    assert runs.measures["progress"].value == pytest.approx((2 / 4 + 1) / 2)
    assert runs.measures["success"].value == 0.5
    assert runs.measures["success_calling"].value == 0
    assert runs.measures["wrong_arguments"].hits == 1
    assert runs.measures["rouge_l"].n == 2
    assert "progress" in runs.table()


def test_any_words_follow_where_words_are_wanted_and_a_call_does_not():
    (step,) = steps_of(REFUSAL, "all")
    words = Answer(said="", turn=ParsedTurn(text="something else"))
    assert divergence(words, step) is None
    made = Answer(said="", turn=ParsedTurn(text="", calls=ROME[:1]))
    assert divergence(made, step) == "spurious"


def test_alternatives_of_the_leaderboard_are_followed():
    lyon = AcceptedCall(name="get_time", arguments={"city": ("Lyon", "Rome")})
    example = Example(messages=(user("Rome"),), tools=TOOLS, accepted=(lyon,))
    answer = ("", (call("get_time", city="Rome"),), ())
    assert follow(Scripted(Rome=answer), [example]).measures["success"].value == 1


# What is left behind


def test_a_report_is_a_table_a_file_and_a_line_for_each_step(tmp_path):
    report = run(Scripted(**RIGHT), [TWO_CALLS, REFUSAL], free_run=True, legacy=True)
    report.write(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["two"] * 4 + ["who"]
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["metrics"]["exact_match"]["value"] == 1
    assert written["free_run"]["success"]["n"] == 2
    assert written["legacy"]["call_steps"] == 1  # two calls in a turn did not parse in 2023
    assert len((tmp_path / "free_runs.jsonl").read_text().splitlines()) == 2
    table = report.table()
    assert table.startswith("scripted: 2 examples, 5 steps")
    for words in ("right tool names", "100.0%", "success_calling", "action_em"):
        assert words in table


# Endpoints


def endpoint(told, **options):
    return EndpointAnswerer(url=told.url, model="teacher", parallel=1, pause=0.0, **options)


ONE_CALL = replace(TWO_CALLS, messages=TWO_CALLS.messages[5:])


def test_an_endpoint_is_measured_like_a_model():
    with teacher([("x", "get_weather", '{"city": "Oslo"}')], "snow") as told:
        report = run(endpoint(told, key=Secret("k")), [ONE_CALL])
    assert report.metrics["exact_match"] == report.metrics["rouge_l"] == 1
    assert told.asked[0]["temperature"] == 0
    assert told.asked[0]["tools"] == [dict(t) for t in TOOLS]
    call_message, answered = told.asked[1]["messages"][1:]
    assert call_message["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo"}'
    assert answered["tool_call_id"] == call_message["tool_calls"][0]["id"]
    assert report.rows[0]["answer_tokens"] == 3
    assert "k" not in report.answerer.split()


def test_calls_that_a_server_leaves_in_its_words_are_found():
    said = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    with teacher(said, "snow") as told:
        assert run(endpoint(told), [ONE_CALL]).metrics["exact_match"] == 1


def test_arguments_that_do_not_parse_are_a_broken_call():
    with teacher([("x", "get_weather", '{"city": ')], "snow") as told:
        report = run(endpoint(told), [ONE_CALL])
    assert report.metrics["valid_json"] == 0
    assert report.metrics["missing"] == 0


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_not():
    with teacher(503, "sun", "snow") as told:
        run(endpoint(told), [ONE_CALL])
    assert len(told.asked) == 3
    with teacher(401) as told, pytest.raises(ModelError, match="status 401"):
        run(endpoint(told), [ONE_CALL])
    with teacher(503, 503) as told, pytest.raises(ModelError, match="chat/completions: status 503"):
        run(endpoint(told, attempts=2), [ONE_CALL])


def test_an_endpoint_that_is_not_there_is_named():
    gone = EndpointAnswerer(url="http://127.0.0.1:9/v1", model="m", attempts=1)
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9/v1/chat/completions: no answer"):
        run(gone, [ONE_CALL])


def test_thinking_is_not_sent_back_and_is_read():
    thought = Message(role="assistant", text="hi", thinking="hm")
    assert as_messages([thought]) == [{"role": "assistant", "content": "hi"}]
    assert turn_of({"content": "<think>hm</think>hi"}) == ParsedTurn(text="hi", thinking="hm")
    assert turn_of({"content": "hi", "reasoning_content": "hm"}).thinking == "hm"


# Two files


def think(name, **parameters):
    body = json.dumps({"api_name": name, "parameters": parameters})
    return f"<|startofthink|>```JSON\n{body}\n```<|endofthink|>"


def write(path, items):
    path.write_text(json.dumps(items))
    return path


def test_two_files_of_2023_are_scored_without_a_model(tmp_path):
    right = ["\n\n<|assistant|>:" + think("f", x=1), "\n\n<|assistant|>:北京天气", think("g")]
    said = ["\n\n<|assistant|>:" + think("f", x=2), "北京的天气\n\n</s>", "words"]
    report = score_files(
        write(tmp_path / "eval_label.json", right),
        write(tmp_path / "eval_preds.json", said),
        legacy=True,
    )
    assert report.metrics["name_accuracy"] == 0.5
    assert report.metrics["exact_match"] == 0
    assert report.metrics["missing"] == 0.5
    assert report.metrics["rouge_l"] == pytest.approx(8 / 9)
    assert (report.legacy.action_em, report.legacy.rouge) == (0.5, 0)
    # neither file says which tools were offered
    assert not {"hallucinated", "hallucinated_arguments", "schema_valid"} & report.metrics.keys()


def test_rows_of_the_first_script_are_read_step_by_step(tmp_path):
    def bare(**parameters):
        return json.dumps({"api_name": "f", "parameters": json.dumps(parameters)})

    right = [{"answer": [bare(x=1), "it is done"]}, {"answer": [bare(x=1), "fine"]}]
    said = [{"answer": [bare(x=1), "it is done", bare()]}, {"answer": [bare(x=2)]}]
    report = score_files(
        write(tmp_path / "ref.json", right), write(tmp_path / "pred.json", said), legacy=True
    )
    assert report.counts["examples"] == 2
    assert report.metrics["exact_match"] == 0.5
    assert report.metrics["spurious"] == pytest.approx(1 / 3)  # the call too many
    assert report.metrics["rouge_l"] == 0.5
    assert report.legacy.crashed == "ValueError: Hypothesis is empty."


def test_our_own_lines_and_messages_of_openai_are_read_too(tmp_path):
    run(Scripted(**RIGHT), [REFUSAL, ONE_CALL]).write(tmp_path)
    said = tmp_path / "said.jsonl"
    messages = [
        {"role": "assistant", "content": "a helpful agent"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}],
        },
        {"role": "assistant", "content": "snow"},
    ]
    said.write_text("".join(f"{json.dumps(m)}\n" for m in messages))
    report = score_files(tmp_path / "steps.jsonl", said, legacy=True)
    assert report.metrics["exact_match"] == report.metrics["rouge_l"] == 1
    assert report.legacy.action_em == 1


def test_a_reference_that_does_not_parse_is_left_out_and_counted(tmp_path):
    torn = '<|startofthink|>{"api_name": "f", <|endofthink|>'
    right = write(tmp_path / "ref.json", [torn, "words"])
    report = score_files(right, write(tmp_path / "pred.json", ["words", "words"]))
    assert (report.unusable, report.counts["unusable"], report.counts["steps"]) == (1, 1, 1)
    assert "1 steps left out" in report.table()
    with pytest.raises(DataError, match="none of its 1 steps"):
        score_files(write(tmp_path / "a.json", [torn]), write(tmp_path / "b.json", ["words"]))


@pytest.mark.parametrize(
    ("ref", "pred", "message"),
    [
        ('["a"]', '["a", "b"]', "1 items and .* 2"),
        ('["a"]', "[3]", "pred.json:1: '3' is of no known form"),
        ('["a"]', '"a"\n{', "pred.json:2: neither"),
    ],
)
def test_files_that_do_not_fit_are_an_error(tmp_path, ref, pred, message):
    (tmp_path / "ref.json").write_text(ref)
    (tmp_path / "pred.json").write_text(pred)
    with pytest.raises(DataError, match=message):
        score_files(tmp_path / "ref.json", tmp_path / "pred.json")
    with pytest.raises(DataError, match=r"none\.json"):
        score_files(tmp_path / "none.json", tmp_path / "pred.json")
