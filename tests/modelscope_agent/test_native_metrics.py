"""Metrics for ModelScope's evaluation."""

import math
import pickle

import pytest
import torch

from agent_finetune.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def batch(seed, rows=2):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 6, 11, generator=generator)
    labels = torch.randint(0, 11, (rows, 6), generator=generator)
    labels[:, :2] = -100
    return {"logits": logits}, {"labels": labels}


def reference(*batches):
    """Token by token, as the definition has it."""
    nats = []
    for outputs, inputs in batches:
        chances = outputs["logits"].log_softmax(-1)
        for row, labels in zip(chances, inputs["labels"], strict=True):
            nats += [-row[t - 1, labels[t]].item() for t in range(1, 6) if labels[t] != -100]
    return math.exp(sum(nats) / len(nats))


def test_perplexity_weighs_every_token_the_same_in_every_batch_and_process():
    from modelscope_agent_train.metrics import PerplexityMetric

    first, second = batch(0), batch(1, rows=5)
    one, other = PerplexityMetric(), PerplexityMetric()
    one.add(*first)
    other.add(*second)
    one.merge(pickle.loads(pickle.dumps(other)))  # as ModelScope gathers them
    assert one.evaluate()["agent-ppl"] == pytest.approx(reference(first, second), rel=1e-5)


def test_calls_are_scored_whatever_form_they_are_written_in():
    from modelscope_agent_train.metrics import ToolMetric

    right = [{"name": "weather", "arguments": {"city": "Rome"}}]
    metric = ToolMetric()
    metric.add(
        {
            "preds": [
                '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>',
                '<|startofthink|>```JSON\n{"api_name": "weather", "parameters": {"city": "Oslo"}}'
                "\n```<|endofthink|>",
            ]
        },
        {"tgts": [right, right]},
    )
    found = metric.evaluate()
    assert found["exact_match"] == 0.5
    with pytest.raises(ConfigError, match="1 preds and 0 tgts"):
        metric.add({"preds": ["x"]}, {"tgts": []})


def test_scores_of_processes_are_put_together():
    from modelscope_agent_train.metrics import ToolMetric

    call = [{"name": "f", "arguments": {}}]
    one, other = ToolMetric(), ToolMetric()
    one.add({"preds": [call]}, {"tgts": [call]})
    other.add({"preds": ["no call"]}, {"tgts": [call]})
    one.merge(other)
    assert one.evaluate()["exact_match"] == 0.5
