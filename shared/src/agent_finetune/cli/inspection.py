"""`inspect`, the debugger of this field, and `plugins`; neither loads weights."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from agent_finetune import plugins
from agent_finetune.cli.options import NO_OUTPUT, RESULT, DataFlags, ModelFlags, OutputFlags
from agent_finetune.records import Example, Section, Tokens

if TYPE_CHECKING:
    from agent_finetune.render import FitResult

STYLES = {
    Section.THINKING: "green italic",
    Section.TEXT: "green",
    Section.TOOL_CALL: "green bold",
    Section.FINAL_ANSWER: "green underline",
    Section.STOP: "green reverse",
}


def inspect(
    *,
    model: ModelFlags,
    data: DataFlags,
    number: Annotated[int, Parameter(name=("--number", "-n"), group=RESULT)] = 1,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Show examples as the model will see them, with the trained tokens marked.

    Args:
        number: Examples to show, from the first on.
    """
    from agent_finetune import models, readers
    from agent_finetune.render import Renderer
    from agent_finetune.settings import read_settings

    settings = read_settings()
    read = readers.read_configured(data, settings)
    tokenizer = models.open_tokenizer(model, settings)
    renderer = Renderer(tokenizer, sections=data.sections)
    shown = read.examples[:number]
    limit = data.max_length or sys.maxsize  # how far the model reaches is written in its weights
    fits = [renderer.fit(example, limit, data.overlong) for example in shown]
    adaptation = renderer.adaptation
    if output.json:
        rows = [_as_json(row, tokenizer) for fit in fits for row in fit.rows]
        return output.answer(
            {
                "format": read.format,
                "examples": len(read.examples),
                "bad_rows": [{"source": bad.source, "reason": bad.reason} for bad in read.bad],
                "left_out": dict(read.left_out),
                "adaptation": {
                    "names": list(adaptation.names),
                    "reasons": list(adaptation.reasons),
                },
                "rows": rows,
            },
            "",
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{data.data}: format {read.format}, {len(shown)} of {len(read.examples)} examples",
        markup=False,
    )
    for reason, count in read.left_out.items():
        console.print(f"{count} left out: {reason}", markup=False)
    console.print(_template_line(adaptation.names, adaptation.reasons), markup=False)
    console.print(_legend(console.is_terminal))
    for example, fit in zip(shown, fits, strict=True):
        _show(console, example, fit, tokenizer)
    return 0


def list_plugins(*, output: OutputFlags = NO_OUTPUT) -> int:
    """List the installed plugins and the hooks that each answers, in the order they are asked."""
    hooks = plugins.plugin_hooks()
    lines = [f"{name}: {', '.join(answered) or 'nothing'}" for name, answered in hooks.items()]
    return output.answer({"plugins": hooks}, "\n".join(lines))


def _template_line(names: tuple[str, ...], reasons: tuple[str, ...]) -> str:
    if not names:
        return "template: the model's own"
    return f"template: adapted ({', '.join(names)}), because {'; '.join(reasons)}"


def _legend(coloured: bool) -> Text:
    if not coloured:
        return Text("trained: ⟦ ⟧")
    words = [(section.value, STYLES[section]) for section in Section]
    return Text(" ").join([Text("trained:"), *(Text(word, style) for word, style in words)])


def _show(console: Console, example: Example, fit: FitResult, tokenizer: Any) -> None:
    turns = sum(message.role == "assistant" and message.trained for message in example.messages)
    layout = "turns share a row" if len(fit.rows) < turns else "one row per turn"
    for place, row in enumerate(fit.rows, 1):
        counts = Counter(
            section.value
            for section, trained in zip(row.sections, row.trained, strict=True)
            if trained and section is not None
        )
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        console.print(
            f"\n{row.source}: row {place} of {len(fit.rows)} ({layout}), "
            f"{len(row.ids)} tokens, {sum(row.trained)} trained: {told or 'nothing'}",
            markup=False,
        )
        console.print(_marked(row, tokenizer, console.is_terminal))
    if fit.dropped or fit.trimmed:
        console.print(f"{example.source}: {fit.dropped} rows dropped, {fit.trimmed} trimmed")


def _marked(row: Tokens, tokenizer: Any, coloured: bool) -> Text:
    text = Text()
    for piece, section in _spans(row, tokenizer):
        if section is None:
            text.append(piece, "dim")
        else:
            text.append(piece if coloured else f"⟦{piece}⟧", STYLES[section])
    return text


def _spans(row: Tokens, tokenizer: Any) -> Iterator[tuple[str, Section | None]]:
    """Cut a row into text of one section each; None where nothing is trained.

    Every cut is the difference of two decoded prefixes, since some tokenizers drop the space
    that a text begins with.
    """
    kept = [s if trained else None for s, trained in zip(row.sections, row.trained, strict=True)]
    end, before = 0, ""
    for section, group in groupby(kept):
        end += len(list(group))
        text = tokenizer.decode(row.ids[:end], clean_up_tokenization_spaces=False)
        yield text[len(before) :], section
        before = text


def _as_json(row: Tokens, tokenizer: Any) -> dict[str, Any]:
    return {
        "source": row.source,
        "ids": row.ids,
        "trained": row.trained,
        "sections": row.sections,
        "text": tokenizer.decode(row.ids, clean_up_tokenization_spaces=False),
        "trained_text": [text for text, section in _spans(row, tokenizer) if section is not None],
    }
