"""No pickle is unpickled and no code of a model runs, whatever lies in the folders that we read."""

import io
import json
import pickle
import shutil
import tarfile

import pytest
import torch
from live_engines import ask, open_engine

from agent_finetune import adapters, cli, readers, testing
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError, FinetuneError, ModelError
from agent_finetune.versions import Versions

ROWS = [
    {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
    for n in range(4)
]
QUICK = ["--device", "cpu", "--dtype", "float32", "--rank", "2", "--batch-size", "2"]
PLANTED = ("pytorch_model.bin", "training_args.bin", "model.pt", "tokenizer.pkl", "optimizer.pt")
CODE = "open({marker!r}, 'w').close()\nraise SystemExit('this code was run')\n"


class Evil:
    """What opens a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def marker(tmp_path):
    marker = tmp_path / "RAN"
    pickle.loads(pickle.dumps(Evil(marker))).close()
    assert marker.exists()  # the pickle would do it
    marker.unlink()
    yield marker
    assert not marker.exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return testing.save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def trained(tiny, data, tmp_path_factory):
    """A run with checkpoints at steps 1 and 2, to which a third step may be added."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(_train(tiny, data, out, "--max-steps", "2", "--save-steps", "1")) == 0
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def _train(model, data, out, *words):
    return ["train", "--model", str(model), "--data", str(data), "--out", str(out), *QUICK, *words]


def _copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


def _edit(path, **values):
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | values))


def _open(model, **options):
    config = ModelConfig(model=str(model), device="cpu", dtype="float32", **options)
    return adapters.open_model(config, Settings())


def test_pickles_beside_safetensors_are_not_touched(tiny, marker, tmp_path):
    folder = _copy(tiny, tmp_path)
    for name in PLANTED:
        (folder / name).write_bytes(pickle.dumps(Evil(marker)))
        torch.save(Evil(marker), folder / f"zip-{name}")
    assert _open(folder).digest == _open(tiny).digest


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_model_of_pickles_is_refused_by_name(tiny, marker, tmp_path, name):
    folder = _copy(tiny, tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(ModelError, match=r"pickle files .* can run code and are not read"):
        _open(folder)


def test_an_adapter_of_pickles_is_refused_by_name_and_beside_safetensors_not_touched(
    tiny, run, marker
):
    adapter = run / "adapter"
    torch.save(Evil(marker), adapter / "adapter_model.bin")
    assert _open(tiny, adapter=str(adapter)).config.adapter == str(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    for arguments in ({"model": str(tiny), "adapter": str(adapter)}, {"model": str(adapter)}):
        with pytest.raises(ModelError, match=r"adapter_model\.bin, a pickle; pickles can run code"):
            _open(**arguments)
    with pytest.raises(FinetuneError, match=r"adapter_model\.safetensors"):
        adapters.merge(adapter, run / "merged", Settings())


def test_a_live_engine_attaches_no_pickle(tiny, run, marker):
    adapter = run / "adapter"
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(Evil(marker), adapter / "adapter_model.bin")
    engine = open_engine(tiny)
    try:
        before = engine.generate(ask("Hello?", max_new_tokens=2)).message.text
        with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
            engine.attach("evil", adapter)
        assert engine.generate(ask("Hello?", max_new_tokens=2)).message.text == before
    finally:
        engine.close()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_with_code_in_it_is_refused_when_a_run_goes_on(
    tiny, data, run, marker, capsys, name, old
):
    checkpoint = run / "checkpoints" / "checkpoint-2"
    assert (checkpoint / name).is_file()
    if old:  # protocol 2 is the one that PyTorch writes
        (checkpoint / name).write_bytes(pickle.dumps(Evil(marker), protocol=2))
    else:
        torch.save({"state": Evil(marker)}, checkpoint / name)
    torch.save(Evil(marker), checkpoint / "training_args.bin")
    words = ["--max-steps", "3", "--save-steps", "1", "--resume"]
    assert cli.main(_train(tiny, data, run, *words)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {checkpoint}: ")
    assert "which was not run" in said


def test_pickles_of_a_version_are_not_touched(tiny, run, marker, tmp_path):
    versions = Versions(tmp_path / "store", "helper")
    adapter = run / "adapter"
    torch.save(Evil(marker), adapter / "optimizer.pt")
    torch.save(Evil(marker), adapter / "adapter_model.bin")
    assert versions.current() is None
    assert _open(tiny, adapter=str(adapter)).model is not None


@pytest.mark.parametrize("name", ["rows.pkl", "rows.pickle", "cache-0.pkl", "rows.pt", "rows.npy"])
def test_data_in_pickles_is_no_data(marker, tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    for given in (folder, folder / name):
        with pytest.raises(DataError, match=r"\.jsonl"):
            readers.read(str(given), settings=Settings())


def test_a_folder_with_a_loading_script_gives_its_rows_and_runs_nothing(data, marker, tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(CODE.format(marker=str(marker)))
    with pytest.raises(DataError, match="no data file in this folder"):
        readers.read(str(folder), settings=Settings())
    shutil.copy(data, folder)
    assert len(readers.read(str(folder), settings=Settings()).examples) == len(ROWS)


def test_an_archive_is_no_data(marker, tmp_path):
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as archive:
        content = pickle.dumps(Evil(marker))
        entry = tarfile.TarInfo("../escaped.pkl")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(DataError):
        readers.read(str(path), settings=Settings())


def _with_code(folder, marker, *, of):
    """Let a model's configuration, or its tokenizer alone, name code that lies beside it."""
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    if of == "model":
        named = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
        _edit(folder / "config.json", model_type="own", auto_map=named)
    else:
        named = {"AutoTokenizer": ["own.Slow", "own.Fast"]}
        _edit(folder / "tokenizer_config.json", auto_map=named, tokenizer_class="OwnTokenizer")


@pytest.mark.parametrize("of", ["model", "tokenizer"])
def test_code_of_a_model_runs_only_when_it_is_asked_for(tiny, data, tmp_path, capsys, of):
    marker, folder = tmp_path / "RAN", _copy(tiny, tmp_path)
    _with_code(folder, marker, of=of)
    for words in (
        _train(folder, data, tmp_path / "out"),
        ["chat", "--model", str(folder), "--device", "cpu"],
        ["eval", "--model", str(folder), "--data", str(data), "--device", "cpu"],
    ):
        assert cli.main(words) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "needs Python code that comes with it, and running that is off" in said
        assert "--trust-remote-code" in said
    engine = open_engine(folder)
    with pytest.raises(ModelError, match="needs Python code"):
        engine.generate(ask("Hello?"))
    engine.close()
    assert not marker.exists()
    with pytest.raises(SystemExit, match="this code was run"):
        _open(folder, trust_remote_code=True)
    assert marker.exists()


def test_code_of_an_adapters_tokenizer_runs_only_when_it_is_asked_for(tiny, run, tmp_path):
    marker, adapter = tmp_path / "RAN", run / "adapter"
    _with_code(adapter, marker, of="tokenizer")
    with pytest.raises(ModelError, match="its tokenizer needs Python code that comes with it"):
        _open(tiny, adapter=str(adapter))
    engine = open_engine(tiny)
    with pytest.raises(ModelError, match="needs Python code"):
        engine.attach("evil", adapter)
    engine.close()
    assert not marker.exists()
