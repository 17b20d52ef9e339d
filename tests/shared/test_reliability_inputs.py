"""Input that is broken in any way is read, or refused in one line of our own that says where.

The cases are made and run by `broken_inputs`; a case that failed once is found again by its number:
`python tests/helpers/broken_inputs.py FOLDER '[["data", 17, 18]]'`.
"""

import json
import sqlite3
import struct

import pytest
import torch
from broken_inputs import run
from safetensors.torch import save
from train_jobs import loaded

from agent_finetune import readers
from agent_finetune.config import ModelConfig, RunConfig
from agent_finetune.contracts import Settings
from agent_finetune.engine.lora_files import open_adapter
from agent_finetune.errors import ConfigError, DataError, ModelError
from agent_finetune.models import adapter_folders, context_length
from agent_finetune.recordings import Recordings
from agent_finetune.train import folder, history
from agent_finetune.versions import Versions

pytest.importorskip("gguf")
pytest.importorskip("modelscope_agent_train")

CASES = {
    "data": 3600,
    "parquet": 600,
    "leaderboard": 600,
    "recordings": 600,
    "run": 600,
    "config": 2000,
    "adapter": 800,
    "gguf": 600,
    "model": 600,
}
"""Ten thousand."""


def test_one_in_twenty_of_the_broken_inputs_is_read_or_refused(tmp_path):
    found = run({kind: (0, count // 20) for kind, count in CASES.items()}, tmp_path, faults=5)
    assert found.faults == []
    assert found.read.keys() == found.refused.keys() == CASES.keys()  # both happens


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_all_of_them_are(tmp_path, kind):
    found = run({kind: (0, CASES[kind])}, tmp_path, faults=20)
    assert found.faults == []
    assert found.read[kind] + found.refused[kind] >= CASES[kind]


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", ["[1]", "[" * 50_000, "{", '"x"'])
def test_an_adapters_config_that_is_no_object_is_refused(tmp_path, text):
    written(tmp_path / "adapter_config.json", text)
    with pytest.raises(ModelError, match=r"adapter_config\.json: "):
        adapter_folders.read_config(tmp_path)


@pytest.mark.parametrize("base", [5, ["a"], {"a": 1}, "a\0b"])
def test_a_base_that_is_no_name_is_refused(tmp_path, base):
    config = json.dumps({"peft_type": "LORA", "base_model_name_or_path": base})
    written(tmp_path / "adapter_config.json", config)
    with pytest.raises(ModelError, match="expected a name"):
        adapter_folders.with_base(ModelConfig(model=str(tmp_path)))


def test_a_safetensors_header_that_claims_exabytes_is_refused(tmp_path):
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    written(tmp_path / "adapter_config.json", json.dumps(config))
    header = {"x": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}
    for start in (struct.pack("<Q", 2**63), struct.pack("<Q", len(json.dumps(header)))):
        raw = start + json.dumps(header).encode()
        written(tmp_path / "adapter_model.safetensors", raw)
        with (
            pytest.raises(ModelError, match=r"adapter_model\.safetensors: cannot be read"),
            open_adapter(tmp_path, loaded().model),
        ):
            pass


@pytest.mark.parametrize("value", [{"rank_pattern": {"(": 4}}, {"target_modules": "("}, {"r": "x"}])
def test_a_pattern_of_an_adapter_that_is_none_is_refused(tmp_path, value):
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], **value}
    place = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = {place.format("A"): torch.zeros(4, 32), place.format("B"): torch.zeros(32, 4)}
    written(tmp_path / "adapter_config.json", json.dumps(config))
    written(tmp_path / "adapter_model.safetensors", save(weights))
    with pytest.raises(ModelError, match="adapter"), open_adapter(tmp_path, loaded().model):
        pass


def test_lengths_in_a_gguf_header_that_lie_say_nothing_of_its_context(tmp_path):
    start = b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60)
    lies = (
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**62),
        struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000,
    )
    for lie in lies:
        path = written(tmp_path / "m.gguf", start + lie)
        assert context_length(ModelConfig(model=str(path)), Settings(cache_dir=tmp_path)) is None


@pytest.mark.parametrize("values", [{}, {"model": {}, "data": {"sections": ["x"]}}, {"data": 1}])
def test_a_config_that_another_process_was_handed_damaged_is_refused(values):
    with pytest.raises(ConfigError, match="not a whole config"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize("text", [b"\xff", b"[]", b'{"status": 1, "config": [], "must_stay": {}}'])
def test_a_run_that_is_damaged_is_not_gone_on_with(tmp_path, text):
    written(tmp_path / "run.json", text)
    with pytest.raises(ConfigError, match=r"run\.json: .*give another out"):
        folder.read_run(tmp_path)


def test_a_damaged_line_of_a_history_is_named(tmp_path):
    path = written(tmp_path / "history.jsonl", b'{"step": 1}\n\xff\n')
    with pytest.raises(ConfigError, match=r"history\.jsonl:2: damaged"):
        history.read(path)
    written(path, b'{"step": 1}\n{"loss": 1}\n')
    with pytest.raises(ConfigError, match=r"history\.jsonl:2: damaged, no step"):
        history.read(path)


def test_damaged_files_of_versions_are_named(tmp_path):
    versions = Versions(tmp_path, "a")
    facts = written(tmp_path / "a/versions/0001/version.json", b"\xff")
    with pytest.raises(ConfigError, match=r"version\.json: damaged, not JSON"):
        versions.list()
    written(facts, "{}")
    written(tmp_path / "a/previous.json", '["x"]')
    written(tmp_path / "a/current", "1")
    with pytest.raises(ConfigError, match=r"previous\.json: damaged; expected numbers"):
        versions.rollback()
    written(tmp_path / "a/current", b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected the number of a version"):
        versions.current()
    facts.unlink()
    with pytest.raises(ConfigError, match="this version is damaged"):
        versions.facts(1)


@pytest.mark.parametrize("request_", ["[]", "{", '{"messages": [5]}', "null"])
def test_a_recording_that_is_damaged_is_named_with_its_file(tmp_path, request_):
    path = tmp_path / "recordings.db"
    Recordings(path)
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO generations (id, time, model, revision, text, request, result) "
        "VALUES ('g1', 1.0, 'm', 'r', 'x', ?, '{}')",
        (request_,),
    )
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match=r"recordings\.db: damaged, holds what is no recording"):
        readers.read(str(path), settings=Settings(cache_dir=tmp_path))


@pytest.mark.parametrize("schema", ["abc", ["a"], 5])
def test_a_leaderboards_schema_that_is_no_object_is_a_bad_row(tmp_path, schema):
    row = {
        "id": "irrelevance_0",
        "question": [[{"role": "user", "content": "q"}]],
        "function": [{"name": "f", "parameters": schema}],
    }
    path = written(tmp_path / "data.jsonl", json.dumps(row))
    with pytest.raises(DataError, match=r"data\.jsonl:1: the schema of f has"):
        readers.read(str(path), format="bfcl", settings=Settings(cache_dir=tmp_path))
