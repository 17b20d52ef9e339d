"""One conversation reaches the model as the same token ids, whichever AutoGen it comes through.

Agents of each host have it in their own way, tool call and all. What their models are asked is
compared with what is rendered of OpenAI's dicts, and so with each other.
"""

import asyncio

import pytest
from autogen_hosts import QUIET
from classic_agents import SCRIPT, TOOL, assistant, called, scripted, user

from agent_finetune.render import Renderer
from agent_finetune.testing import tiny_tokenizer
from autogen_finetune.oai import to_messages

pytestmark = QUIET

SYSTEM = "Be kind."
QUESTION = "Wie ist das Wetter in Köln? \N{SUN WITH FACE}\n\n  (short, please)"
THANKS = "Thanks"
ANSWERS = (called("Köln"), "It is sunny in Köln.", "You are welcome.")
FUNCTION = TOOL["function"]
NAME = FUNCTION["name"]


def get_weather(city: str) -> str:
    return f'"{city}": sunny, 20 °C\n'


def expected():
    """Prompts of the three answers, of OpenAI's own dicts."""
    function = {"name": NAME, "arguments": '{"city": "Köln"}'}
    turns = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": QUESTION},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": get_weather("Köln")},
        {"role": "assistant", "content": ANSWERS[1]},
        {"role": "user", "content": THANKS},
    ]
    renderer = Renderer(tiny_tokenizer())
    return [renderer.prompt_ids(to_messages(turns[:end]), [TOOL]) for end in (2, 4, 6)]


def through_classic(live):
    from autogen_finetune.registration import attach

    entry = {**SCRIPT, "tools": [TOOL]}
    helper, person = assistant("helper", entry), user(is_termination_msg=_has_no_calls)
    attach(helper, live=live)
    person.register_function({NAME: get_weather})
    person.initiate_chat(helper, message=QUESTION)
    person.send(THANKS, helper)


def _has_no_calls(message):
    return not message.get("tool_calls")


def through_agentchat(live):
    from agentchat_clients import HFChatCompletionClient
    from autogen_agentchat.agents import AssistantAgent
    from autogen_core.tools import FunctionTool

    class Weather(FunctionTool):
        @property
        def schema(self):
            return FUNCTION

    helper = AssistantAgent(
        "helper",
        HFChatCompletionClient("script", live=live),
        tools=[Weather(get_weather, FUNCTION["description"], name=NAME)],
        system_message=SYSTEM,
        max_tool_iterations=2,
    )

    async def talk():
        await helper.run(task=QUESTION)
        await helper.run(task=THANKS)

    asyncio.run(talk())


def through_ag2(live):
    from ag2_agents import Agent, HFConfig, tool

    weather = tool(
        get_weather,
        description=FUNCTION["description"],
        schema=dict(FUNCTION["parameters"]),
        sync_to_thread=False,
    )
    helper = Agent("helper", SYSTEM, config=HFConfig("script", live=live), tools=[weather])

    async def talk():
        await (await helper.ask(QUESTION)).ask(THANKS)

    asyncio.run(talk())


@pytest.mark.parametrize("talk", [through_classic, through_agentchat, through_ag2])
def test_a_conversation_is_the_same_token_ids_whichever_autogen_it_comes_through(talk):
    live = scripted(*ANSWERS)
    talk(live)
    prompts = [exchange.result.message.generation.prompt_ids for exchange in live.log()]
    assert prompts == expected()
