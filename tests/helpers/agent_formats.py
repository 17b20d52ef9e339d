"""Reading rows of one format in tests, as the kernel would."""

from agent_finetune.records import Example, Row
from modelscope_agent_train.formats import FORMATS


def read(format: str, row: dict) -> Example:
    return FORMATS[format].read_row(Row(source="a.jsonl:1", data=row))


def turns(example: Example) -> list:
    """Role, text and calls of every message."""
    return [
        (m.role, m.text, [(call.name, dict(call.arguments)) for call in m.tool_calls])
        for m in example.messages
    ]


def functions(example: Example) -> list:
    """Name and parameters of every tool."""
    return [(tool["function"]["name"], tool["function"]["parameters"]) for tool in example.tools]


def trained(example: Example) -> list[str]:
    """Texts of the assistant turns that are trained."""
    return [m.text for m in example.messages if m.role == "assistant" and m.trained]
