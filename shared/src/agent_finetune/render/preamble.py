"""The Jinja of the adaptations: pieces that rewrite `messages` before a model's own template.

An adapted template is one string, `preamble + original`, so that whoever renders it (plain
Transformers, vLLM, this package) gets the same text. Each piece reads `messages` in the usual
form (content a string, arguments a dict, thinking under `reasoning_content` or `thinking`) and
leaves a new list under the same name. Every name that a piece binds starts with `fold`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from agent_finetune.render.folds import REASONS, Folds, names

CHATML = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{{{ message['content'] }}}}{end}\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
"""ChatML for a model without a template; `{end}` is what ends a turn."""

TOOLS_INTRO = (
    "You can call these functions:\n{listing}\n"
    "To call one, answer with its name and arguments like this:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)
"""What the system message says about tools; short, because every prompt token costs time."""

HIDDEN = "\ue0f1"
"""Private-use character that stands for `<` where a template would cut a thinking block out."""

OWN = "{#- the model's own template -#}{{ '' }}"
"""Stands between preamble and original; the empty print keeps the original's leading newline,
which a block tag before it would eat."""

_END_HIDDEN = "{% endfilter %}"
_HEADER = "{{#- adapted: {names} -#}}"
_HEADER_PATTERN = re.compile(r"^\{#- adapted: ([a-z0-9-]+(?:, [a-z0-9-]+)*) -#\}")


def adapted(original: str, folds: Folds, *, extra: Sequence[str] = ()) -> str:
    """The one string that renders `original` after the rewrites of `folds`.

    Args:
        original: The model's own template.
        folds: What to rewrite.
        extra: Names of adaptations made outside of `folds`, written into the header.
    """
    made = (*extra, *names(folds))
    if not made:
        return original
    header = _HEADER.format(names=", ".join(name for name in REASONS if name in made))
    pieces = [header]
    if folds.tools:
        pieces.append(_tools_piece())
    if folds.call_text != "native":
        pieces.append(_CALL_TEXT[folds.call_text])
    if folds.one_call:
        pieces.append(_ONE_CALL)
    if folds.thinking != "native":
        pieces.append(_thinking_piece(folds))
    pieces += [
        piece
        for wanted, piece in (
            (folds.system, _SYSTEM),
            (folds.merge, _MERGE),
            (folds.json_arguments, _JSON_ARGUMENTS),
            (folds.parts, _PARTS),
        )
        if wanted
    ]
    preamble = "".join(_one_line(piece) for piece in pieces)
    if folds.thinking != "hidden":
        return preamble + OWN + original
    shown = "{% filter replace(" + _quoted(HIDDEN) + ", '<') %}"
    return preamble + shown + OWN + original.removesuffix("\n") + _END_HIDDEN


def adaptation_names(template: str) -> tuple[str, ...]:
    """Names in the header of a template that `adapted` made; empty for any other template."""
    found = _HEADER_PATTERN.match(template)
    return tuple(found.group(1).split(", ")) if found else ()


def own_template(template: str) -> str:
    """The model's own template out of one that `adapted` made; any other is its own.

    Its last newline, which Jinja never prints, may be missing.
    """
    return template.partition(OWN)[2].removesuffix(_END_HIDDEN) if OWN in template else template


def _one_line(piece: str) -> str:
    """One line; every tag trims the blanks around it."""
    return re.sub(r"\n\s*", " ", piece).strip()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_TEXT = (
    "(m.content if m.content is string "
    "else m.content | default([], true) | map(attribute='text') | join)"
)

_TOOLS = (
    """
{%- set fold = namespace(out=[], results=[], listing='') -%}
{%- if tools -%}
  {%- for tool in tools -%}
    {%- set fold.listing = fold.listing + ('' if loop.first else LF)
        + ((tool.function if tool.function is defined else tool)
        | tojson(separators=(',', ':'))) -%}
  {%- endfor -%}
  {%- set fold.listing = BEFORE + fold.listing + AFTER -%}
  {%- if messages[0].role != 'system' -%}
    {%- set fold.out = [dict(role='system', content=fold.listing)] -%}
  {%- endif -%}
{%- endif -%}
{%- for m in messages -%}
  {%- set fold_text = TEXT -%}
  {%- if m.role == 'tool' -%}
    {%- set fold.results = fold.results
        + ['<tool_response>' + LF + fold_text + LF + '</tool_response>'] -%}
  {%- endif -%}
  {%- if fold.results and (m.role != 'tool' or loop.last) -%}
    {%- set fold.out = fold.out + [dict(role='user', content=fold.results | join(LF))] -%}
    {%- set fold.results = [] -%}
  {%- endif -%}
  {%- if m.role == 'system' and loop.first and fold.listing -%}
    {%- set fold_text = fold_text + (LF + LF if fold_text else '') + fold.listing -%}
    {%- set fold.out = fold.out + [dict(m, content=fold_text)] -%}
  {%- elif m.role == 'assistant' and m.tool_calls -%}
    {%- set fold_said = namespace(calls=[fold_text] if fold_text else []) -%}
    {%- for call in m.tool_calls -%}
      {%- set fold_call = call.function if call.function is defined else call -%}
      {%- set fold_arguments = fold_call.arguments if fold_call.arguments is string
          else fold_call.arguments | tojson -%}
      {%- set fold_said.calls = fold_said.calls + ['<tool_call>' + LF + '{"name": '
          + (fold_call.name | tojson) + ', "arguments": ' + fold_arguments + '}' + LF
          + '</tool_call>'] -%}
    {%- endfor -%}
    {%- set fold.out = fold.out + [dict(m.items() | rejectattr('0', 'eq', 'tool_calls') | list,
        content=fold_said.calls | join(LF))] -%}
  {%- elif m.role != 'tool' -%}
    {%- set fold.out = fold.out + [m] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = fold.out -%}
{%- set tools = none -%}
"""
).replace("TEXT", _TEXT)


def _tools_piece() -> str:
    before, after = TOOLS_INTRO.format(listing="\0").split("\0")
    piece = _TOOLS.replace("BEFORE", _quoted(before)).replace("AFTER", _quoted(after))
    return piece.replace("LF", r"'\n'")


_THOUGHT = "(m.reasoning_content or m.thinking or m.reasoning or '')"

_WITHOUT_THOUGHT = (
    "dict(m.items() | rejectattr('0', 'in', ['reasoning_content', 'thinking', 'reasoning']) | list"
)

_CALL_TEXT = {
    "out": """
{%- set fold = namespace(out=[]) -%}
{%- for m in messages -%}
  {%- set fold.out = fold.out + [dict(m, content='')
      if m.role == 'assistant' and m.tool_calls else m] -%}
{%- endfor -%}
{%- set messages = fold.out -%}
""",
    "thinking": """
{%- set fold = namespace(out=[]) -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' and m.tool_calls and m.content -%}
    {%- set fold_text = TEXT -%}
    {%- set fold_text = THOUGHT + (LF + LF if THOUGHT else '') + fold_text -%}
    {%- set fold.out = fold.out + [dict(m, content='', reasoning_content=fold_text,
        thinking=fold_text, reasoning=fold_text)] -%}
  {%- else -%}
    {%- set fold.out = fold.out + [m] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = fold.out -%}
""".replace("TEXT", _TEXT)
    .replace("THOUGHT", _THOUGHT)
    .replace("LF", r"'\n'"),
}

_ONE_CALL = """
{%- set fold = namespace(out=[], calls=[], results=[]) -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' and m.tool_calls and m.tool_calls | length > 1 -%}
    {%- set fold.calls = m.tool_calls -%}
    {%- set fold.results = [] -%}
  {%- elif m.role == 'tool' and fold.calls -%}
    {%- set fold.results = fold.results + [m] -%}
  {%- else -%}
    {%- set fold.calls = [] -%}
    {%- set fold.out = fold.out + [m] -%}
  {%- endif -%}
  {%- if fold.calls and (loop.last or loop.nextitem.role != 'tool') -%}
    {%- set fold_turn = messages[loop.index0 - fold.results | length] -%}
    {%- for call in fold.calls -%}
      {%- set fold.out = fold.out + [dict(fold_turn, tool_calls=[call]) if loop.first
          else dict(role='assistant', content='', tool_calls=[call])] -%}
      {%- if loop.index0 < fold.results | length -%}
        {%- set fold_named = fold.results
            | selectattr('tool_call_id', 'eq', call.id | default('', true)) | list -%}
        {%- set fold.out = fold.out + [fold_named[0] if fold_named
            else fold.results[loop.index0]] -%}
      {%- endif -%}
    {%- endfor -%}
    {%- set fold.calls = [] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = fold.out -%}
"""

_SYSTEM = """
{%- if messages[0].role == 'system' -%}
  {%- set fold = namespace(out=[], system=messages[0].content) -%}
  {%- for m in messages[1:] -%}
    {%- if fold.system and m.role == 'user' -%}
      {%- set fold.out = fold.out + [dict(m, content=fold.system + LF + LF + TEXT)] -%}
      {%- set fold.system = '' -%}
    {%- elif fold.system and loop.first -%}
      {%- set fold.out = [dict(role='user', content=fold.system), m] -%}
      {%- set fold.system = '' -%}
    {%- else -%}
      {%- set fold.out = fold.out + [m] -%}
    {%- endif -%}
  {%- endfor -%}
  {%- if fold.system and not fold.out -%}
    {%- set fold.out = [dict(role='user', content=fold.system)] -%}
  {%- endif -%}
  {%- set messages = fold.out -%}
{%- endif -%}
""".replace("TEXT", _TEXT).replace("LF", r"'\n'")

_MERGE = """
{%- set fold = namespace(out=[]) -%}
{%- for m in messages -%}
  {%- if fold.out and m.role == 'user' and fold.out[-1].role == 'user' -%}
    {%- set fold.out = fold.out[:-1]
        + [dict(m, content=fold.out[-1].content + LF + LF + TEXT)] -%}
  {%- else -%}
    {%- set fold.out = fold.out + [m] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = fold.out -%}
""".replace("TEXT", _TEXT).replace("LF", r"'\n'")

_JSON_ARGUMENTS = """
{%- set fold = namespace(out=[]) -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' and m.tool_calls -%}
    {%- set fold_said = namespace(calls=[]) -%}
    {%- for call in m.tool_calls -%}
      {%- set fold_call = call.function -%}
      {%- set fold_said.calls = fold_said.calls + [dict(call, function=dict(fold_call,
          arguments=fold_call.arguments if fold_call.arguments is string
          else fold_call.arguments | tojson))] -%}
    {%- endfor -%}
    {%- set fold.out = fold.out + [dict(m, tool_calls=fold_said.calls)] -%}
  {%- else -%}
    {%- set fold.out = fold.out + [m] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = fold.out -%}
"""

_PARTS = """
{%- set fold = namespace(out=[]) -%}
{%- for m in messages -%}
  {%- set fold.out = fold.out + [dict(m, content=[dict(type='text', text=m.content)])
      if m.content is string else m] -%}
{%- endfor -%}
{%- set messages = fold.out -%}
"""

_THINKING = (
    """
{%- set fold = namespace(out=[]) -%}
{%- for m in messages -%}
  {%- set fold_thought = THOUGHT -%}
  {%- if m.role == 'assistant' and WHEN_OUT -%}
    {%- set fold.out = fold.out + [WITHOUT)] -%}
  {%- elif m.role == 'assistant' and WHEN_TEXT -%}
    {%- set fold_text = OPEN + fold_thought + CLOSE -%}
    {%- set fold.out = fold.out + [WITHOUT, content=SHOWN + TEXT)] -%}
  {%- else -%}
    {%- set fold.out = fold.out + [m] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = fold.out -%}
""".replace("WITHOUT", _WITHOUT_THOUGHT)
    .replace("THOUGHT", _THOUGHT)
    .replace("TEXT)", _TEXT + ")")
)


def _thinking_piece(folds: Folds) -> str:
    if folds.thinking == "out":
        out, said = "true", "false"
    else:
        out = "m.tool_calls" if folds.call_thinking == "out" else "false"
        said = "true" if folds.open_thinking else "fold_thought"
        if folds.call_thinking == "native":
            said = f"{said} and not m.tool_calls"
    shown = "fold_text"
    if folds.thinking == "hidden":
        # Past turns go without: the template would cut their thinking, and leave its margins.
        shown = f"(fold_text | replace('<', {_quoted(HIDDEN)}) if loop.last else '')"
    opened, closed = folds.markup
    return (
        _THINKING.replace("WHEN_OUT", out)
        .replace("WHEN_TEXT", said)
        .replace("OPEN", _quoted(opened))
        .replace("CLOSE", _quoted(closed))
        .replace("SHOWN", shown)
    )
