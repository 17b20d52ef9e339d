import json
from dataclasses import asdict
from pathlib import Path

import pytest
from live_engines import close_all, config_of, make_adapter
from safetensors.torch import load_file

from agent_finetune.contracts import Settings
from agent_finetune.roles.prompts import ROLES
from agent_finetune.testing import save_tiny_model


@pytest.fixture
def costs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from multillm import costs

    yield costs
    close_all()


def weights(path):
    return sum(tensor.nbytes for tensor in load_file(path).values())


def manifest(folder, parts, **options):
    model = save_tiny_model(folder / "model")
    for seed, path in enumerate(dict.fromkeys(parts.values())):
        make_adapter(model, folder / path, seed=seed)
    told = {"version": 1, "layout": "roles", "method": "lora", "parts": parts, **options}
    told["model"] = asdict(config_of(model))
    (folder / "roles.json").write_text(json.dumps(told))
    return model


def test_three_roles_share_one_backbone_and_a_switch_moves_nothing(costs, tmp_path):
    model = manifest(tmp_path, {part.value: f"{part}/adapter" for part in ROLES})
    found = costs.team_cost(tmp_path, Settings(), tokens=3, repeats=2)
    base = weights(model / "model.safetensors")
    one, *others = (weights(tmp_path / p / "adapter" / "adapter_model.safetensors") for p in ROLES)
    # Beside the weights there are tables of rotary positions.
    assert base + one <= found.one_adapter_bytes <= 1.01 * (base + one)
    assert found.three_adapters_bytes - found.one_adapter_bytes == sum(others)
    assert found.memory_ratio == found.three_adapters_bytes / found.one_adapter_bytes
    assert (found.switches, found.moved_bytes) == (4, 0)
    assert found.one_role_ms > 0 < found.switching_ms
    for reading in found.second_turn.values():
        assert 0 < reading.cached_tokens < reading.prompt_tokens
    assert json.loads(json.dumps(asdict(found)))["second_turn"].keys() == set(map(str, ROLES))


def test_roles_that_share_an_adapter_have_no_switch_to_measure(costs, tmp_path):
    manifest(tmp_path, {part.value: "all/adapter" for part in ROLES}, layout="multi-task")
    with pytest.raises(ValueError, match="multi-task; measured are roles with an adapter each"):
        costs.team_cost(tmp_path, Settings())
