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
from dataclasses import dataclass, field
from typing import Literal

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

THINK = ("<think>\n", "\n</think>\n\n")

OWN = "{#- the model's own template -#}{{ '' }}"
"""Stands between preamble and original; the empty print keeps the original's leading newline,
which a block tag before it would eat."""

_END_HIDDEN = "{% endfilter %}"
_HEADER = "{{#- adapted: {names} -#}}"
_HEADER_PATTERN = re.compile(r"^\{#- adapted: ([a-z0-9-]+(?:, [a-z0-9-]+)*) -#\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """Which rewrites a template needs; all off is the template as it is."""

    parts: bool = False
    """Message content as a list of text parts, as templates of vision models read it."""
    system: bool = False
    """The system message becomes the beginning of the first user message."""
    merge: bool = False
    """Neighbouring user messages become one."""
    tools: bool = False
    """Tools, calls and results as text."""
    json_arguments: bool = False
    """Arguments of a call as a JSON string."""
    one_call: bool = False
    """Several calls of one turn become several turns, each followed by its result."""
    thinking: Literal["native", "text", "hidden", "out"] = "native"
    """`hidden` writes it past a template that cuts thinking out of content, in the last turn
    only: what such a template does to earlier turns is the model's design."""
    call_thinking: Literal["native", "text", "out"] = "native"
    """The same for turns that call a tool, when these differ."""
    open_thinking: bool = False
    """The generation prompt opens a thinking block, so that every turn must close it."""
    markup: tuple[str, str] = field(default=THINK)
    """What opens and closes a thinking block."""
    call_text: Literal["native", "thinking", "out"] = "native"
    """Words beside a call."""


REASONS = {
    "chatml": "the tokenizer has no chat template",
    "content-as-parts": "the template reads message content as a list of parts",
    "system-as-user": "the template has no place for a system message",
    "merge-user-turns": "the template refuses two user turns in a row",
    "tools-as-text": "the template loses tools, tool calls or tool results",
    "arguments-as-json": "the template reads arguments as a JSON string",
    "one-call-per-turn": "the template can say one call a turn",
    "thinking-as-text": "the template loses the thinking of the turn that is being said",
    "thinking-left-out": "the generation prompt closes the thinking block: the model cannot think",
    "call-thinking-left-out": "the template has no place for thinking before a call",
    "call-text-as-thinking": "the template loses words beside a call, and keeps thinking there",
    "call-text-left-out": "the template has no place for words beside a call",
    "stop-with-eos": "the template ends an assistant turn with nothing that could stop it",
}
"""Name of every adaptation, and why it is made."""


def names(folds: Folds) -> tuple[str, ...]:
    """Names of the adaptations that `folds` makes, in the order of `REASONS`."""
    made = {
        "content-as-parts": folds.parts,
        "system-as-user": folds.system,
        "merge-user-turns": folds.merge,
        "tools-as-text": folds.tools,
        "arguments-as-json": folds.json_arguments,
        "one-call-per-turn": folds.one_call,
        "thinking-as-text": folds.thinking in ("text", "hidden"),
        "thinking-left-out": folds.thinking == "out",
        "call-thinking-left-out": folds.call_thinking == "out" and folds.thinking != "out",
        "call-text-as-thinking": folds.call_text == "thinking",
        "call-text-left-out": folds.call_text == "out",
    }
    return tuple(name for name in REASONS if made.get(name))


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
    preamble = "".join(_squeeze(piece) for piece in pieces)
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


def _squeeze(piece: str) -> str:
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
