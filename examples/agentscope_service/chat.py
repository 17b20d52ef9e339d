"""An agent on a local model in AgentScope's console, or with --tui in its full-screen interface."""

import argparse
import asyncio

from agentscope.agent import Agent, InjectionConfig
from agentscope.console import launch_console

from agentscope_finetune import TransformersChatModel

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2-135m-instruct")
parser.add_argument("--max-tokens", type=int, default=128)
parser.add_argument("--tui", action="store_true", help='needs pip install "agentscope[tui]"')
options = parser.parse_args()

agent = Agent(
    name="Friday",
    system_prompt="You are Friday.",
    model=TransformersChatModel(
        model=options.model,
        parameters=TransformersChatModel.Parameters(max_tokens=options.max_tokens),
    ),
    # A small model takes the time of day for the question.
    injection_config=InjectionConfig(inject_runtime_state=False),
)
if options.tui:
    from agentscope.tui import launch_tui

    asyncio.run(launch_tui(agent))
else:
    asyncio.run(launch_console(agent))
