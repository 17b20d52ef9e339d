"""A trainer up to its first step: model, configuration, data and hooks are read and in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from modelscope.trainers.hooks.builder import HOOKS
from modelscope.utils.logger import get_logger
from modelscope.utils.registry import build_from_cfg
from peft import PeftModel

from agent_finetune.config import DataConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from agent_finetune.models import loaded_context
from agent_finetune.render import Renderer
from agent_finetune.settings import read_settings
from modelscope_agent_train.native import arguments, data, host_config, models
from modelscope_agent_train.native.drafts import Run
from modelscope_agent_train.native.hooked_trainer import HookedTrainer
from modelscope_agent_train.native.translation import Translation, translate
from modelscope_agent_train.tuners import adapter_config, is_tuned

TOOL_EXAMPLES = 32
"""Most held-out examples whose calls are generated at an evaluation, unless told otherwise."""


class PreparedTrainer(HookedTrainer):
    """Holds what is trained, on what, and how."""

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
        notes = arguments.without_effect(others)
        if data_collator is not None:
            notes.append("data_collator: no effect but for its tokenizer, rows are padded here")
        adapter = None if efficient_tuners is None else adapter_config(efficient_tuners)
        self.input_model_id = model if isinstance(model, str) else None
        place = models.folder_of(
            model, model_revision, self.settings, local_files_only=local_files_only
        )
        self.model_dir = None if place is None else str(place)
        method = "lora" if adapter is not None or is_tuned(model) else "full"
        self.cfg = host_config.read(
            cfg_file,
            place,
            default=host_config.default_tree(method=method, evaluates=eval_dataset is not None),
            modify=cfg_modify_fn,
            options=cfg_options,
        )
        self._overrule(work_dir, train_iters_per_epoch, use_fp16)
        self.loaded = models.load(
            model if place is None else str(place),
            revision=model_revision if place is None else None,
            device=device,
            dtype=arguments.dtype(self.cfg.train),
            trust_remote_code=trust_remote_code,
            tokenizers=[tokenizer, *map(arguments.tokenizer_of, (preprocessor, data_collator))],
            adapter=adapter,
            settings=self.settings,
            seed=seed,
        )
        self.device = torch.device(self.loaded.device)
        if chat_template is not None:
            self.loaded.tokenizer.chat_template = chat_template
        self._read_data(train_dataset, eval_dataset, preprocessor, dataset_format, max_length)
        self.adapter = adapter
        self.translation = self._translate(max_epochs)
        for note in (*notes, *self.translation.notes):
            self.logger.warning(note)
        self._max_epochs = self.translation.train.epochs
        self._build_hooks(callbacks)

    @cached_property
    def renderer(self) -> Renderer:
        """Of the tokenizer, which from then on has the template that is served.

        Nobody asks for it where rows have ids: then the tokenizer need not have a template.
        """
        renderer = Renderer(self.loaded.tokenizer)
        self.loaded.tokenizer.chat_template = renderer.adaptation.template
        return renderer

    def _overrule(self, work_dir: str | None, iterations: int | None, use_fp16: bool) -> None:
        """Let arguments win over the configuration, and begin the log."""
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

    def _read_data(
        self,
        train_dataset: Any,
        eval_dataset: Any,
        preprocessor: Any,
        format: str,
        max_length: int | None,
    ) -> None:
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        limit = max_length or self.cfg.train.get("max_length")
        self.data_config = DataConfig(
            data="train_dataset",
            eval_data=None if eval_dataset is None else "eval_dataset",
            format=format,
            max_length=limit,
        )
        limit = limit or loaded_context(self.loaded)
        by_mode = preprocessor if isinstance(preprocessor, Mapping) else None

        def read(given: Any, mode: str) -> data.Data:
            return data.read(
                given,
                lambda: self.renderer,
                self.data_config,
                self.settings,
                limit=limit,
                preprocessor=preprocessor if by_mode is None else by_mode.get(mode),
                report=self.logger.info,
            )

        self.train_data = read(train_dataset, "train")
        self.eval_data = read(eval_dataset, "val")

    def _translate(self, max_epochs: float | None) -> Translation:
        is_adapter = isinstance(self.loaded.model, PeftModel)
        run = Run(
            out=Path(self.work_dir),
            model_dir=None if self.model_dir is None else Path(self.model_dir),
            rows=max(1, len(self.train_data.rows)),
            processes=int(os.environ.get("WORLD_SIZE", "1")),
            evaluates=bool(self.eval_data.rows),
            method="lora" if is_adapter else "full",
            seed=self._seed,
            max_epochs=max_epochs,
            gradient_checkpointing=models.is_checkpointing(self.loaded),
            tool_examples=min(TOOL_EXAMPLES, len(self.eval_data.examples)),
        )
        return translate(self.cfg.to_dict(), host_config.hooks_of(self.cfg), run)

    def _build_hooks(self, callbacks: Any) -> None:
        for hook in self.translation.executed:
            self.register_hook(build_from_cfg(dict(hook), HOOKS))
        given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        for hook in given:
            if hook is not None:
                self.register_hook(hook)
        self._invoke("after_init")
