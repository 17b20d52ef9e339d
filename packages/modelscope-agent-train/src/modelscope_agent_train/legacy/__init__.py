r"""The text that ModelScope's script of 2023 trained on, byte for byte, without its faults.

A conversation is one text: `<|system|>:`, then for each turn `\n\n<|user|>:` and
`\n\n<|assistant|>:`, the answer with its calls and results in it, and `\n\n</s>`. All that the
assistant's text holds is trained, its header too, but no `<|startofexec|>...<|endofexec|>` block.

What differs from 2023: ids are the ones that are served, the model's own end of sequence is
trained behind `</s>`, nothing is cut from the left, and a row that is not well formed is refused.
"""

from modelscope_agent_train.legacy.form import LegacyStep, steps, text_pieces
from modelscope_agent_train.legacy.reading import Conversation, LeftOut, Turn, read
from modelscope_agent_train.legacy.running import (
    FORMAT,
    conversation,
    example,
    read_for_run,
    read_source,
    rows_of,
)
from modelscope_agent_train.legacy.template import TEMPLATE, template
from modelscope_agent_train.legacy.tokens import Stop, prompt_ids, rows, stop

__all__ = [
    "FORMAT",
    "TEMPLATE",
    "Conversation",
    "LeftOut",
    "LegacyStep",
    "Stop",
    "Turn",
    "conversation",
    "example",
    "prompt_ids",
    "read",
    "read_for_run",
    "read_source",
    "rows",
    "rows_of",
    "steps",
    "stop",
    "template",
    "text_pieces",
]
