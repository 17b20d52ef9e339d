"""The commands that look at data and write it: `validate` and `convert`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agent_finetune.artifacts import write_text
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Example
from agent_finetune.settings import read_settings
from modelscope_agent_train import validation
from modelscope_agent_train.arguments import HUBS
from modelscope_agent_train.flags import flag, parse
from modelscope_agent_train.sources import names_of, open_dataset, read_dataset
from modelscope_agent_train.splits import split
from modelscope_agent_train.writing import losses, to_messages, to_msagent

if TYPE_CHECKING:
    from agent_finetune.config import BadRowPolicy
    from modelscope_agent_train.hub import Hub
    from modelscope_agent_train.splits import SplitBy
    from modelscope_agent_train.writing import Form


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidateArguments:
    """Count what is wrong with data, and say where; exit code 1 when something is."""

    dataset: str | None = flag(None, "data to look at, where no FILE is given before the flags")
    format: str = flag("auto", "name of the data's format; auto finds it")
    dataset_split: str = flag("train", "split, of a folder or a hub's data set", aliases=["split"])
    limit_examples: int = flag(3, "places named of each kind of problem")
    allow: tuple[str, ...] = flag((), "kinds of problems that are no failure", choices=())
    strict: bool = flag(False, "whether a repair is a failure, too")
    json: bool = flag(False, "whether the report is printed as one JSON object")
    hub: str = flag("auto", "where an id is looked up", choices=HUBS)
    local_files_only: bool = flag(False, "whether the network is never touched")

    def __post_init__(self) -> None:
        for kind in self.allow:
            if kind not in validation.KINDS:
                raise ConfigError(f"--allow {kind!r}: legal are {', '.join(validation.KINDS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertArguments:
    """Write data of any form that can be read as rows of MSAgent-Bench, or as chat messages."""

    dataset: str | None = flag(None, "data to convert; names with commas between, NAME#N takes N")
    to: str = flag(
        "msagent",
        "msagent for rows of MSAgent-Bench, messages for OpenAI's chat messages with tools",
        choices=("msagent", "messages"),
    )
    output: str = flag("train.jsonl", "file of the rows to train on")
    test_output: str | None = flag(None, "file of the rows held out")
    test_ratio: float = flag(
        0.15,
        "share held out; counts only with --test_output",
        aliases=["dataset_test_ratio", "dataset_test_size"],
    )
    split_by: str = flag(
        "rows",
        "rows keeps a conversation on one side, tools keeps every tool on one side",
        choices=("rows", "tools"),
    )
    max_chars: int | None = flag(None, "rows whose line has more characters are left out")
    format: str = flag("auto", "name of the data's format; auto finds it")
    dataset_split: str = flag("train", "split, of a folder or a hub's data set", aliases=["split"])
    dataset_sample: int = flag(-1, "rows taken of all, drawn by the seed; -1 takes all")
    dataset_seed: int = flag(42, "seed of the sample and of the split")
    on_bad_row: str = flag(
        "stop", "stop at a row that cannot be read or written, or skip it", choices=("stop", "skip")
    )
    hub: str = flag("auto", "where an id is looked up", choices=HUBS)
    local_files_only: bool = flag(False, "whether the network is never touched")

    def __post_init__(self) -> None:
        if not self.dataset:
            raise ConfigError("--dataset is missing; give a file, a folder, a hub id or bfcl")
        if self.max_chars is not None and self.max_chars < 1:
            raise ConfigError(f"--max_chars is {self.max_chars!r}; give 1 or more")
        if self.test_output is not None and not 0 < self.test_ratio < 1:
            raise ConfigError(
                f"--test_ratio is {self.test_ratio!r}; between 0 and 1 both files get rows"
            )


def validate(argv: Sequence[str]) -> int:
    """`validate FILE... [flags]`: print a report on each.

    Returns:
        0 when nothing is wrong but what `--allow` names, else 1.

    Raises:
        FinetuneError: A flag is wrong, or there is no such data.
    """
    first_flag = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    given = parse(ValidateArguments, argv[first_flag:], prog="modelscope-agent-train validate")
    flags = given.arguments
    names = [*argv[:first_flag], *(names_of(flags.dataset) if flags.dataset else ())]
    if not names:
        raise ConfigError("nothing to look at; give files, folders, samples or hub ids")
    settings = read_settings()
    reports = []
    for name in names:
        source = open_dataset(
            name,
            settings=settings,
            hub=cast("Hub", flags.hub),
            split=flags.dataset_split,
            local_files_only=flags.local_files_only,
        )
        reports.append(validation.validate(source, flags.format, flags.limit_examples))
    if flags.json:
        print(json.dumps({"reports": [one.json() for one in reports]}, ensure_ascii=False))
    else:
        print("\n\n".join(one.text() for one in reports))
    return int(any(one.failed(allow=flags.allow, strict=flags.strict) for one in reports))


def convert(argv: Sequence[str]) -> int:
    """`convert --dataset NAME --output FILE [flags]`: write rows of MSAgent-Bench.

    Returns:
        0; whatever goes wrong is an error.

    Raises:
        FinetuneError: A flag is wrong, data is not found or bad, or nothing is left to write.
    """
    flags = parse(ConvertArguments, argv, prog="modelscope-agent-train convert").arguments
    result = read_dataset(
        names_of(flags.dataset or ""),
        settings=read_settings(),
        format=flags.format,
        on_bad_row=cast("BadRowPolicy", flags.on_bad_row),
        sample=flags.dataset_sample,
        seed=flags.dataset_seed,
        hub=cast("Hub", flags.hub),
        split=flags.dataset_split,
        local_files_only=flags.local_files_only,
        report=print,
    )
    book = Counter({f"left out, {bad.reason}": 1 for bad in result.bad})
    rows = _rows(result.examples, flags, book)
    kept = [example for example in result.examples if id(example) in rows]
    training: list[Example] = kept
    held_out: list[Example] = []
    if flags.test_output is not None:
        training, held_out = split(
            kept,
            test_ratio=flags.test_ratio,
            seed=flags.dataset_seed,
            by=cast("SplitBy", flags.split_by),
        )
    for path, part in ((flags.output, training), (flags.test_output, held_out)):
        if path is not None:
            _write(Path(path), [rows[id(example)] for example in part])
            print(f"{path}: {_counted(part)}")
    if flags.test_output is not None and flags.split_by == "tools":
        print("no tool of a held-out row is offered in a training row")
    for what, count in book.items():
        print(f"{count} rows {what}")
    return 0


def _rows(
    examples: Iterable[Example], flags: ConvertArguments, book: Counter[str]
) -> dict[int, str]:
    """The row of each example, as a line of JSON, by the example's identity."""
    rows: dict[int, str] = {}
    for example in examples:
        try:
            row = _row(example, flags.to)
        except DataError as error:
            if flags.on_bad_row == "stop":
                raise
            book[f"left out, {str(error).removeprefix(example.source).lstrip(': ')}"] += 1
            continue
        line = json.dumps(row, ensure_ascii=False)
        if flags.max_chars is not None and len(line) > flags.max_chars:
            book[f"left out, longer than {flags.max_chars} characters"] += 1
            continue
        book.update(f"lost {what}" for what in losses(example, cast("Form", flags.to)))
        rows[id(example)] = line
    if not rows:
        raise DataError(f"no row is left to write: {', '.join(book) or 'there were none'}")
    return rows


def _row(example: Example, to: str) -> dict[str, Any]:
    if not any(message.role == "assistant" for message in example.messages):
        raise DataError(f"{example.source}: no answer in it, which a row of training data needs")
    return to_msagent(example) if to == "msagent" else to_messages(example)


def _write(path: Path, lines: Sequence[str]) -> None:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the name of a file")
    write_text(path, "".join(f"{line}\n" for line in lines))


def _counted(examples: Sequence[Example]) -> str:
    turns = [m for e in examples for m in e.messages if m.role == "assistant"]
    calls = sum(bool(turn.tool_calls) for turn in turns)
    return f"{len(examples)} rows, {len(turns)} steps, {calls} of them calls"
