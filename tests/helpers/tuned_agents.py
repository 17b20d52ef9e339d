"""AgentScope agents on tiny models, and data that changes their answers, for tests.

As a program: an agent that trains before its first answer, until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from agentscope.agent import Agent, InjectionConfig
from agentscope_models import chat_model, user

from agentscope_finetune.agent import FineTuneAgent

PROMPT = "You are a helpful assistant."
QUESTION = "What is the weather in Paris?"
TRAINING = {"max_steps": 4, "learning_rate": 0.05, "per_device_train_batch_size": 2}
QUICK = {"lora_config": {"r": 4, "lora_alpha": 8}, "training_args": TRAINING}
"""A fine_tune_config that is done in a moment and changes answers."""
LONG = {**QUICK, "training_args": {**TRAINING, "max_steps": 200, "save_steps": 200}}
"""One that leaves time to be interrupted."""
STILL = InjectionConfig(inject_runtime_state=False)
"""No time in the prompt, so that the same question has the same answer."""


def make_agent(model, name="friend", **options) -> Agent:
    """A plain agent; `model` is a folder or a chat model."""
    if isinstance(model, (str, Path)):
        model = chat_model(model)
    return Agent(name, PROMPT, model, injection_config=STILL, **options)


def make_tunable(**options) -> FineTuneAgent:
    if "model" not in options:
        options["device"] = "cpu"
    return FineTuneAgent("friend", PROMPT, injection_config=STILL, **options)


def write_rows(path: Path, count: int = 8) -> Path:
    """Dolly rows, which have no system prompt."""
    rows = [
        {"instruction": f"{QUESTION} {n}", "context": "", "response": "tool tool", "category": "x"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def say(agent: Agent, text: str = QUESTION) -> str | None:
    """What an agent answers to a question before which nothing was said."""
    agent.state.context.clear()
    return (await agent.reply(user(text))).get_text_content()


def main(model: str, adapter: str, data: str, output: str) -> None:
    agent = make_tunable(
        **continued(model, adapter, data, output),
        on_progress=lambda line: print(json.dumps(line), flush=True),
    )
    print(asyncio.run(say(agent)), flush=True)


def continued(model: object, adapter: object, data: object, output: object) -> dict[str, object]:
    """Arguments of an agent whose adapter goes on training before the first answer."""
    return {
        "model_id": str(model),
        "local_model_path": str(adapter),
        "data_path": str(data),
        "output_dir": str(output),
        "fine_tune_config": {**LONG, "continue_lora_finetuning": True, "max_length": 8},
    }


if __name__ == "__main__":
    main(*sys.argv[1:5])
