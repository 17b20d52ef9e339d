"""Read a turn that a model generated: thinking, words, and calls of tools.

Known forms: a `<think>` block; Hermes blocks, `<tool_call>{"name": ..., "arguments": {...}}
</tool_call>`, any number of them; Llama-3's JSON, `{"name": ..., "parameters": {...}}`, several
divided by `;`, with `<|python_tag|>` or without; an answer that is nothing but JSON of calls, in
a code fence or bare; ReAct, `Action: name` and `Action Input: {...}`; MSAgent's
`<|startofthink|>{"api_name": ..., "parameters": {...}}<|endofthink|>`.
"""

from agent_finetune.toolcalls.stream import TextStream, parse
from agent_finetune.toolcalls.turn import ParsedTurn, Piece, joined

__all__ = ["ParsedTurn", "Piece", "TextStream", "joined", "parse"]
