"""`modelscope-agent-train sft|infer|eval|validate|convert|export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from agent_finetune import ending
from agent_finetune.errors import FinetuneError
from agent_finetune.foreign_logs import hush

PROG = "modelscope-agent-train"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after the program's name; those of the process when None.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        print(f"error: {verb!r} is not a verb; legal are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    hush()
    try:
        with ending.by_signals():
            return VERBS[verb][0](rest)
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        from modelscope_agent_train.run_folders import NO_ROOM

        if error.filename is None or error.errno not in NO_ROOM:
            raise
        print(f"error: {error.filename}: {error.strerror}; give another place", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(ending.word(error), file=sys.stderr)
        return ending.code(error)
    except SystemExit as left:  # argparse, after --help
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in VERBS.items()]
    return "\n".join([f"usage: {PROG} VERB [--flags]; VERB --help lists its flags", "", *lines])


def _sft(words: Sequence[str]) -> int:
    from modelscope_agent_train import sft

    return sft.main(words, prog=f"{PROG} sft")


def _infer(words: Sequence[str]) -> int:
    from modelscope_agent_train.infer import main as infer

    return infer(words)


def _eval(words: Sequence[str]) -> int:
    from modelscope_agent_train.evaluation.cli import main as evaluate

    return evaluate(words)


def _validate(words: Sequence[str]) -> int:
    from modelscope_agent_train import data_cli

    return data_cli.validate(words)


def _convert(words: Sequence[str]) -> int:
    from modelscope_agent_train import data_cli

    return data_cli.convert(words)


def _export(words: Sequence[str]) -> int:
    from modelscope_agent_train import exporting

    return exporting.main(words)


VERBS: Mapping[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "sft": (_sft, "fine-tune a model on agent data, with the flags of llm_sft.py"),
    "infer": (_infer, "let a model answer: one prompt, a file, or in a conversation"),
    "eval": (_eval, "measure tool calls of a model, an endpoint or a file"),
    "validate": (_validate, "say what is wrong in a data set, and what was repaired"),
    "convert": (_convert, "write a data set in MSAgent's form or as chat messages"),
    "export": (_export, "write base and adapter as one model"),
}
