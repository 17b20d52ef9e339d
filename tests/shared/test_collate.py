import doctest

import pytest

from agent_finetune import collate, plugins
from agent_finetune.errors import DataError
from agent_finetune.records import Tokens


def row(ids, trained, source=""):
    return Tokens(
        ids=tuple(ids),
        trained=tuple(bool(flag) for flag in trained),
        sections=(None,) * len(ids),
        source=source,
    )


ROWS = [row([5, 6, 7], [0, 1, 1]), row([8, 9], [0, 1])]


def test_padding_is_hidden_from_attention_and_loss():
    batch = collate.pad(ROWS, pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, 9, -100]]


def test_padded_length_is_rounded_up():
    assert collate.pad(ROWS, pad_id=0, multiple_of=8)["input_ids"].shape == (2, 8)


def test_packing_restarts_positions_and_says_where_documents_begin():
    batch = collate.pack(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5]
    assert batch["max_length_q"] == batch["max_length_k"] == 3


def test_a_documents_first_token_is_not_predicted_from_the_document_before():
    rows = [row([5, 6], [1, 1]), row([7, 8], [1, 1])]
    assert collate.pack(rows)["labels"].tolist() == [[-100, 6, -100, 8]]
    assert collate.pad(rows, pad_id=0)["labels"].tolist() == [[-100, 6], [-100, 8]]


@pytest.mark.parametrize("flags", [[0, 0], [1, 0]])
def test_a_row_with_nothing_to_learn_is_refused_by_its_source(flags):
    bad = row([1, 2], flags, source="data.jsonl:7")
    with pytest.raises(DataError, match=r"data\.jsonl:7: none of its 2 tokens is trained"):
        collate.pack([ROWS[0], bad])
    with pytest.raises(DataError, match=r"data\.jsonl:7"):
        collate.pad([ROWS[0], bad], pad_id=0)


def test_a_nameless_bad_row_is_named_by_its_place():
    with pytest.raises(DataError, match="row 1 of the batch"):
        collate.pack([ROWS[0], row([1], [1])])


def test_the_kernel_answers_the_collate_hook():
    assert "position_ids" in plugins.collate_batch(ROWS, pad_id=0, packed=True)
    assert "attention_mask" in plugins.collate_batch(ROWS, pad_id=0, packed=False)


def test_docstring_examples_hold():
    assert doctest.testmod(collate).failed == 0
