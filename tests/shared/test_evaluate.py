"""Answers of a real, tiny model that has learned some examples by heart, scored."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from agent_finetune import collate, metrics
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel
from agent_finetune.errors import ConfigError, DataError, RenderError
from agent_finetune.evaluate import Report, evaluate, evaluate_loss, progress
from agent_finetune.records import AcceptedCall, Example, Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_model, tiny_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def user(text):
    return Message(role="user", text=text)


def says(text="", **arguments):
    calls = (ToolCall(name="get_weather", arguments=arguments),) if arguments else ()
    return Message(role="assistant", text=text, tool_calls=calls)


CALL = Example(
    messages=(user("Weather in Paris?"), says(city="Paris")),
    tools=(TOOL,),
    id="call",
    source="data.jsonl:1",
)
WORDS = Example(
    messages=(user("Who are you?"), says("a helpful assistant")),
    tools=(TOOL,),
    id="words",
    source="data.jsonl:2",
)
CHAT = Example(
    messages=(
        *CALL.messages,
        Message(role="tool", text="sun", name="get_weather"),
        says("the weather is sun"),
    ),
    tools=(TOOL,),
    id="chat",
)


def load(tokenizer, model):
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        resolved=ResolvedModel(name="tiny", location="tiny"),
        config=ModelConfig(model="tiny"),
        device="cpu",
        dtype="float32",
        digest="sha256:tiny",
    )


def learn(loaded, examples, steps=120):
    """Plain torch, until the examples are known by heart."""
    renderer = Renderer(loaded.tokenizer)
    rows = [row for example in examples for row in renderer.rows(example)]
    batch = collate.pad(rows, pad_id=0)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = loaded.model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            return loaded
    raise AssertionError(f"loss is still {loss:.3f}")


@pytest.fixture(scope="module")
def taught():
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        return learn(load(tokenizer, tiny_model(tokenizer)), [CALL, WORDS, CHAT])


@pytest.fixture(scope="module")
def untaught():
    tokenizer = tiny_tokenizer()
    return load(tokenizer, tiny_model(tokenizer))


def test_a_model_that_knows_the_answers_gets_full_marks(taught):
    report = evaluate(taught, [CALL, WORDS], max_new_tokens=80)
    assert report.metrics == {
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
    assert report.counts["examples"] == 2
    assert report.counts["name_accuracy"] == 1
    assert report.counts["rouge_l"] == 1


def test_a_model_that_knows_nothing_misses_the_call_and_is_cut_off(untaught):
    report = evaluate(untaught, [CALL], max_new_tokens=4)
    assert report.metrics["missing"] == 1
    assert report.metrics["name_accuracy"] == 0
    assert report.metrics["cut_off"] == 1
    assert "valid_json" not in report.metrics  # nothing was attempted


def test_a_row_shows_what_was_asked_wanted_and_answered(taught):
    report = evaluate(taught, [CALL], max_new_tokens=80)
    (row,) = report.rows
    assert (row["id"], row["source"], row["step"]) == ("call", "data.jsonl:1", 1)
    assert row["right_calls"] == [
        {"name": "get_weather", "arguments": {"city": ["Paris"]}, "optional": []}
    ]
    assert row["calls"] == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    assert row["answer"].endswith("<|im_end|>")
    assert "Weather in Paris?" in row["prompt_end"]
    prompt = Renderer(taught.tokenizer).prompt_ids(CALL.messages[:1], CALL.tools)
    assert row["prompt_tokens"] == len(prompt)
    assert json.loads(json.dumps(row)) == row


def test_accepted_answers_go_before_the_last_turn(taught):
    lyon = AcceptedCall(name="get_weather", arguments={"city": ("Lyon",)})
    both = AcceptedCall(name="get_weather", arguments={"city": ("Lyon", "PARIS")})
    wrong = evaluate(taught, [replace(CALL, accepted=(lyon,))], max_new_tokens=80)
    right = evaluate(taught, [replace(CALL, accepted=(both,))], max_new_tokens=80)
    assert (wrong.metrics["exact_match"], wrong.metrics["argument_f1"]) == (0, 0.5)
    assert right.metrics["exact_match"] == 1


def test_an_example_that_ends_with_the_question_is_a_prompt_as_a_whole(taught):
    accepted = (AcceptedCall(name="get_weather", arguments={"city": ("Paris",)}),)
    asked = replace(CALL, messages=CALL.messages[:1], accepted=accepted)
    assert evaluate(taught, [asked], max_new_tokens=80).metrics["exact_match"] == 1


def test_a_call_where_none_is_accepted_is_spurious(taught):
    asked = replace(CALL, messages=CALL.messages[:1], accepted=())
    report = evaluate(taught, [asked], max_new_tokens=80)
    assert report.metrics["spurious"] == 1
    assert "name_accuracy" not in report.metrics
    assert "rouge_l" not in report.metrics


def test_a_call_of_a_tool_that_was_not_offered_is_hallucinated(taught):
    other = {"type": "function", "function": {**TOOL["function"], "name": "get_weathe"}}
    row = evaluate(taught, [replace(CALL, tools=(other,))], max_new_tokens=80).rows[0]
    made = {call["name"] for call in row["calls"]}
    assert row["hallucinated"] is bool(made - {"get_weathe"})


def test_all_steps_follow_the_right_history(taught):
    report = evaluate(taught, [CHAT], steps="all", max_new_tokens=80)
    assert [row["step"] for row in report.rows] == [1, 3]
    assert report.metrics["exact_match"] == 1
    assert report.metrics["rouge_l"] == 1
    assert (report.counts["examples"], report.counts["steps"]) == (1, 2)


def test_the_last_step_alone_is_the_default(taught):
    assert [row["step"] for row in evaluate(taught, [CHAT], max_new_tokens=80).rows] == [3]


def test_all_steps_of_an_example_with_accepted_calls_score_the_last_by_them(taught):
    accepted = (AcceptedCall(name="get_weather", arguments={"city": ("Rome",)}),)
    example = replace(CHAT, messages=CHAT.messages[:3], accepted=accepted)
    rows = evaluate(taught, [example], steps="all", max_new_tokens=80).rows
    assert [row["step"] for row in rows] == [1, 3]
    assert [row["right_calls"][0]["arguments"]["city"] for row in rows] == [["Paris"], ["Rome"]]


def test_another_models_words_are_no_step(taught):
    foreign = replace(CHAT.messages[1], trained=False)
    example = replace(CHAT, messages=(CHAT.messages[0], foreign, *CHAT.messages[2:]))
    assert [r["step"] for r in evaluate(taught, [example], steps="all").rows] == [3]


def test_a_model_whose_turns_end_in_no_single_token_is_stopped_by_the_string():
    tokenizer = tiny_tokenizer(special=(), eos="<|endoftext|>")
    loaded = load(tokenizer, tiny_model(tokenizer))
    assert Renderer(tokenizer).stop_strings
    with torch.random.fork_rng():
        learn(loaded, [CALL, WORDS])
    report = evaluate(loaded, [CALL, WORDS], max_new_tokens=120)
    assert report.metrics["exact_match"] == 1
    assert report.metrics["rouge_l"] == 1
    assert report.metrics["cut_off"] == 0


def test_nothing_that_says_what_is_right_is_an_error(untaught):
    asked = replace(CALL, messages=CALL.messages[:1])
    with pytest.raises(DataError, match=r"data\.jsonl:1: no assistant turn"):
        evaluate(untaught, [asked])


def test_an_example_that_the_template_refuses_is_named():
    tokenizer = tiny_tokenizer()
    refuses = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not so') }}{% endif %}"
    tokenizer.chat_template = refuses + tokenizer.chat_template
    loaded = load(tokenizer, tiny_model(tokenizer))
    with pytest.raises(RenderError, match=r"data\.jsonl:2.*not so"):
        evaluate(loaded, [replace(WORDS, messages=(user("no"), says("well")), tools=())])


def test_a_wrong_choice_of_steps_lists_the_right_ones(untaught):
    with pytest.raises(ConfigError, match="'first'; legal values are last, all"):
        evaluate(untaught, [CALL], steps="first")


# Report


def test_the_table_shows_how_little_a_few_examples_say():
    measures = {
        "name_accuracy": metrics.rate(8, 10),
        "argument_f1": metrics.mean([0.5, 1.0]),
    }
    report = Report(measures=measures, rows=(), examples=10)
    assert report.table().splitlines() == [
        "                           95% interval        n",
        "right tool names  80.0%  49.0% to 94.3%  8 of 10",
        "argument F1       0.750                        2",
    ]


def test_a_written_report_reads_back(tmp_path):
    rows = ({"id": "1", "answer": "é \ud83d"}, {"id": "2", "answer": "\n"})
    report = Report(measures={"name_accuracy": metrics.rate(1, 2)}, rows=rows, examples=2)
    report.write(tmp_path / "new")
    lines = (tmp_path / "new" / "examples.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(rows)
    assert "é" in lines[0]
    found = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert found["counts"] == {"examples": 2, "steps": 2, "name_accuracy": 2}
    assert found["metrics"]["name_accuracy"]["hits"] == 1
    assert found["metrics"]["name_accuracy"]["low"] == pytest.approx(0.0945, abs=1e-4)


# Loss


def test_loss_is_that_of_a_loop_over_tokens(untaught):
    rows = [row for e in (CALL, WORDS, CHAT) for row in Renderer(untaught.tokenizer).rows(e)]
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = untaught.model(torch.tensor([row.ids])).logits[0].double()
            for place in range(1, len(row.ids)):
                if row.trained[place]:
                    nats -= float(logits[place - 1].log_softmax(-1)[row.ids[place]])
                    tokens += 1
    told = []
    found = evaluate_loss(
        untaught, rows, batch_size=2, on_progress=lambda done, total: told.append((done, total))
    )
    assert found.tokens == tokens
    assert found.loss == pytest.approx(nats / tokens, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert told == [(2, 3), (3, 3)]


def test_what_was_learned_has_a_perplexity_near_one(taught):
    rows = Renderer(taught.tokenizer).rows(CALL)
    assert 1 <= evaluate_loss(taught, rows).perplexity < 1.1


def test_loss_is_measured_without_dropout_and_training_goes_on(untaught):
    rows = Renderer(untaught.tokenizer).rows(WORDS)
    expected = evaluate_loss(untaught, rows)
    untaught.model.config.attention_dropout = 0.9
    untaught.model.train()
    try:
        assert evaluate_loss(untaught, rows) == expected
        assert untaught.model.training
    finally:
        untaught.model.eval()


def test_the_loss_of_no_rows_is_an_error(untaught):
    with pytest.raises(DataError, match="no tokens"):
        evaluate_loss(untaught, [])


# Progress


def test_off_a_terminal_progress_is_a_line_at_the_end():
    console = Console(file=io.StringIO(), width=200)
    with progress("examples", console) as on_progress:
        on_progress(1, 3)
        on_progress(3, 3)
    assert console.file.getvalue() == "examples: 3 of 3\n"


def test_on_a_terminal_progress_is_a_bar():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with progress("examples", console) as on_progress:
        on_progress(3, 3)
    assert "3/3" in console.file.getvalue()
