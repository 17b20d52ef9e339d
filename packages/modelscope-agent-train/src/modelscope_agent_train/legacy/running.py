"""Training on the 2023 text through the kernel's run: reading, and what makes rows of it.

A conversation travels through sampling and splitting as an `Example` whose messages hold the raw
text; only `rows_of` makes rows of such ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agent_finetune.config import DataConfig, RunConfig
from agent_finetune.contracts import Reading, Settings, Source
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import BadRow, Example, Row, Section
from modelscope_agent_train.formats import msagent
from modelscope_agent_train.legacy import form
from modelscope_agent_train.legacy.reading import Conversation, LeftOut, Turn, read
from modelscope_agent_train.legacy.tokens import Speaker

if TYPE_CHECKING:
    from agent_finetune.readers import ReadResult
    from agent_finetune.render import Renderer
    from agent_finetune.train.job import RowsOf
    from agent_finetune.train.pairs import Rows

FORMAT = "msagent_text"
"""Name of the format whose examples hold raw text; never found by itself."""

Say = Callable[[str], None]


def read_source(source: Source, format: str) -> Reading | None:
    """Read a source by the rules of 2023; rows that these left out are counted by the reason."""
    if format != FORMAT:
        return None
    left_out: Counter[str] = Counter()
    return Reading(format=FORMAT, items=_items(source.rows, left_out), left_out=left_out)


def _items(rows: Sequence[Row], left_out: Counter[str]) -> Iterator[Example | BadRow]:
    for row in rows:
        try:
            if row.problem is not None:
                raise DataError(row.problem)
            yield example(read(row))
        except LeftOut as error:
            left_out[str(error)] += 1
        except DataError as error:
            yield BadRow(source=row.source, reason=str(error))


def example(conversation: Conversation) -> Example:
    """A conversation with its raw text; tools are those of its plugins, where they can be read."""
    structured = _structured(conversation)
    return Example(
        messages=tuple(form.messages(conversation)),
        tools=structured.tools if structured else (),
        id=conversation.id,
        source=conversation.source,
    )


def conversation(example: Example) -> Conversation:
    """The conversation of an example that `example` made."""
    turns: list[Turn] = []
    for message in example.messages[1:]:
        if message.role == "user":
            turns.append(Turn(user=message.text, answer=""))
        else:
            turns[-1] = replace(turns[-1], answer=turns[-1].answer + message.text)
    return Conversation(
        system=example.messages[0].text,
        turns=tuple(replace(turn, answer=turn.answer.removesuffix(form.END)) for turn in turns),
        source=example.source,
        id=example.id,
    )


def rows_of(
    training: Sequence[Example],
    held_out: Sequence[Example],
    read_results: Sequence[ReadResult],
    config: DataConfig,
    say: Say,
) -> RowsOf:
    """What makes rows of raw examples once the model is there, as the kernel's `job.rows_of`.

    Raises:
        ConfigError: Only some sections were to be trained; this form has its own rule.
    """
    from agent_finetune.train import job

    if set(config.sections) != set(Section):
        chosen = ", ".join(sorted(config.sections))
        raise ConfigError(
            f"sections is {chosen}; the 2023 form trains all that the assistant says: leave it out"
        )
    make = job.rows_of(training, held_out, read_results, config, say)

    def rows(renderer: Renderer, limit: int) -> Rows:
        made = make(Speaker(renderer.tokenizer), limit)
        shown = [_structured(conversation(each)) for each in made.eval_examples]
        return replace(made, eval_examples=tuple(each for each in shown if each))

    return rows


def read_for_run(config: RunConfig, settings: Settings, say: Say) -> RowsOf:
    """The `read` of `agent_finetune.train.job.run` for data that a config names whole.

    Raises:
        DataError: The data cannot be read, or nothing in it can be learned.
    """
    from agent_finetune import readers
    from agent_finetune.train import job

    data = replace(config.data, format=FORMAT)
    names = [data.data, *filter(None, [data.eval_data])]
    results = [readers.read_configured(data, settings, name=name) for name in names]
    for name, result in zip(names, results, strict=True):
        say(_told(name, result))
    training, held_out = list(results[0].examples), list(results[-1].examples)
    if len(results) == 1:
        held_out = []
        if data.eval_share:
            training, held_out = job.hold_out_share(
                training, share=data.eval_share, seed=config.train.seed
            )
    return rows_of(training, held_out, results, data, say)


def _told(name: str, result: ReadResult) -> str:
    bad = f", {len(result.bad)} bad rows left out" if result.bad else ""
    left = "".join(f", {count} left out: {why}" for why, count in result.left_out.items())
    return f"data: {name}, the 2023 text, {len(result.examples)} conversations{bad}{left}"


def _structured(conversation: Conversation) -> Example | None:
    """The same with its calls read; None where they cannot be, which the text does not need."""
    said = [{"from": "system", "value": conversation.system}]
    for turn in conversation.turns:
        said.append({"from": "user", "value": turn.user})
        said.append({"from": "assistant", "value": turn.answer})
    row = Row(source=conversation.source, data={"id": conversation.id, "conversations": said})
    try:
        return msagent.read_row(row)
    except DataError:
        return None
