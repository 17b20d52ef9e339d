"""The 2023 form as a chat template, so that any host can serve a model that was trained on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from modelscope_agent_train.legacy.form import (
    ASSISTANT,
    END,
    EXEC,
    EXEC_END,
    SYSTEM,
    THINK,
    THINK_END,
    USER,
    WRITTEN_END,
)
from modelscope_agent_train.legacy.tokens import beginning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INTRO = (
    f"You can call the plugins below. To call one, write its call as JSON with the fields api_name "
    f"and parameters between {THINK} and {THINK_END}; then answer with what it returns.\n\n"
)
"""Told to the model where there are plugins and no system message that speaks of them."""

_PLUGIN = """
{%- set f = tool.function if tool.function is defined else tool -%}
{%- set schema = f['parameters'] or {} -%}
{%- set made = namespace(list=[], flat=true) -%}
{%- for key in schema -%}
  {%- if key not in ['type', 'properties', 'required'] -%}{%- set made.flat = false -%}{%- endif -%}
{%- endfor -%}
{%- for name, value in (schema['properties'] or {}).items() -%}
  {%- if value is not mapping or 'name' in value or 'required' in value -%}
    {%- set made.flat = false -%}
  {%- else -%}
    {%- set needed = 'True' if name in (schema['required'] or []) else 'False' -%}
    {%- set made.list = made.list + [dict(dict(name=name, **value), required=needed)] -%}
  {%- endif -%}
{%- endfor -%}
{{- '' if loop.first else LF + LF -}}
{{- loop.index ~ '. ' ~ (dict(name=f['name'], description=f['description'] or '',
    parameters=made.list if made.flat else schema) | tojson) -}}
"""
"""A plugin with a list of parameters, or with its schema where a list would lose something."""

_MESSAGE = """
{%- set content = message['content'] or '' -%}
{%- set before = '' if loop.first else loop.previtem['role'] -%}
{%- if message['role'] == 'system' -%}
  {{- '' if loop.first else LF + LF + SYSTEM + content -}}
{%- elif message['role'] == 'user' -%}
  {{- USER + content -}}
{%- elif message['role'] == 'tool' -%}
  {{- (LF if before == 'tool' else LF + LF) + EXEC + FENCE + content + UNFENCE + EXEC_END -}}
{%- else -%}
  {{- (LF if before == 'tool' else ASSISTANT) + content -}}
  {%- if message['tool_calls'] -%}
    {%- if message['tool_calls'] | length > 1 -%}
      {{- raise_exception('this form says one call a turn') -}}
    {%- endif -%}
    {%- set call = message['tool_calls'][0] -%}
    {%- set call = call.function if call.function is defined else call -%}
    {%- set given = call['arguments'] -%}
    {{- (LF if content else '') + THINK + FENCE + '{"api_name": ' + (call['name'] | tojson)
        + ', "parameters": ' + (given if given is string else given | tojson) + '}'
        + UNFENCE + THINK_END -}}
  {%- else -%}
    {{- END + ('' if eos_token == WRITTEN_END else eos_token) -}}
  {%- endif -%}
{%- endif -%}
"""

_WHOLE = """
{{- SYSTEM -}}
{%- set told = messages[0]['content'] or '' if messages[0]['role'] == 'system' else '' -%}
{{- told -}}
{%- if tools -%}
  {{- LF + LF if told else INTRO -}}
  {%- for tool in tools -%}PLUGIN{%- endfor -%}
{%- endif -%}
{%- for message in messages -%}MESSAGE{%- endfor -%}
{%- if add_generation_prompt and messages[-1]['role'] != 'tool' -%}{{- ASSISTANT -}}{%- endif -%}
"""

_NAMES = {
    "LF": "\n",
    "SYSTEM": SYSTEM,
    "USER": USER,
    "ASSISTANT": ASSISTANT,
    "END": END,
    "WRITTEN_END": WRITTEN_END,
    "THINK": THINK,
    "THINK_END": THINK_END,
    "EXEC": EXEC,
    "EXEC_END": EXEC_END,
    "FENCE": "```JSON\n",
    "UNFENCE": "\n```",
    "INTRO": INTRO,
}


def _written() -> str:
    source = _WHOLE.replace("PLUGIN", _PLUGIN.strip()).replace("MESSAGE", _MESSAGE.strip())
    lines = "".join(line.strip() + " " for line in source.splitlines() if line)
    # Outside of tags stands nothing: every tag trims the blanks around it.
    names = "".join(
        "{%- set " + name + " = " + json.dumps(text) + " -%}" for name, text in _NAMES.items()
    )
    return names + lines.strip()


TEMPLATE = _written()
"""Jinja, for tokenizers that put nothing before a text; `template` knows the others.

Plugins stand as MSAgent's numbered list behind the system message, a call between the tags of
thinking, a result between those of execution. It says one call a turn, as serving stops there.
"""


def template(tokenizer: PreTrainedTokenizerBase) -> str:
    """`TEMPLATE`, behind what the tokenizer puts before every text.

    Raises:
        RenderError: No text stands for what it puts there.
    """
    begins = beginning(tokenizer)
    return "{{- " + json.dumps(begins) + " -}}" + TEMPLATE if begins else TEMPLATE
