"""Small training jobs, shared by the tests of training and by the processes that they start."""

import json
import random
from dataclasses import replace

from agent_finetune import testing
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, TrainJob
from agent_finetune.records import PairTokens, Tokens, VerdictTokens
from agent_finetune.train import history


def tokens(count, seed=0, shortest=6, longest=20):
    """Rows of random ids; the second half of each is trained."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        length = draw.randint(shortest, longest)
        rows.append(
            Tokens(
                ids=tuple(draw.randint(10, 300) for _ in range(length)),
                trained=tuple(place >= length // 2 for place in range(length)),
                sections=(None,) * length,
                source=f"rows.jsonl:{index + 1}",
            )
        )
    return tuple(rows)


def pairs(count, seed=0):
    """Pairs of random ids, which no text is tokenized to."""
    draw = random.Random(seed)
    return tuple(
        PairTokens(
            prompt=ids(draw, 3, 8),
            chosen=ids(draw, 2, 6),
            rejected=ids(draw, 2, 6),
            source=f"pairs.jsonl:{index + 1}",
        )
        for index in range(count)
    )


def verdicts(count, seed=0, bad_every=3):
    """Judged answers of random ids; every third is bad."""
    draw = random.Random(seed)
    return tuple(
        VerdictTokens(
            prompt=ids(draw, 3, 8),
            completion=ids(draw, 2, 6),
            good=bool((index + 1) % bad_every),
            source=f"verdicts.jsonl:{index + 1}",
        )
        for index in range(count)
    )


def ids(draw, shortest, longest):
    return tuple(draw.randint(10, 300) for _ in range(draw.randint(shortest, longest)))


def loaded(folder="tiny", *, dtype="float32", **config):
    tokenizer = testing.tiny_tokenizer()
    model = testing.tiny_model(tokenizer)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        resolved=ResolvedModel(name=str(folder), location=str(folder)),
        config=ModelConfig(model=str(folder), device="cpu", **config),
        device="cpu",
        dtype=dtype,
        digest="sha256:0",
    )


def job(out, *, train_rows=None, eval_rows=(), lora=None, model=None, **train):
    options = {"batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "save_steps": 100} | train
    held = {"eval_share": 0.1} if eval_rows else {}
    return TrainJob(
        config=RunConfig(
            model=ModelConfig(model="tiny", device="cpu"),
            data=DataConfig(data="rows.jsonl", **held),
            out=str(out),
            lora=lora or AdapterConfig(rank=4),
            train=TrainConfig(**options),
        ),
        loaded=model or loaded(),
        train_rows=tokens(16) if train_rows is None else train_rows,
        eval_rows=eval_rows,
        out=out,
    )


def with_train(job, **changes):
    """The same job with other settings, on a fresh model."""
    config = replace(job.config, train=replace(job.config.train, **changes))
    return replace(job, config=config, loaded=loaded())


def losses(out):
    return [line["loss"] for line in history.read(out / "history.jsonl") if "loss" in line]


def read(path):
    return json.loads(path.read_text())
