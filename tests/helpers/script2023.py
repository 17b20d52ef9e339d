"""The training script of 2023 as a reference, faults and all: what our form is compared with.

Written from a description of its rules: how a row is cut into segments that are trained or not, how
these become ids, and what its evaluation showed the model.
"""

import ast
import re

import torch

IGNORE_INDEX = -100


def segments(row):
    """Text and flag of each segment, 1 for what is trained; None for a row that is left out."""
    said = row["conversations"]
    if isinstance(said, str):
        said = ast.literal_eval(said)
    if not said or said[0]["from"] != "system":
        return None
    found = [("<|system|>:" + said[0]["value"], 0)]
    for turn in range(len(said) // 2):
        user, assistant = said[2 * turn + 1], said[2 * turn + 2]  # IndexError when it is missing
        if not assistant["value"]:
            continue
        assert (user["from"], assistant["from"]) == ("user", "assistant")
        found.append(("\n\n<|user|>:" + user["value"], 0))
        found += _cut("\n\n<|assistant|>:" + assistant["value"] + "\n\n</s>")
    return found if len(found) > 1 else None


def _cut(text):
    """Exec blocks as start and end tags pair up; what has no partner stays in trained text."""
    starts = re.finditer(r"<\|startofexec\|>", text)
    ends = re.finditer(r"<\|endofexec\|>", text)
    found, place = [], 0
    for start, end in zip(starts, ends, strict=False):
        found.append((text[place : start.start()], 1))
        place = end.end()
        found.append((text[start.start() : place], 0))
    return [*found, (text[place:], 1)] if place != len(text) else found


def tokenized(tokenizer, found, max_length=None):
    """Ids and labels: each segment by itself with special tokens, cut from the left."""
    pieces = [torch.tensor(tokenizer(text)["input_ids"]) for text, _ in found]
    ids = torch.cat(pieces)
    flags = [flag for _, flag in found]
    labels = torch.cat(
        [
            piece.clone() if flag else torch.full_like(piece, IGNORE_INDEX)
            for piece, flag in zip(pieces, flags, strict=True)
        ]
    )
    return (ids, labels) if max_length is None else (ids[-max_length:], labels[-max_length:])


def shown(row):
    """Prompt and label of each step of its evaluation; the prompt was tokenized as one text."""
    said = row["conversations"]
    text = "<|system|>:" + said[0]["value"]
    found = []
    for user, assistant in zip(said[1::2], said[2::2], strict=True):
        text += "\n\n<|user|>:" + user["value"]
        answer = "\n\n<|assistant|>:" + assistant["value"]
        place = 0
        starts = re.finditer(r"<\|startofexec\|>", answer)
        ends = re.finditer(r"<\|endofexec\|>", answer)
        for start, end in zip(starts, ends, strict=False):
            found.append((text, answer[place : start.start()]))
            text += answer[place : end.end()]
            place = end.end()
        if place != len(answer):
            found.append((text, answer[place:]))  # which the next turn's prompt lacks
    return found
