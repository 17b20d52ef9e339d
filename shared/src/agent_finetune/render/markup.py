"""Markup of model families that TRL's response templates do not know, or read wrongly."""

from __future__ import annotations

from typing import Any

import regex

from agent_finetune.toolcalls.forms import Region, literal
from agent_finetune.toolcalls.reading import read_arguments, read_python_calls

ALIKE = (
    ("<tool_call>\n<function=", "qwen3_5_think"),
    ("<|tool_call>call:", "gemma4"),
    ("<|tool_call_start|>[", "lfm2_v2"),
    ("to=functions.", "gptoss"),
)
"""What a template prints before a call's name, and the chat template of TRL's that does so too:
TRL knows a family only by its unchanged chat template."""

PYTHON_BLOCK = Region(
    kind="call",
    open=literal("<|tool_call_start|>"),
    close=literal("<|tool_call_end|>"),
    read=lambda block: read_python_calls(block.body),
)
"""LFM's calls. TRL's pattern takes the comma between two calls for an opening, and so any other
comma with a name and a parenthesis behind it."""

HARMONY = (
    Region(kind="text", open=literal("<|channel|>commentary<|message|>"), close=literal("<|end|>")),
    Region(
        kind="call",
        open=regex.compile(
            r"(?:<\|start\|>assistant)?<\|channel\|>(?:commentary|analysis) "
            r"to=functions\.(?P<name>[^\s<]+)[^<]*(?:<\|constrain\|>\w+)?<\|message\|>"
        ),
        read=lambda block: read_arguments(block.name, block.body),
    ),
)
"""What gpt-oss says and TRL's template for it does not know: words before a call, and the order
in which the recipient follows the channel."""

ATEM_CALL = '<atem:invoke name="'

ATEM: dict[str, Any] = {
    "start_anchor": "<|start|>assistant",
    "fields": {
        "thinking": {"open_pattern": r"\s*to=self<\|message\|>", "close": "<|eom|>"},
        "content": {"open_pattern": r"\s*to=user<\|message\|>", "close": "<|eom|>"},
        "tool_calls": {
            "open_pattern": r"(?:\s*to=[^\s<]+<\|message\|>\s*<atem:function_calls>\s*)?"
            r'<atem:invoke name="(?P<name>[^"]+)">',
            "close": "</atem:invoke>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r'<atem:parameter name="(?P<key>[^"]+)">'
                r"(?P<value>.*?)</atem:parameter>"
            },
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
    },
}
"""Response template of Muse Glimmer, for which TRL has none."""

ATEM_ENDS = Region(kind="markup", open=regex.compile(r"</atem:function_calls>|<\|eom\|>"))
"""What stands behind the calls of Muse Glimmer."""
