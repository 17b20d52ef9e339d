"""Feedback on a chat teaches the model behind an agent of classic AutoGen.

A user asks an assistant, says what the answer should have been, lets the assistant's model learn
that, and asks again. Then what was learned is taken back. Nobody has to be at the keyboard.
"""

import argparse
import sys
from pathlib import Path

from autogen import AssistantAgent, UserProxyAgent

from agent_finetune.errors import FinetuneError
from agent_finetune.update.options import UpdateConfig
from autogen_finetune import HFModelClient, llm_config, update_model

QUESTION = "Who are you, and what can you do for me?"
BETTER = "this is what the response should have been like"
LEARNING = UpdateConfig()
"""How to learn, and what the gate demands of what was learned."""


def open_agents(options):
    """The two of AutoGen's example; the model is loaded with the first answer."""
    config = llm_config(
        options.model,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        store=str(options.store),
    )
    assistant = AssistantAgent(
        "assistant",
        system_message="You are a helpful assistant.",
        human_input_mode="NEVER",
        llm_config=config,
    )
    assistant.register_model_client(model_client_cls=HFModelClient)
    user_proxy = UserProxyAgent(
        "user_proxy",
        human_input_mode="NEVER",
        max_consecutive_auto_reply=1,
        code_execution_config=False,
        llm_config=False,
    )
    return assistant, user_proxy


def progress(line):
    if "loss" in line:
        told = f"step {line['step']}, epoch {line['epoch']:.0f}, loss {line['loss']:.3f}"
        print(f"  {told}, {line['seconds']:.0f} s", flush=True)


def converse(options):
    assistant, user_proxy = open_agents(options)

    def ask():
        return user_proxy.initiate_chat(assistant, message=options.ask, max_turns=1).summary

    response_content = ask()
    preference_data = [(options.better, response_content)]
    print("\nThe assistant's model learns from one preference.")
    told = update_model(
        assistant, preference_data, user_proxy, config=LEARNING, on_progress=progress
    )
    stats = told["update_stats"]
    print(f"{stats['summary']}\n")
    after = ask()

    live = assistant.client._clients[0].live
    if stats["accepted"]:
        print("\nWhat was learned is taken back.\n")
        live.roll_back()
    again = ask()
    live.close()

    print(f"\nbefore     {response_content!r}")
    print(f"wanted     {options.better!r}")
    print(f"after      {after!r}")
    print(f"rolled back {'to what it was' if again == response_content else repr(again)}")
    print(f"adapter    {stats['adapter']}")
    changed = after != response_content
    return stats["accepted"] and changed and again == response_content


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
        return 0 if converse(options) else 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except FinetuneError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
