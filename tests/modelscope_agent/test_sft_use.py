"""The script as its users use it: kinds of data, weights, hubs and what comes after a run."""

import json
import re

import modelscope_hub_stand_in as stand_in
import pytest

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Request, Settings
from agent_finetune.errors import ConfigError
from agent_finetune.records import Message
from agent_finetune.testing import save_tiny_model
from modelscope_agent_train import cli
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.opening import SAMPLES, sample_names
from modelscope_agent_train.sft import sft

FLAGS = (
    "sft --gradient_checkpoint false --max_steps 1 --gradient_accumulation_steps 2 "
    "--dataset_test_ratio 0.1 --max_length 2048 --max_new_tokens 4"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own, without the settings or caches of whoever runs this."""
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "AGENT_TRAIN_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def site(monkeypatch):
    with stand_in.serving() as serving:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", serving.url)
        yield serving


def run(tiny, capsys, *more):
    """Train, and answer the run's folder and what was printed."""
    code = cli.main([*FLAGS.split(), "--model_id_or_path", str(tiny), *more])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out.rpartition("run: ")[2].split()[0], printed


def small(tiny, **given):
    few = {"gradient_checkpoint": False, "max_steps": 1, "max_length": 2048, "evaluate": False}
    few |= {"gradient_accumulation_steps": 2}
    return SftArguments(model_id_or_path=str(tiny), **(few | given))


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_train_and_are_measured_on_a_cpu(tiny, place, capsys, bits):
    folder, printed = run(tiny, capsys, "--dataset", "xlam-sample", "--quantization_bit", str(bits))
    assert re.search(rf"--quantization_bit +{bits} +base in {bits}bit", printed.err)
    assert "Traceback" not in printed.err + printed.out
    described = json.loads((place / folder / "run.json").read_text())
    assert described["config"]["model"]["quantization"] == f"{bits}bit"
    assert (place / folder / "adapter/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", sample_names())
def test_every_shipped_sample_is_trained_on(tiny, name):
    result = sft(small(tiny, dataset=name, device="cpu"))
    assert (result.adapter_dir / "adapter_model.safetensors").is_file()


def test_several_data_sets_and_shares_of_them_are_trained_as_one(tiny, place):
    lines = (SAMPLES / "xlam.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "mine.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    names = "msagent-sample#3, xlam-sample#2,mine.jsonl"
    result = sft(small(tiny, dataset=names, max_length=8192, dataset_test_ratio=0))
    data = json.loads((result.output_dir / "run.json").read_text())["data"]
    assert data["train"]["examples"] == 3 + 2 + 3


def test_an_msdataset_is_trained_on(tiny):
    from datasets import Dataset
    from modelscope.msdatasets import MsDataset

    rows = [json.loads(line) for line in (SAMPLES / "xlam.jsonl").read_text().splitlines()]
    data = MsDataset(Dataset.from_list(rows))
    told = []
    result = sft(small(tiny), data=data, report=told.append)
    assert "data: MsDataset[train], format xlam, 6 rows" in told
    assert json.loads((result.output_dir / "sft_args.json").read_text())["dataset"] == "MsDataset"


def test_an_object_and_names_of_data_are_not_taken_together(tiny):
    with pytest.raises(ConfigError, match="data is given too"):
        sft(small(tiny, dataset="xlam-sample"), data=[{}])


def test_a_model_and_data_of_the_hub_are_fetched_trained_and_sent_back(tiny, place, site, capsys):
    site.add("damo/tiny", stand_in.files_of(tiny))
    rows = {"train.jsonl": (SAMPLES / "msagent.jsonl").read_bytes()}
    site.add("damo/MSAgent-Bench", rows, kind="datasets")
    sending = ["--push_to_hub", "true", "--hub_model_id", "me/mine", "--hub_token", stand_in.TOKEN]
    folder, printed = run("damo/tiny", capsys, "--dataset", "damo/MSAgent-Bench#20", *sending)
    sent = site.repos["models/me/mine"]
    files = sent.revisions["master"]
    trained = (place / folder / "adapter/adapter_model.safetensors").read_bytes()
    assert files["adapter_model.safetensors"] == trained
    assert {"README.md", "configuration.json", "chat_template.jinja"} <= set(files)
    assert sent.visibility == 1
    assert f"sent to: {site.url}/models/me/mine" in printed.out
    assert "modelscope_hub" not in printed.err
    assert "Upload Report" not in printed.err + printed.out
    assert stand_in.TOKEN not in printed.err + printed.out
    written = [path for path in place.rglob("*") if path.is_file()]
    assert not [path for path in written if stand_in.TOKEN.encode() in path.read_bytes()]


def test_where_sending_fails_the_figures_and_the_adapter_are_told_all_the_same(
    tiny, place, site, capsys, monkeypatch
):
    def away(self):
        self.hub.status = 500
        self.refuse(500, "the hub is being repaired")

    monkeypatch.setattr(stand_in._Handler, "do_POST", away)
    sending = ["--push_to_hub", "true", "--hub_model_id", "me/mine", "--hub_token", stand_in.TOKEN]
    words = [*FLAGS.split(), "--model_id_or_path", str(tiny), "--dataset", "msagent-sample"]
    assert cli.main([*words, *sending]) == 2
    told = capsys.readouterr().err
    assert "right tool names" in told
    assert "adapter: runs/" in told
    assert told.splitlines()[-1].startswith("error: ")


@pytest.fixture(scope="module")
def legacy(tiny, tmp_path_factory):
    """A run on the text of 2023."""
    out = tmp_path_factory.mktemp("legacy")
    result = sft(
        small(tiny, legacy_format=True, dataset="msagent-sample", output_dir=str(out)),
        settings=Settings(),
    )
    return result.output_dir


def answered(capsys, *words):
    code = cli.main([*map(str, words)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed


def test_a_model_of_2023s_text_is_measured_in_both_ways_and_in_free_runs(legacy, capsys):
    few = ["--dataset", "msagent-sample#2", "--max_new_tokens", "4"]
    text = answered(capsys, "eval", "--ckpt_dir", legacy, *few, "--legacy_format", "true")
    assert "in the text form of 2023: 2 examples" in text.out
    runs = answered(capsys, "eval", "--ckpt_dir", legacy, *few, "--free_run", "true")
    assert re.search(r"progress +[0-9.]+ +2", runs.out)
    assert "template" not in runs.err


def test_free_runs_in_the_form_of_2023_are_refused_before_a_model_is_loaded(legacy, capsys):
    flags = ["--dataset", "msagent-sample", "--free_run", "true", "--legacy_format", "true"]
    assert cli.main(["eval", "--ckpt_dir", str(legacy), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("so leave --legacy_format out")


def test_a_model_of_2023s_text_is_served_in_that_text(legacy, tiny, capsys):
    config = ModelConfig(model=str(tiny), adapter=str(legacy / "adapter"), dtype="float32")
    engine = plugins.open_engine(EngineConfig(model=config), Settings())
    try:
        said = engine.generate(
            Request(messages=(Message(role="user", text="Hello"),), max_new_tokens=3)
        )
    finally:
        engine.close()
    told = answered(
        capsys,
        "infer",
        "--ckpt_dir",
        legacy,
        "--dtype",
        "fp32",
        "--query",
        "Hello",
        "--max_new_tokens",
        3,
        "--stream",
        "false",
    )
    assert told.out.strip() == said.message.text.strip()


def test_a_merged_model_answers_and_is_measured_alone(legacy, capsys):
    merged = answered(capsys, "export", "--ckpt_dir", legacy)
    assert merged.err == ""
    folder = merged.out.strip()
    few = ["--dtype", "fp32", "--max_new_tokens", "3"]
    report = answered(capsys, "eval", "--ckpt_dir", folder, "--dataset", "msagent-sample#2", *few)
    assert "right tool names" in report.out
    said = [
        answered(capsys, "infer", "--ckpt_dir", one, "--query", "Hello", "--stream", "false", *few)
        for one in (folder, legacy)
    ]
    assert said[0].out == said[1].out


def test_whole_weights_are_trained_without_bars_in_a_log(tiny, capsys):
    _, printed = run(tiny, capsys, "--dataset", "xlam-sample", "--sft_type", "full")
    assert "model shards" not in printed.err
    assert "model: runs/" in printed.out


def test_figures_that_cannot_be_written_are_told_before_anything_is_measured(tiny, place, capsys):
    (place / "a file").touch()
    flags = ["--dataset", "xlam-sample", "--output_dir", "a file"]
    assert cli.main(["eval", "--model_id_or_path", str(tiny), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --output_dir a file")
