"""Trajectories for tests of planner, caller and summarizer."""

from typing import Any

from agent_finetune.records import Example, Message, ToolCall


def tool(name: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {
        "type": "function",
        "function": {"name": name, "description": f"describes {name}", "parameters": schema},
    }


def user(text: str) -> Message:
    return Message(role="user", text=text)


def says(text: str = "", *calls: ToolCall, **more: Any) -> Message:
    return Message(role="assistant", text=text, tool_calls=calls, **more)


def result(text: str) -> Message:
    return Message(role="tool", text=text)


TOOLS = (tool("get_weather", city="string"), tool("set_alarm", time="string"))
WEATHER = ToolCall(name="get_weather", arguments={"city": "Lisbon"})
ALARM = ToolCall(name="set_alarm", arguments={"time": "7:00"})
ASKED = user("What is the weather in Lisbon?")
TOLD = result('{"sky": "clear", "high": 24}')
TWO_STEPS = Example(
    id="two",
    source="t.jsonl:1",
    tools=TOOLS,
    messages=(
        ASKED,
        says("get_weather tells it.", WEATHER),
        TOLD,
        says("It is clear.", thinking="The result has it."),
    ),
)
"""A call, its thought as words, and a conclusion, its thought as thinking."""
GIVES_UP = Example(
    id="up",
    source="t.jsonl:2",
    tools=TOOLS,
    messages=(user("Book a flight."), says("give up", thinking="No function books flights.")),
)
LONG = Example(
    id="long",
    source="t.jsonl:3",
    tools=TOOLS,
    messages=(
        Message(role="system", text="Be kind."),
        *TWO_STEPS.messages,
        user("Once more, and wake me at seven there."),
        says("", WEATHER, ALARM),
        TOLD,
        result("set"),
        says("All is set."),
        user("Now fly me there."),
        says("No function flies.\nNext: give up."),
    ),
)
"""Three requests, a system message, two calls in one turn, and thoughts that are empty."""
