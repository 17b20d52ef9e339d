"""How long a model's context is, told from its files alone."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BloomConfig

from agent_finetune import models, plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import ResolvedModel, Settings
from agent_finetune.hookspecs import hookimpl
from agent_finetune.models.context import UNLIMITED, described
from agent_finetune.testing import save_tiny_model


def told(model: Path | str, cache: Path | None = None, **options: Any) -> int | None:
    settings = Settings() if cache is None else Settings(cache_dir=cache)
    return models.context_length(ModelConfig(model=str(model), **options), settings)


def folder_with(folder: Path, config: Any, **others: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").touch()
    for name, content in {"config": config, **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(path: Path, *fields: bytes, count: int | None = None) -> Path:
    head = struct.pack("<IQQ", 3, 0, len(fields) if count is None else count)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" + head + b"".join(fields))
    return path


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")
LENGTH = text("llama.context_length") + struct.pack("<II", 4, 8192)
WORDS = text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
SCORES = text("scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3)
FLAG = text("flag") + struct.pack("<I?", 7, True)


def test_a_folder_says_what_the_loaded_model_says(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    loaded = plugins.load_model(ModelConfig(model=str(folder), device="cpu"), Settings())
    assert told(folder) == models.loaded_context(loaded) == 2048


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 2048}, 2048),
        ({"max_position_embeddings": 77, "text_config": {"max_position_embeddings": 9000}}, 9000),
        ({"max_position_embeddings": 77, "text_config": {"hidden_size": 8}}, 77),
        ({"llm_config": {"max_position_embeddings": 500}}, 500),
        ({"max_position_embeddings": None}, None),
        ({"max_position_embeddings": 0}, None),
        ({}, None),
    ],
)
def test_configurations_call_it_by_several_names(config: Any, length: int | None) -> None:
    assert described(config) == length


def test_a_tokenizer_says_it_where_the_model_does_not(tmp_path: Path) -> None:
    limited = folder_with(tmp_path / "a", {}, tokenizer_config={"model_max_length": 600})
    unlimited = folder_with(tmp_path / "b", {}, tokenizer_config={"model_max_length": 1e30})
    assert told(limited) == 600
    assert told(unlimited) is None


def test_a_loaded_model_without_a_limit_has_a_large_one(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    loaded = plugins.load_model(ModelConfig(model=str(folder), device="cpu"), Settings())
    loaded = replace(loaded, model=SimpleNamespace(config=BloomConfig()))
    assert models.loaded_context(loaded) == UNLIMITED
    loaded.tokenizer.model_max_length = 300
    assert models.loaded_context(loaded) == 300


def test_an_adapter_has_that_of_its_base(tmp_path: Path) -> None:
    base = folder_with(tmp_path / "base", {"max_position_embeddings": 4096})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert told(adapter) == told(base, adapter=str(adapter)) == 4096
    (adapter / "adapter_config.json").write_text("{}")
    assert told(adapter) is None


@pytest.mark.parametrize("before", [(), (WORDS, SCORES, FLAG)])
def test_the_header_of_a_gguf_file_says_it(tmp_path: Path, before: tuple[bytes, ...]) -> None:
    assert told(gguf(tmp_path / "m.gguf", ARCHITECTURE, *before, LENGTH, WORDS)) == 8192


def test_a_gguf_file_reads_as_the_package_gguf_writes_it(tmp_path: Path) -> None:
    writer_of = pytest.importorskip("gguf").GGUFWriter
    writer = writer_of(tmp_path / "m.gguf", "qwen2")
    writer.add_array("tokens", ["a", "b"])
    writer.add_array("nested", [1, 2, 3])
    writer.add_context_length(1234)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert told(tmp_path / "m.gguf") == 1234


def test_a_gguf_file_that_is_cut_off_or_says_nothing_gives_nothing(tmp_path: Path) -> None:
    assert told(gguf(tmp_path / "a.gguf", ARCHITECTURE, WORDS)) is None
    assert told(gguf(tmp_path / "b.gguf", ARCHITECTURE, count=3)) is None
    assert told(gguf(tmp_path / "c.gguf", text("odd") + struct.pack("<I", 77))) is None


def test_a_shipped_model_is_looked_for_in_the_cache_and_never_fetched(tmp_path: Path) -> None:
    name, asset = next(iter(models.SHIPPED.items()))
    assert told(name, tmp_path) is None
    assert not list(tmp_path.iterdir())
    gguf(tmp_path / asset.folder / asset.member, ARCHITECTURE, LENGTH)
    assert told(name, tmp_path) == 8192


def test_a_hub_id_is_looked_for_in_the_local_cache(tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    commit = "c" * 40
    repository = tmp_path / "models--owner--name"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert told("owner/name") is None
    folder_with(repository / "snapshots" / commit, {"max_position_embeddings": 333})
    assert told("owner/name") == 333
    assert told("owner/other") is None


@pytest.mark.parametrize("name", ["./nowhere", "no name", "owner/name/more"])
def test_what_is_no_model_gives_nothing(name: str) -> None:
    assert told(name) is None


def test_a_damaged_configuration_gives_nothing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {})
    (folder / "config.json").write_text("{")
    assert told(folder) is None


def test_a_plugin_says_where_a_model_lies(tmp_path: Path) -> None:
    class Elsewhere:
        @hookimpl(tryfirst=True)
        def finetune_resolve_model(self, name: str, settings: Settings) -> ResolvedModel | None:
            assert settings.offline
            return ResolvedModel(name=name, location=str(tmp_path)) if name == "mine" else None

    folder_with(tmp_path, {"max_position_embeddings": 512})
    with plugins.registered(Elsewhere(), "elsewhere"):
        assert told("mine") == 512


def test_neither_torch_nor_transformers_is_imported(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"max_position_embeddings": 512})
    code = (
        "import sys; from agent_finetune import models; "
        "from agent_finetune.config import ModelConfig; "
        "from agent_finetune.contracts import Settings; "
        f"print(models.context_length(ModelConfig(model={str(folder)!r}), Settings())); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["512", "set()"]
