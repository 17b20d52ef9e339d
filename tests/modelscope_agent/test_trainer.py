"""`build_trainer('agent-sft', ...)`: trains, measures, predicts, and leaves behind what it says."""

import json

import pytest
import torch
from modelscope_trainers import SAMPLE, TokenRows, conversations, tiny_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

import modelscope_agent_train as package
from agent_finetune.errors import ConfigError, DataError, ModelError
from agent_finetune.testing import tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


def build(folder, tmp_path, **arguments):
    from modelscope.trainers import build_trainer

    arguments = {
        "model": str(folder),
        "train_dataset": conversations(2),
        "work_dir": str(tmp_path / "run"),
        "max_epochs": 1,
        **arguments,
    }
    return build_trainer("agent-sft", {k: v for k, v in arguments.items() if v is not None})


def fast(cfg):
    cfg.train.optimizer.lr = 1e-2
    return cfg


def test_every_weight_is_trained_where_no_tuner_is_given(folder, tmp_path):
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    trainer = build(folder, tmp_path, cfg_modify_fn=fast)
    result = trainer.train()
    assert result.steps == 2
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "output")
    for name, value in saved.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
    assert not all(torch.equal(before[n], v) for n, v in saved.state_dict().items())


def test_a_tuner_trains_an_adapter_that_peft_loads(folder, tmp_path):
    from peft import LoraConfig, PeftModel

    lora = LoraConfig(r=2, target_modules=["q_proj"], lora_alpha=4)
    trainer = build(folder, tmp_path, efficient_tuners=lora, cfg_modify_fn=fast)
    trainer.train()
    base = AutoModelForCausalLM.from_pretrained(folder)
    saved = PeftModel.from_pretrained(base, str(tmp_path / "run" / "output"))
    assert any(value.any() for name, value in saved.state_dict().items() if "lora_B" in name)


def test_a_configuration_of_the_model_is_taken_and_the_function_has_the_last_word(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    tree = {"task": "text-generation", "train": {"max_epochs": 3, "optimizer": {"lr": 0.5}}}
    (folder / "configuration.json").write_text(json.dumps(tree))
    seen = []

    def modify(cfg):
        seen.append(cfg.train.optimizer.lr)
        cfg.train.dataloader.batch_size_per_gpu = 2
        return cfg

    trainer = build(folder, tmp_path, cfg_modify_fn=modify, max_epochs=None)
    assert seen == [0.5]
    assert (trainer.max_epochs, trainer.translation.train.batch_size) == (3, 2)
    assert trainer.translation.train.learning_rate == 0.5


def test_it_measures_and_predicts(folder, tmp_path):
    trainer = build(folder, tmp_path, eval_dataset=conversations(2, start=2))
    assert trainer.metric_values is None
    found = trainer.evaluate()
    assert trainer.metric_values == found
    assert found["ppl"] == pytest.approx(torch.tensor(found["loss"]).exp().item(), rel=1e-5)
    saved = []
    answers = trainer.predict(conversations(2), lambda inputs, outputs: saved.append(outputs))
    assert saved == answers
    assert {"text", "thinking", "calls"} == answers[0].keys()


def test_tool_calls_are_scored_where_the_metric_asks_for_it(folder, tmp_path):
    def modify(cfg):
        cfg.evaluation.metrics = ["ppl", {"type": "agent-tool-metric", "examples": 1}]
        return cfg

    rows = conversations(1)
    trainer = build(folder, tmp_path, eval_dataset=rows, cfg_modify_fn=modify)
    trainer.train()
    assert {"ppl", "cut_off"} <= trainer.metric_values.keys()


@pytest.mark.parametrize("kind", ["path", "MsDataset", "several"])
def test_data_is_a_path_an_msdataset_or_several(folder, tmp_path, kind):
    from modelscope.msdatasets import MsDataset

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(SAMPLE.read_text("utf-8").splitlines()[:3]), "utf-8")
    data = {"path": str(file), "several": [str(file), "msagent-sample"]}
    given = data[kind] if kind in data else MsDataset.load(str(file))
    trainer = build(folder, tmp_path, train_dataset=given)
    assert len(trainer.train_data.examples) == (27 if kind == "several" else 3)


def test_the_loss_of_a_script_that_tokenizes_by_itself_is_that_of_its_labels(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    row = TokenRows()[0]
    right = model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss.item()

    class Collating:
        tokenizer = tiny_tokenizer()

    trainer = build(
        None,
        tmp_path,
        model=model,
        train_dataset=TokenRows(1),
        eval_dataset=TokenRows(1),
        data_collator=Collating(),
    )
    assert trainer.evaluate()["loss"] == pytest.approx(right, rel=1e-5)
    trainer.train()
    assert trainer.loaded.tokenizer is not None


def test_shifted_labels_are_refused(folder, tmp_path):
    class Shifted(TokenRows):
        def __getitem__(self, place):
            row = super().__getitem__(place)
            return row | {"labels": row["labels"].roll(1)}

    with pytest.raises(DataError, match="must not be shifted"):
        build(folder, tmp_path, train_dataset=Shifted())


def test_a_model_changed_in_place_by_swift_is_trained_with_its_adapter(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    package.Swift.prepare_model(model, package.LoRAConfig(replace_modules=["q_proj"], rank=2))
    trainer = build(None, tmp_path, model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    trainer.train()
    assert (tmp_path / "run" / "output" / "adapter_model.safetensors").is_file()


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(folder, tmp_path):
    """Half a run and the other half are the whole run."""

    def modify(cfg):
        cfg.train.lr_scheduler.type = "ConstantLR"
        cfg.train.optimizer.options.warmup = {}
        return cfg

    arguments = {"cfg_modify_fn": modify, "efficient_tuners": package.LoRAConfig(rank=2)}
    whole = build(folder, tmp_path, work_dir=str(tmp_path / "whole"), max_epochs=2, **arguments)
    whole.train()
    build(folder, tmp_path, **arguments).train()
    second = build(folder, tmp_path, max_epochs=2, **arguments)
    second.train(str(tmp_path / "run" / "checkpoints" / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value)


def test_weights_of_a_checkpoint_are_measured(folder, tmp_path):
    data = {"eval_dataset": conversations(1), "efficient_tuners": package.LoRAConfig(rank=2)}
    trainer = build(folder, tmp_path, cfg_modify_fn=fast, **data)
    before = trainer.evaluate()["loss"]
    trainer.train()
    after = trainer.metric_values["loss"]
    assert after != before
    fresh = build(folder, tmp_path, work_dir=str(tmp_path / "other"), **data)
    assert fresh.evaluate()["loss"] == pytest.approx(before)
    place = str(tmp_path / "run" / "checkpoints" / "checkpoint-2")
    assert fresh.evaluate(place)["loss"] == pytest.approx(after, rel=1e-4)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        fresh.evaluate(str(folder))


def test_the_best_weights_are_kept_where_the_hook_asks_for_it(folder, tmp_path):
    def modify(cfg):
        cfg.train.hooks.append({"type": "BestCkptSaverHook", "metric_key": "ppl", "rule": "min"})
        return fast(cfg)

    trainer = build(folder, tmp_path, eval_dataset=conversations(1, 2), cfg_modify_fn=modify)
    trainer.train()
    assert (tmp_path / "run" / "output_best" / "model.safetensors").is_file()


def test_our_build_trainer_takes_the_default_name_and_leaves_its_arguments_alone(folder, tmp_path):
    arguments = {"model": str(folder), "train_dataset": conversations(1)}
    given = {**arguments, "work_dir": str(tmp_path / "run")}
    trainer = package.build_trainer(name="trainer", default_args=given)
    assert isinstance(trainer, package.AgentTrainer)
    assert given.keys() == {*arguments, "work_dir"}


def test_what_it_measures_is_what_it_predicts(folder, tmp_path):
    trainer = build(folder, tmp_path, eval_dataset=conversations(1), use_fp16=False)
    measured, predicted = [], []
    trainer.evaluate(saving_fn=lambda inputs, outputs: measured.append((inputs, outputs)))
    weights = trainer.model.state_dict()["model.embed_tokens.weight"].clone()
    place = str(folder)  # a model folder holds every weight
    trainer.predict(
        conversations(1), lambda inputs, outputs: predicted.append((inputs, outputs)), place
    )
    assert [said for _, said in measured] == [said for _, said in predicted]
    assert torch.equal(trainer.model.state_dict()["model.embed_tokens.weight"], weights)
    assert measured[0][0]["messages"][-1].role != "assistant"
    assert {hook for hook in map(type, trainer.hooks) if trainer.get_hook(hook)}


def test_weights_that_do_not_fit_or_are_not_there_are_an_error(folder, tmp_path):
    from safetensors.torch import save_file

    trainer = build(folder, tmp_path, eval_dataset=conversations(1))
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match="no weights in safetensors"):
        trainer.evaluate(str(tmp_path / "other"))
    save_file({"foreign": torch.zeros(1)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ModelError, match=r"do not fit the model \(foreign"):
        trainer.evaluate(str(tmp_path / "other"))


def test_iterations_count_as_an_epoch_and_a_template_is_taken(folder, tmp_path):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    trainer = build(
        folder,
        tmp_path,
        train_iters_per_epoch=1,
        use_fp16=True,
        train_dataset=None,
        chat_template=template,
    )
    assert trainer.translation.train.max_steps == 1
    assert trainer.loaded.dtype == "float16"
    assert trainer.loaded.tokenizer.chat_template == template
    with pytest.raises(ConfigError, match="there is no train_dataset"):
        trainer.train()
    with pytest.raises(ConfigError, match="there is no eval_dataset"):
        trainer.evaluate()


def test_a_run_goes_on_only_from_its_own_newest_checkpoint(folder, tmp_path):
    trainer = build(folder, tmp_path)
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        trainer.train(str(folder))
    with pytest.raises(ConfigError, match="load_all_state is False"):
        trainer.train(load_all_state=False)
    trainer.train()
    with pytest.raises(ConfigError, match="the newest whole one"):
        build(folder, tmp_path, max_epochs=2).train(str(folder))


def test_rows_may_be_made_by_a_preprocessor_and_long_ones_are_left_out(folder, tmp_path):
    from modelscope_agent_train.preprocessor import AgentPreprocessor

    short = AgentPreprocessor(str(folder))
    rows = conversations(3)
    lengths = sorted(len(short(row)["input_ids"]) for row in rows)
    trainer = build(
        folder,
        tmp_path,
        train_dataset=rows,
        preprocessor={"train": short, "val": short},
        max_length=lengths[1],
    )
    assert sorted(row.length for row in trainer.train_data.rows) == lengths[:2]
    assert trainer.train_data.facts["too_long"] == 1
    with pytest.raises(DataError, match="raise max_length"):
        build(folder, tmp_path, train_dataset=rows, preprocessor=short, max_length=8)


def test_rows_in_which_nothing_is_learned_are_refused(folder, tmp_path):
    class Silent(TokenRows):
        def __getitem__(self, place):
            row = super().__getitem__(place)
            return {name: value[None] for name, value in row.items()} | {
                "labels": torch.full((1, 12), -100).tolist()
            }

    with pytest.raises(DataError, match="nothing to train"):
        build(folder, tmp_path, train_dataset=Silent())


def test_another_trainer_is_built_by_modelscope():
    with pytest.raises(KeyError, match="no-such-trainer"):
        package.build_trainer("no-such-trainer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wrk_dir": "x"}, "'wrk_dir' is no argument"),
        ({"optimizers": ("sgd", None)}, r"train\.optimizer"),
        ({"efficient_tuners": {"rnk": 1, "alpha": 2}}, "'rnk'"),
        ({"model": torch.nn.Linear(1, 1)}, "legal are a folder, an id"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(folder, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(folder, tmp_path, **arguments)
