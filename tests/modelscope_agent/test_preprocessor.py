"""Rows for ModelScope's own trainer, the same as those of ours."""

import json

import pytest
import torch
from modelscope_trainers import conversations, tiny_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def preprocessor(tmp_path):
    from modelscope.preprocessors.builder import build_preprocessor

    folder = tiny_folder(tmp_path / "model")
    return build_preprocessor(
        {"type": "msagent-preprocessor", "model_dir": str(folder)}, field_name="nlp"
    )


def test_a_row_is_what_the_kernel_trains(preprocessor):
    from agent_finetune.contracts import Settings
    from modelscope_agent_train import sources

    row = conversations(1)[0]
    found = preprocessor(row)
    example = sources.read_dataset([[row]], settings=Settings()).examples[0]
    (right,) = preprocessor.renderer.rows(example)
    assert found["input_ids"].tolist() == list(right.ids)
    assert [label != -100 for label in found["labels"].tolist()] == list(right.trained)


def test_what_a_tool_answered_is_not_learned(preprocessor):
    row = conversations(1)[0]
    found = preprocessor(row)
    learned = found["input_ids"][found["labels"] != -100]
    text = preprocessor.tokenizer.decode(learned)
    assert "get_weather" in text
    assert '"condition"' not in text


def test_a_batch_is_padded_to_its_longest_row(preprocessor):
    rows = [preprocessor(row) for row in conversations(3)]
    batch = preprocessor.collate(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, longest)
    for place, row in enumerate(rows):
        size = len(row["labels"])
        assert torch.equal(batch["labels"][place, :size], row["labels"])
        assert (batch["labels"][place, size:] == -100).all()
        assert not batch["attention_mask"][place, size:].any()


def test_rows_of_one_length_can_be_stacked(preprocessor):
    preprocessor.pad_to_max_length = True
    assert {len(preprocessor(row)["labels"]) for row in conversations(2)} == {2048}


def test_modelscopes_dataset_of_ours_holds_the_rows_of_several(preprocessor, tmp_path):
    from modelscope.msdatasets import MsDataset

    from modelscope_agent_train.native.data import AgentDataset

    rows = conversations(3)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:2]), "utf-8")
    found = AgentDataset([MsDataset.load(str(file)), rows[2:]], preprocessor=preprocessor)
    assert len(found) == 3
    for place, row in enumerate(rows):
        assert torch.equal(found[place]["input_ids"], preprocessor(row)["input_ids"])
