"""Folders of runs: names, what is found in them, and training once."""

import json
import threading

import pytest
from live_engines import make_adapter

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, ModelError, TrainError
from agent_finetune.testing import save_tiny_model
from agentscope_finetune import runs


def find(pretrained=None, local=None):
    return runs.find_model(pretrained, None if local is None else str(local), Settings())


def finish(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", **content}))


def test_runs_of_one_second_get_folders_of_their_own(tmp_path):
    names = sorted(runs.claim(tmp_path / "new", "gemma-7b").name for _ in range(3))
    assert len(set(names)) == 3
    assert all(name.startswith("sft_gemma-7b_2") for name in names)


def test_runs_that_begin_at_once_never_share_a_folder(tmp_path):
    claimed = []
    threads = [
        threading.Thread(target=lambda: claimed.append(runs.claim(tmp_path, "m"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(claimed)) == 8


def test_an_output_dir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output_dir is .*file"):
        runs.claim(tmp_path / "file", "m")
    with (
        pytest.raises(ConfigError, match="output_dir is"),
        runs.alone(tmp_path / "file", "key", threading.Event()),
    ):
        pass


def test_a_folder_is_given_up_only_while_no_run_has_begun_in_it(tmp_path):
    empty, begun = tmp_path / "empty", tmp_path / "begun"
    empty.mkdir()
    (empty / ".lock").write_text("")
    finish(begun)
    runs.give_up(empty)
    runs.give_up(begun)
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("google/gemma-7b", "gemma-7b"),
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("/models/open_llama_3b_v2/", "open_llama_3b_v2"),
        ("/models/smol.Q4_1.gguf", "smol.Q4_1"),
    ],
)
def test_a_run_is_named_after_its_model(model, name):
    assert runs.base_name(ModelConfig(model=model)) == name


def test_a_model_that_a_run_left_passes_its_name_on(tmp_path):
    finish(tmp_path / "sft_x", config={"model": {"model": "google/gemma-7b"}})
    assert runs.base_name(ModelConfig(model=str(tmp_path / "sft_x" / "model"))) == "gemma-7b"


def test_a_pretrained_model_alone_is_that_model():
    assert find("google/gemma-7b") == ModelConfig(model="google/gemma-7b")


def test_a_model_must_be_named():
    with pytest.raises(ConfigError, match="give pretrained_model_name_or_path"):
        find()


def test_a_local_model_wins_over_the_pretrained_one(tmp_path):
    save_tiny_model(tmp_path)
    assert find("google/gemma-7b", tmp_path) == ModelConfig(model=str(tmp_path))


def test_an_adapter_is_found_in_its_folder_and_in_that_of_its_run(tmp_path):
    base = save_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "sft_base" / "adapter", seed=1)
    expected = ModelConfig(model=str(base), adapter=str(adapter))
    assert find(local=adapter) == expected
    assert find(local=tmp_path / "sft_base") == expected
    assert find("other/base", adapter) == ModelConfig(model="other/base", adapter=str(adapter))


def test_a_whole_model_is_found_in_the_folder_of_its_run(tmp_path):
    save_tiny_model(tmp_path / "sft_base" / "model")
    assert find(local=tmp_path / "sft_base").model == str(tmp_path / "sft_base" / "model")


def test_a_run_that_has_not_finished_is_not_loaded(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "running"}')
    with pytest.raises(ModelError, match="not finished, 'running'"):
        find(local=tmp_path)


def test_a_local_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere.* does not exist; legal are"):
        find(local=tmp_path / "nowhere")


def test_the_log_history_has_the_shape_of_2024(tmp_path):
    line = {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-3, "grad_norm": 1.0}
    lines = [
        {**line, "tokens": 9, "tokens_per_second": 3.0, "seconds": 1.0},
        {"step": 1, "epoch": 0.5, "eval_loss": 3.0, "seconds": 1.5},
        {**line, "step": 2, "epoch": 1.0, "loss": 1.0, "tokens": 18, "seconds": 2.0},
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    runs.write_log_history(tmp_path)
    assert json.loads((tmp_path / "log_history.json").read_text()) == [
        line,
        {"step": 1, "epoch": 0.5, "eval_loss": 3.0},
        {**line, "step": 2, "epoch": 1.0, "loss": 1.0},
        {"train_runtime": 2.0, "train_loss": 1.5, "epoch": 1.0, "step": 2},
    ]


def test_equal_keys_are_of_equal_trainings_wherever_they_run(tmp_path):
    save_tiny_model(tmp_path)
    here, there = (ModelConfig(model=str(tmp_path), device=device) for device in ("cpu", "cuda"))
    key = runs.key_of(here, "sha256:1", {"rank": 4})
    assert runs.key_of(there, "sha256:1", {"rank": 4}) == key
    assert runs.key_of(here, "sha256:2", {"rank": 4}) != key
    assert runs.key_of(here, "sha256:1", {"rank": 8}) != key
    assert runs.key_of(ModelConfig(model="other/model"), "sha256:1", {"rank": 4}) != key


def test_what_is_asked_for_by_many_at_once_is_trained_once(tmp_path):
    made = []

    def train():
        folder = runs.claim(tmp_path, "m")
        made.append(folder)
        finish(folder)
        return folder

    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(runs.once(tmp_path, "key", train, threading.Event()))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == made * 6


def test_a_run_that_was_removed_is_trained_again(tmp_path):
    def train():
        folder = runs.claim(tmp_path, "m")
        finish(folder)
        return folder

    first = runs.once(tmp_path, "key", train, threading.Event())
    (first / "run.json").unlink()
    assert runs.once(tmp_path, "key", train, threading.Event()) != first


def test_waiting_for_another_training_can_be_stopped(tmp_path):
    stop = threading.Event()
    with runs.alone(tmp_path, "key", threading.Event()):
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(TrainError, match="stopped while another"):
            runs.once(tmp_path, "key", lambda: tmp_path, stop)


def test_a_training_that_fails_lets_the_next_one_try(tmp_path):
    def fail():
        raise TrainError("out of memory")

    with pytest.raises(TrainError, match="out of memory"):
        runs.once(tmp_path, "key", fail, threading.Event())
    finish(tmp_path / "sft_m")
    assert runs.once(tmp_path, "key", lambda: tmp_path / "sft_m", threading.Event()).name == "sft_m"
