"""Steps in the raw text of 2023, by a model that has learned some by heart."""

import pytest
import torch

from agent_finetune import collate
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel
from agent_finetune.errors import DataError
from agent_finetune.records import Row
from agent_finetune.testing import tiny_model, tiny_tokenizer
from modelscope_agent_train import legacy
from modelscope_agent_train.evaluation.legacy_text import evaluate_text

SYSTEM = '1. {"name": "get_weather", "description": "w", "parameters": [{"name": "city"}]}'
CALL = (
    '<|startofthink|>```JSON\n{"api_name": "get_weather", "parameters": {"city": "Paris"}}\n'
    "```<|endofthink|>"
)


def raw(*said):
    roles = ("system", *("user", "assistant") * 9)
    turns = [
        {"from": role, "value": text} for role, text in zip(roles, (SYSTEM, *said), strict=False)
    ]
    return legacy.example(legacy.read(Row(source="d.jsonl:1", data={"conversations": turns})))


GOOD = raw(
    "weather?", f"{CALL}\n\n<|startofexec|>```JSON\nsun\n```<|endofexec|>\nthe weather is sun"
)


@pytest.fixture(scope="module")
def taught():
    """Plain torch, until the conversation is known by heart."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny_model(tokenizer)
        rows = legacy.rows(tokenizer, legacy.conversation(GOOD), 2048, "error").rows
        batch = collate.pad(rows, pad_id=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(200):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if loss < 0.01:
                break
    assert loss < 0.01
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        resolved=ResolvedModel(name="tiny", location="tiny"),
        config=ModelConfig(model="tiny"),
        device="cpu",
        dtype="float32",
        digest="sha256:tiny",
    )


def test_a_model_that_learned_the_text_gets_full_marks_in_both_countings(taught):
    report = evaluate_text(taught, [GOOD], max_new_tokens=120, numbers=True)
    assert report.metrics["exact_match"] == report.metrics["rouge_l"] == 1
    assert report.metrics["schema_valid"] == 1
    assert report.metrics["cut_off"] == 0
    assert (report.legacy.action_em, report.legacy.input_em) == (1, 1)
    assert report.legacy.rouge == pytest.approx(1)
    first, second = report.rows
    assert first["answer"].endswith("<|endofthink|>")
    assert first["prompt_end"].endswith("weather?\n\n<|assistant|>:")
    assert second["answer"].strip() == "the weather is sun"  # no </s>


def test_a_recorded_call_is_repaired_or_left_out_and_counted(taught):
    raw_line = CALL.replace("Paris", "Pa\nris")
    torn = CALL.replace('"Paris"}}', "")
    ended = "\n\n<|startofexec|>x<|endofexec|>\ndone"
    report = evaluate_text(taught, [raw("a", raw_line + ended), raw("b", torn + ended)])
    assert report.rows[0]["right_calls"][0]["arguments"] == {"city": ["Pa\nris"]}
    assert report.unusable == 1
    with pytest.raises(DataError, match="none of 1 steps"):
        evaluate_text(taught, [raw("b", torn)])
