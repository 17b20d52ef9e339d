import pickle

import pytest

from agent_finetune.errors import ConfigError
from agent_finetune.settings import TOKEN_NAMES, read_settings

NAMES = (*TOKEN_NAMES, "HF_HUB_OFFLINE", "AGENT_FINETUNE_CACHE")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_nothing_set_gives_the_defaults():
    settings = read_settings()
    assert settings.hub_token is None
    assert not settings.offline
    assert settings.cache_dir.parts[-2:] == (".cache", "agent-finetune")


def test_the_token_is_read_from_the_env_file_in_the_current_folder(tmp_path):
    (tmp_path / ".env").write_text("HF_TOKEN=hf_from_file\n")
    assert read_settings().hub_token.reveal() == "hf_from_file"


def test_the_environment_wins_over_the_file_under_either_name(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("HF_TOKEN=hf_from_file\n")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_from_environment")
    assert read_settings().hub_token.reveal() == "hf_from_environment"


def test_the_hub_s_own_names_of_the_token_win_over_huggingface_token(tmp_path):
    (tmp_path / ".env").write_text("HUGGINGFACE_TOKEN=hf_older\n")
    assert read_settings().hub_token.reveal() == "hf_older"
    (tmp_path / ".env").write_text("HUGGINGFACE_TOKEN=hf_older\nHF_TOKEN=hf_own\n")
    assert read_settings().hub_token.reveal() == "hf_own"


def test_an_empty_value_counts_as_not_set(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("HF_TOKEN=hf_from_file\n")
    monkeypatch.setenv("HF_TOKEN", " ")
    assert read_settings().hub_token.reveal() == "hf_from_file"


def test_a_dollar_in_a_token_is_taken_as_it_is(tmp_path):
    (tmp_path / ".env").write_text("HF_TOKEN=hf_${HOME}x\n")
    assert read_settings().hub_token.reveal() == "hf_${HOME}x"


def test_the_token_never_shows_itself(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    settings = read_settings()
    assert "very_secret" not in f"{settings} {settings!r} {settings.hub_token}"
    with pytest.raises(TypeError):
        pickle.dumps(settings.hub_token)


def test_reading_leaves_the_environment_alone(tmp_path):
    import os

    (tmp_path / ".env").write_text("HF_TOKEN=x\nHF_HUB_OFFLINE=1\n")
    before = dict(os.environ)
    read_settings()
    assert dict(os.environ) == before


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("ON", True), ("false", False)])
def test_offline_takes_the_values_that_the_hub_takes(monkeypatch, value, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert read_settings().offline is offline


def test_an_unknown_offline_value_is_refused_with_the_legal_ones(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "maybe")
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is 'maybe'; legal values are 1, on"):
        read_settings()


def test_a_relative_cache_folder_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_FINETUNE_CACHE", "here")
    assert read_settings().cache_dir == tmp_path / "here"


def test_a_named_env_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.env' does not exist"):
        read_settings(tmp_path / "nowhere.env")


def test_an_env_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "bad.env").write_bytes(b"HF_TOKEN=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"bad.env: cannot be read as UTF-8"):
        read_settings(tmp_path / "bad.env")
