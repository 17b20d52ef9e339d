"""Running a verb of `agent-finetune` in the tests' own process."""

import json

from agent_finetune import cli


def run_verb(verb, capsys, *words):
    """Exit code, stdout and stderr."""
    code = cli.main([verb, *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def answer_of(verb, capsys, *words):
    """What it prints as JSON, once it has succeeded."""
    code, out, _ = run_verb(verb, capsys, *words, "--json")
    assert code == 0
    return json.loads(out)
