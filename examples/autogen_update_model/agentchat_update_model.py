"""Feedback on a run teaches the model behind an agent of AutoGen 0.4 and later.

The same as `autogen_update_model.py` with agentchat: an assistant answers, is told what the answer
should have been, learns that, and is asked again; then what was learned is taken back.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from autogen_agentchat.agents import AssistantAgent

from agent_finetune.errors import FinetuneError
from agent_finetune.update.options import UpdateConfig
from autogen_finetune.agentchat import HFChatCompletionClient, update_model

QUESTION = "Who are you, and what can you do for me?"
BETTER = "this is what the response should have been like"
LEARNING = UpdateConfig()
"""How to learn, and what the gate demands of what was learned."""


def progress(line):
    if "loss" in line:
        told = f"step {line['step']}, epoch {line['epoch']:.0f}, loss {line['loss']:.3f}"
        print(f"  {told}, {line['seconds']:.0f} s", flush=True)


async def converse(options):
    client = HFChatCompletionClient(
        options.model,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        store=str(options.store),
    )
    agent = AssistantAgent("assistant", client, system_message="You are a helpful assistant.")

    async def ask():
        await agent.model_context.clear()  # each time as if for the first
        run = await agent.run(task=options.ask)
        print(f"user: {options.ask}\nassistant: {run.messages[-1].content}\n", flush=True)
        return run

    run = await ask()
    before = run.messages[-1].content
    print("The assistant's model learns from one preference.")
    told = await update_model(
        agent, [(options.better, before)], run, config=LEARNING, on_progress=progress
    )
    stats = told["update_stats"]
    print(f"{stats['summary']}\n")
    after = (await ask()).messages[-1].content
    if stats["accepted"]:
        print("What was learned is taken back.\n")
        client.live.roll_back()
    again = (await ask()).messages[-1].content
    await client.close()

    print(f"before     {before!r}")
    print(f"wanted     {options.better!r}")
    print(f"after      {after!r}")
    print(f"rolled back {'to what it was' if again == before else repr(again)}")
    print(f"adapter    {stats['adapter']}")
    return stats["accepted"] and after != before and again == before


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="hub id, folder or GGUF file")
    # Greedy answers in bfloat16 may differ by rounding alone, and here answers are compared.
    add("--dtype", default="float32", help="number format of the weights; auto for large models")
    add("--ask", default=QUESTION, help="what the user asks")
    add("--better", default=BETTER, help="what the answer should have been")
    add("--max-tokens", type=int, default=64, help="most tokens of an answer")
    add("--store", type=Path, default=Path("adapters"), help="where what is learned is kept")
    options = parser.parse_args(argv)
    try:
        return 0 if asyncio.run(converse(options)) else 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except FinetuneError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
