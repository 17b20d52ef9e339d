"""`agent-sft`: ModelScope's trainer, whose loop is the kernel's.

It takes the arguments of `EpochBasedTrainer` and promises hooks what that promises them. Model,
data and configuration are read when it is made; `train` hands them to the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from modelscope.trainers.hooks.builder import HOOKS
from modelscope.utils.constant import ModeKeys
from modelscope.utils.logger import get_logger
from modelscope.utils.registry import build_from_cfg
from peft import PeftModel

from agent_finetune import adapters, generate, plugins
from agent_finetune import evaluate as kernel_evaluation
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig
from agent_finetune.contracts import LoadedModel, Settings, TrainJob, TrainResult
from agent_finetune.errors import ConfigError
from agent_finetune.models import loaded_context
from agent_finetune.records import Example
from agent_finetune.render import Renderer
from agent_finetune.settings import read_settings
from agent_finetune.train import distributed
from agent_finetune.train.job import placed
from modelscope_agent_train.native import data as rows
from modelscope_agent_train.native import host_config, models, outputs, restoring
from modelscope_agent_train.native.drafts import Run
from modelscope_agent_train.native.hook_runner import HookRunner
from modelscope_agent_train.native.hooked_trainer import HookedTrainer
from modelscope_agent_train.native.translation import Translation, translate
from modelscope_agent_train.registration import loaded as module_loaded
from modelscope_agent_train.tuners import adapter_config

TOOL_EXAMPLES = 32
"""Most held-out examples whose calls are generated at an evaluation, unless told otherwise."""
_NO_EFFECT = {
    "samplers": "rows are shuffled by seed",
    "compile": "the model is not compiled",
    "compile_options": "the model is not compiled",
    "remove_unused_data": "batches hold what the model takes",
    "launcher": "torchrun starts the processes",
    "val_iters_per_epoch": "all of eval_dataset is measured",
    "third_party": "nothing is reported to a hub",
    "arg_parse_fn": "the command line is not read; change the configuration with cfg_modify_fn",
}
"""Arguments of `EpochBasedTrainer` that do nothing here, and why."""


class AgentTrainer(HookedTrainer):
    """Fine-tunes a causal language model on the conversations of an agent."""

    def __init__(
        self,
        model: torch.nn.Module | str,
        cfg_file: str | None = None,
        cfg_modify_fn: Callable[[Any], Any] | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        preprocessor: Any = None,
        optimizers: Sequence[Any] = (None, None),
        model_revision: str | None = None,
        seed: int = 42,
        callbacks: Any = None,
        efficient_tuners: Any = None,
        *,
        work_dir: str | None = None,
        max_epochs: float | None = None,
        train_iters_per_epoch: int | None = None,
        use_fp16: bool = False,
        device: str | None = None,
        cfg_options: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
        tokenizer: Any = None,
        max_length: int | None = None,
        dataset_format: str = "auto",
        chat_template: str | None = None,
        local_files_only: bool = False,
        settings: Settings | None = None,
        **others: Any,
    ) -> None:
        """Load the model, read the data, and find out what the configuration means.

        Args:
            model: A folder, an id, or a module of Transformers that is loaded already.
            cfg_file: The configuration; else the model's configuration.json, else a default.
            cfg_modify_fn: Gets the configuration and answers the one to use.
            data_collator: Only looked at for its `tokenizer`: padding is the kernel's.
            train_dataset: A name, path, `MsDataset` or list of conversations, several of them, or
                a dataset whose items have `input_ids` and `labels`.
            eval_dataset: Likewise, to measure on.
            preprocessor: Makes `input_ids` and `labels` of a row; or one each, by `train`, `val`.
            optimizers: Legal is (None, None); the configuration says how to optimize.
            model_revision: Of an id.
            seed: Of the shuffle, a new adapter and dropout.
            callbacks: Hooks, besides those of the configuration.
            efficient_tuners: `LoRAConfig` or `peft.LoraConfig`; without one, and without an
                adapter on the model, every weight is trained.
            work_dir: The run's folder; wins over `train.work_dir`.
            max_epochs: Passes over the data; wins over `train.max_epochs`.
            train_iters_per_epoch: Iterations after which an epoch counts as over.
            use_fp16: As `train.use_fp16`.
            device: `cpu`, `gpu`, `cuda` or `cuda:N`; unset, the first GPU there is.
            cfg_options: Keys of the configuration with dots, and their values.
            trust_remote_code: Run Python code that comes with the model.
            tokenizer: Of a module; else that of data_collator or preprocessor, else of its folder.
            max_length: Most tokens in a row; unset, what the model's context holds.
            dataset_format: Name of the data's format; auto finds it.
            chat_template: Instead of the model's own.
            local_files_only: Never look for the model on a hub.
            settings: Of tests; else the environment's.
            others: Arguments of `EpochBasedTrainer` that do nothing here; they are named.

        Raises:
            FinetuneError: Something the user must change; the message says what.
        """
        super().__init__(seed)
        self.settings = settings or read_settings()
        if any(part is not None for part in optimizers):
            raise ConfigError("optimizers is given; say it in train.optimizer and lr_scheduler")
        notes = _noted(others)
        if data_collator is not None:
            notes.append("data_collator: no effect but for its tokenizer, rows are padded here")
        adapter = None if efficient_tuners is None else adapter_config(efficient_tuners)
        self._find(model, model_revision, local_files_only)
        is_tuned = adapter is not None or _has_adapter(model)
        self.method = "lora" if is_tuned else "full"
        self.cfg = host_config.read(
            cfg_file,
            None if self.model_dir is None else Path(self.model_dir),
            default=host_config.default_tree(
                method=self.method, evaluates=eval_dataset is not None
            ),
            modify=cfg_modify_fn,
            options=cfg_options,
        )
        self._overrule(work_dir, train_iters_per_epoch, use_fp16)
        tokenizers = [tokenizer, *map(_tokenizer_of, (preprocessor, data_collator))]
        self._load(model, model_revision, device, trust_remote_code, tokenizers, adapter)
        self._render(
            dataset_format, chat_template, max_length, (train_dataset, eval_dataset), preprocessor
        )
        self._lora = adapter or AdapterConfig()
        self.translation = self._translate(max_epochs)
        for note in (*notes, *self.translation.notes):
            self.logger.warning(note)
        self._max_epochs = self.translation.train.epochs
        self._build_hooks(callbacks)

    # What is done.

    def train(
        self, checkpoint_path: str | None = None, load_all_state: bool = True, **_: Any
    ) -> TrainResult:
        """Train, and leave behind what the configuration asks for.

        Under torchrun every process calls this.

        Args:
            checkpoint_path: A checkpoint of `work_dir/checkpoints` to go on from; the newest whole
                one there is taken, and must be this.
            load_all_state: Legal is True: a checkpoint is gone on from with its optimizer.
            _: `strict`; a checkpoint that does not fit is always an error.

        Raises:
            FinetuneError: Something the user must change; the message says what.
        """
        if not self.train_data.rows:
            raise ConfigError("there is no train_dataset; give one")
        if not load_all_state:
            raise ConfigError("load_all_state is False; give the checkpoint as model instead")
        config = self._run_config(resume=checkpoint_path is not None)
        distributed.check(config)
        if checkpoint_path is not None:
            restoring.check_newest(Path(self.work_dir), Path(checkpoint_path))
        job = TrainJob(
            config=config,
            loaded=self.loaded,
            train_rows=self.train_data.rows,
            eval_rows=self.eval_data.rows,
            eval_examples=self.eval_data.examples[: config.train.eval_generate],
            out=Path(self.work_dir),
            callbacks=(HookRunner(self),),
            facts={"data": {"train": self.train_data.facts, "eval": self.eval_data.facts}},
        )
        result = plugins.train_adapter(job)
        outputs.write(self, result)
        return result

    def evaluate(
        self,
        checkpoint_path: str | None = None,
        saving_fn: Callable[..., Any] | None = None,
        **_: Any,
    ) -> Mapping[str, float]:
        """Measure the model on eval_dataset.

        Args:
            checkpoint_path: Measure these weights: a checkpoint, an adapter or a model folder.
            saving_fn: Called with each example and the model's answer to it, as `predict` does.
            _: `strict`; weights that do not fit are always an error.

        Raises:
            ConfigError: There is no eval_dataset.
        """
        if not self.eval_data.rows:
            raise ConfigError("there is no eval_dataset; give one")
        if checkpoint_path is not None:
            restoring.load_weights(self.model, Path(checkpoint_path))
        self._mode = ModeKeys.EVAL
        self._invoke("before_val")
        batch = self.translation.train.batch_size
        loss = kernel_evaluation.evaluate_loss(
            self.loaded, self.eval_data.rows, batch_size=batch
        ).loss
        count = self.translation.train.eval_generate
        tools = {}
        if examples := self.eval_data.examples[:count]:
            tools = dict(kernel_evaluation.evaluate(self.loaded, examples).metrics)
        self._metric_values = _named(loss) | tools
        if saving_fn is not None:
            self._answer(self.eval_data.examples, saving_fn)
        self._invoke("after_val")
        self._mode = ModeKeys.TRAIN
        return self._metric_values

    def predict(
        self,
        predict_datasets: Any,
        saving_fn: Callable[..., Any] | None = None,
        checkpoint_path: str | None = None,
        strict: bool = False,
    ) -> list[dict[str, Any]]:
        """Let the model give the answer that each conversation ends with.

        Args:
            predict_datasets: As train_dataset; an assistant turn at the end is what is answered.
            saving_fn: Called with `inputs` (`messages`, `tools`, `id`) and `outputs` of each.
            checkpoint_path: As in `evaluate`.
            strict: Weights that do not fit are always an error.

        Returns:
            `text`, `thinking`, and `calls` with `name` and `arguments`, of each.
        """
        if checkpoint_path is not None:
            restoring.load_weights(self.model, Path(checkpoint_path))
        examples = rows.examples_of(predict_datasets, self.data_config, self.settings)
        return self._answer(examples, saving_fn)

    def take_metrics(self, metrics: Mapping[str, float]) -> None:
        """Keep an evaluation of the kernel under ModelScope's names."""
        found = _named(float(metrics["eval_loss"]))
        if self.translation.train.eval_generate:
            found |= restoring.tool_metrics(Path(self.work_dir))
        self._metric_values = found

    # How it is made.

    def _find(self, model: Any, revision: str | None, local_files_only: bool) -> None:
        """Find the folder of a model that is given by name."""
        self.model_dir: str | None = None
        self.input_model_id = model if isinstance(model, str) else None
        if isinstance(model, str):
            from modelscope_agent_train import hub

            found = hub.resolve(
                model, revision, settings=self.settings, local_files_only=local_files_only
            )
            self.model_dir = found.location if Path(found.location).is_dir() else None

    def _overrule(self, work_dir: str | None, iterations: int | None, use_fp16: bool) -> None:
        """Arguments that win over the configuration."""
        train = self.cfg.train
        if work_dir is not None:
            train["work_dir"] = str(work_dir)
        if iterations is not None:
            train["train_iters_per_epoch"] = iterations
        if use_fp16:
            train["use_fp16"] = True
        self.work_dir = str(train.get("work_dir") or "./work_dir")
        os.makedirs(self.work_dir, exist_ok=True)
        log_file = os.path.join(self.work_dir, f"{self.timestamp}.log")
        self.logger = get_logger(log_file=log_file, log_level=self.cfg.get("log_level", "INFO"))

    def _load(
        self,
        model: Any,
        revision: str | None,
        device: str | None,
        trust_remote_code: bool,
        tokenizers: list[Any],
        adapter: AdapterConfig | None,
    ) -> None:
        processes = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        if isinstance(model, torch.nn.Module):
            found = models.take(model, tokenizers, self.settings, seed=self._seed)
        else:
            config = ModelConfig(
                model=self.model_dir or model,
                revision=None if self.model_dir else revision,
                device={"gpu": "auto", None: "auto"}.get(device, device or "auto"),
                dtype=self._dtype(),
                trust_remote_code=trust_remote_code,
            )
            found = models.load(placed(config, processes), self.settings)
        self.loaded: LoadedModel = models.with_adapter(found, adapter, seed=self._seed)
        if isinstance(self.loaded.model, PeftModel):
            self.method = "lora"
        self.device = torch.device(self.loaded.device)

    def _dtype(self) -> Any:
        train = self.cfg.train
        if train.get("bf16"):
            return "bfloat16"
        return "float16" if train.get("use_fp16") else "auto"

    def _render(
        self,
        format: str,
        chat_template: str | None,
        max_length: int | None,
        data: tuple[Any, Any],
        preprocessor: Any,
    ) -> None:
        if chat_template is not None:
            self.loaded.tokenizer.chat_template = chat_template
        limit = max_length or self.cfg.train.get("max_length")
        self.data_config = DataConfig(
            data="train_dataset",
            eval_data="eval_dataset" if data[1] is not None else None,
            format=format,
            max_length=limit,
        )
        limit = limit or loaded_context(self.loaded)
        both = preprocessor if isinstance(preprocessor, Mapping) else None
        made = {}
        self.renderer: Renderer | None = None
        for name, given in zip(("train", "val"), data, strict=True):
            made[name] = rows.read(
                given,
                self._renderer,
                self.data_config,
                self.settings,
                limit=limit,
                preprocessor=preprocessor if both is None else both.get(name),
                report=self.logger.info,
            )
        self.train_data, self.eval_data = made["train"], made["val"]
        self.train_dataset, self.eval_dataset = data

    def _renderer(self) -> Renderer:
        """Of the tokenizer, which from then on has the template that is served."""
        if self.renderer is None:
            self.renderer = Renderer(self.loaded.tokenizer)
            self.loaded.tokenizer.chat_template = self.renderer.adaptation.template
        return self.renderer

    def _translate(self, max_epochs: float | None) -> Translation:
        model = adapters.base_model(self.loaded.model)
        checkpointing = any(
            getattr(module, "gradient_checkpointing", False) for module in model.modules()
        )
        return translate(
            self.cfg.to_dict(),
            host_config.hooks_of(self.cfg),
            Run(
                out=Path(self.work_dir),
                model_dir=None if self.model_dir is None else Path(self.model_dir),
                rows=max(1, len(self.train_data.rows)),
                processes=int(os.environ.get("WORLD_SIZE", "1")),
                evaluates=bool(self.eval_data.rows),
                method=self.method,
                seed=self._seed,
                max_epochs=max_epochs,
                gradient_checkpointing=checkpointing,
                tool_examples=min(TOOL_EXAMPLES, len(self.eval_data.examples)),
            ),
        )

    def _run_config(self, *, resume: bool) -> RunConfig:
        return RunConfig(
            model=self.loaded.config,
            data=self.data_config,
            out=self.work_dir,
            lora=self._lora,
            train=replace(self.translation.train, resume=resume),
        )

    def _build_hooks(self, callbacks: Any) -> None:
        for hook in self.translation.executed:
            self.register_hook(build_from_cfg(dict(hook), HOOKS))
        given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        for hook in given:
            if hook is not None:
                self.register_hook(hook)
        self._invoke("after_init")

    def _answer(
        self, examples: Sequence[Example], saving_fn: Callable[..., Any] | None
    ) -> list[dict[str, Any]]:
        renderer = self._renderer()
        asked = [_asked(example) for example in examples]
        prompts = [
            renderer.prompt_ids(renderer.said_messages(each.messages), each.tools) for each in asked
        ]
        answers = generate.complete(
            self.loaded,
            prompts,
            stop_ids=renderer.stop_ids,
            stop_strings=renderer.stop_strings,
        )
        found = []
        for example, ids in zip(asked, answers, strict=True):
            turn = renderer.parse(ids, example.tools)
            calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.calls]
            outputs = {"text": turn.text, "thinking": turn.thinking, "calls": calls}
            found.append(outputs)
            if saving_fn is not None:
                inputs = {"id": example.id, "messages": example.messages, "tools": example.tools}
                saving_fn(inputs, outputs)
        return found


def _asked(example: Example) -> Example:
    """The conversation up to the answer that it ends with."""
    last = example.messages[-1]
    if last.role != "assistant" or len(example.messages) == 1:
        return example
    return replace(example, messages=example.messages[:-1])


def _named(loss: float) -> dict[str, float]:
    """A mean loss in nats under each name that configurations know it by."""
    doubt = float(torch.tensor(loss, dtype=torch.float64).exp())
    return {"loss": loss, "eval_loss": loss, "ppl": doubt, "agent-ppl": doubt}


def _noted(others: Mapping[str, Any]) -> list[str]:
    for name in others:
        if name not in _NO_EFFECT:
            raise ConfigError(
                f"{name!r} is no argument of agent-sft; without effect, but legal are "
                f"{', '.join(_NO_EFFECT)}"
            )
    return [f"{name}: no effect, {_NO_EFFECT[name]}" for name, value in others.items() if value]


def _tokenizer_of(holder: Any) -> Any:
    """The tokenizer of a collator or preprocessor, or of the first that has one."""
    if isinstance(holder, Mapping):
        return next(filter(None, map(_tokenizer_of, holder.values())), None)
    return getattr(holder, "tokenizer", None)


def _has_adapter(model: Any) -> bool:
    from modelscope_agent_train.tuners import TUNED

    return isinstance(model, PeftModel) or TUNED in getattr(model, "__dict__", {})


module_loaded(__name__)
