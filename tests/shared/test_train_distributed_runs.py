"""Two processes under DeepSpeed have the losses, the checkpoints and the weights of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_jobs
from peft import PeftModel
from safetensors.torch import load_file
from train_jobs import losses, read
from transformers import AutoModelForCausalLM

from agent_finetune import train
from agent_finetune.train import folder

FILES = Path(__file__).parents[2] / "examples" / "modelscope_agent_train"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")

# Several sessions of a run with one start of two processes: each goes on from the one before.
RANK = """
import json, os, pathlib, sys
sys.path.insert(0, {helpers!r})
import train_jobs
from agent_finetune import train
options = json.loads({options!r})
out = pathlib.Path({out!r})
eval_rows = train_jobs.tokens(4, seed=1)
for steps, resume in {sessions!r}:
    result = train.fit(train_jobs.job(out, batch_size=2, eval_rows=eval_rows, max_steps=steps,
                                      resume=resume, **options))
# One write: torchrun starts Python unbuffered, and the pieces of two prints would mix.
os.write(1, b"steps %d\\n" % result.steps)
"""

COMMON = {"schedule": "constant", "warmup": 0.0, "save_steps": 3}


def two_processes(out, stage, *, sessions, **options):
    import json

    path = FILES / f"ds_stage_{stage}.json"
    if stage < 2:
        path = out.with_suffix(".json")
        path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    script = out.with_suffix(".py")
    script.write_text(
        RANK.format(
            helpers=str(Path(train_jobs.__file__).parent),
            options=json.dumps({**COMMON, "deepspeed": str(path), **options}),
            out=str(out),
            sessions=sessions,
        )
    )
    return subprocess.run(
        [*TORCHRUN, str(script)],
        capture_output=True,
        text=True,
        # A folder without a single extension in it: whatever is compiled would be found there.
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TORCH_EXTENSIONS_DIR": str(out.parent / "compiled"),
        },
        timeout=600,
    )


def one_process(out, *, steps, **options):
    job = train_jobs.job(
        out,
        batch_size=4,
        eval_rows=train_jobs.tokens(4, seed=1),
        max_steps=steps,
        **{**COMMON, **options},
    )
    train.fit(job)
    return job


def check_alike(out, one, ended, *, steps, stage):
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(f"steps {steps}") == 2
    assert losses(out) == pytest.approx(losses(one.out), abs=5e-4)
    assert len(losses(out)) == steps
    ours, theirs = (read(path / "metrics.json") for path in (out, one.out))
    assert ours["after"]["eval_loss"] == pytest.approx(theirs["after"]["eval_loss"], abs=5e-4)
    run = read(out / "run.json")
    assert run["model"]["processes"] == 2
    assert run["must_stay"]["ZeRO stage of deepspeed"] == stage
    assert run["train_tokens"] == read(one.out / "run.json")["train_tokens"]
    assert not (out.parent / "compiled").exists()


def check_checkpoints(out, *, parts):
    for _, checkpoint in folder.whole_checkpoints(out):
        (state,) = checkpoint.glob("global_step*")
        assert len(list(state.glob(parts))) == 2  # one of each process
        assert len(list(checkpoint.glob("rng_state_*.pth"))) == 2
    assert folder.whole_checkpoints(out)


def check_weights(ours, theirs):
    found, wanted = load_file(ours), load_file(theirs)
    assert found.keys() == wanted.keys()
    for name, weight in found.items():
        assert weight.dtype == wanted[name].dtype
        torch.testing.assert_close(weight, wanted[name], atol=1e-4, rtol=1e-3)


def scores(out):
    """Log-probabilities of some rows under an adapter that was written."""
    base = train_jobs.loaded().model
    model = PeftModel.from_pretrained(base, str(out / "adapter")).eval()
    ids = torch.tensor([row.ids[:6] for row in train_jobs.tokens(4, seed=2)])
    with torch.no_grad():
        return model(input_ids=ids).logits.log_softmax(-1)


@pytest.mark.filterwarnings("ignore::FutureWarning:peft")
def test_zero_2_has_the_losses_of_one_process_goes_on_and_answers_alike(tmp_path):
    one = one_process(tmp_path / "one", steps=6)
    out = tmp_path / "two"
    ended = two_processes(out, 2, sessions=[(3, False), (6, True)])
    check_alike(out, one, ended, steps=6, stage=2)
    check_checkpoints(out, parts="*_optim_states.pt")
    adapter = "adapter/adapter_model.safetensors"
    check_weights(out / adapter, one.out / adapter)
    torch.testing.assert_close(scores(out), scores(one.out), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "method"), [(3, "lora"), (3, "full"), (2, "full"), (1, "lora")])
def test_every_stage_has_the_losses_of_one_process_and_goes_on(tmp_path, stage, method):
    options = {"method": method, "learning_rate": 1e-2 if method == "lora" else 1e-3}
    one = one_process(tmp_path / "one", steps=6, **options)
    out = tmp_path / "two"
    ended = two_processes(out, stage, sessions=[(3, False), (6, True)], **options)
    check_alike(out, one, ended, steps=6, stage=stage)
    check_checkpoints(out, parts="*_optim_states.pt")
    name = "adapter/adapter_model" if method == "lora" else "model/model"
    check_weights(out / f"{name}.safetensors", one.out / f"{name}.safetensors")
    if method == "full":
        AutoModelForCausalLM.from_pretrained(out / "model")
    else:
        torch.testing.assert_close(scores(out), scores(one.out), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation": 2},
        {"gradient_checkpointing": True},
        {"eval_steps": 1, "patience": 2},
        {"save_only_model": True},
    ],
    ids=["accumulation", "checkpointing", "patience", "model_alone"],
)
def test_what_else_a_run_may_ask_for_works_in_parts(tmp_path, stage, options):
    one = one_process(tmp_path / "one", steps=4, **options)
    out = tmp_path / "two"
    ended = two_processes(out, stage, sessions=[(4, False)], **options)
    # With patience both stop early, at the same step, and keep the same one.
    check_alike(out, one, ended, steps=len(losses(one.out)), stage=stage)
    adapter = "adapter/adapter_model.safetensors"
    check_weights(out / adapter, one.out / adapter)
