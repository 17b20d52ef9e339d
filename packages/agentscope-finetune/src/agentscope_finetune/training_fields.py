"""Fields of Transformers' TrainingArguments and TRL's SFTConfig, and what each means here.

Those that Transformers has dropped since 2024 are among them. Names are written out, so that a
configuration is read without importing either library.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentscope_finetune.values2024 import Reader, choice, flag, number, whole


def _words(text: str) -> list[str]:
    return text.split()


TAKEN: Mapping[str, tuple[str, Reader]] = {
    "per_device_train_batch_size": ("batch_size", whole(least=1)),
    "per_gpu_train_batch_size": ("batch_size", whole(least=1)),
    "gradient_accumulation_steps": ("gradient_accumulation", whole(least=1)),
    "gradient_checkpointing": ("gradient_checkpointing", flag),
    "activation_checkpointing": ("gradient_checkpointing", flag),
    "num_train_epochs": ("epochs", number(above=True)),
    "learning_rate": ("learning_rate", number(above=True)),
    "lr_scheduler_type": (
        "schedule",
        choice("linear", "cosine", "constant", "constant_with_warmup"),
    ),
    "warmup_ratio": ("warmup", number(most=0.99)),
    "weight_decay": ("weight_decay", number()),
    "max_grad_norm": ("max_grad_norm", number(above=True)),
    "seed": ("seed", whole(least=0)),
    "logging_steps": ("log_steps", whole(least=1)),
    "save_total_limit": ("keep_checkpoints", whole(least=1)),
    "packing": ("pack", flag),
    "padding_free": ("pack", flag),
}
"""Fields that become a field of our TrainConfig as they are."""

READ = frozenset(
    _words(
        "max_steps warmup_steps eval_strategy evaluation_strategy eval_steps save_strategy "
        "save_steps optim bf16 fp16 use_cpu no_cuda data_seed output_dir max_length max_seq_length"
    )
)
"""Fields that take more than a reader."""

FIXED: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(
        _words(
            "lr_scheduler_kwargs optim_args optim_target_modules neftune_noise_alpha "
            "dataset_kwargs model_init_kwargs parallelism_config chat_template_path eos_token "
            "pad_token deepspeed resume_from_checkpoint"
        ),
        (None, {}),
    ),
    **dict.fromkeys(
        _words(
            "adafactor group_by_length auto_find_batch_size load_best_model_at_end push_to_hub "
            "dataloader_drop_last trust_remote_code sharded_ddp shuffle_dataset"
        ),
        (False, None),
    ),
    "adam_beta1": (0.9,),
    "adam_beta2": (0.999,),
    "adam_epsilon": (1e-8,),
    "label_smoothing_factor": (0.0,),
    "past_index": (-1,),
    "fsdp": (None, "", [], False),
    "fsdp_min_num_params": (0,),
    "loss_type": ("nll", None),
    "train_sampling_strategy": ("random",),
    "router_aux_loss_coef": (None, 0.0, 0.001),
    "truncation_mode": ("keep_start", None),
}
"""Fields that would change what is learned or where it goes, and the values that do not."""

_NOTES = {
    "every run has its own folder with history.jsonl and log_history.json; nothing is sent away": (
        "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id "
        "logging_dir hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision "
        "push_to_hub_model_id push_to_hub_organization overwrite_output_dir"
    ),
    "secret, not read here; the token comes from .env": "hub_token push_to_hub_token",
    "a line every logging_steps": (
        "logging_strategy logging_first_step log_on_each_node logging_nan_inf_filter log_level "
        "log_level_replica disable_tqdm include_num_input_tokens_seen include_tokens_per_second"
    ),
    "held-out data, where there is any, is measured at the start and at each evaluation": (
        "per_device_eval_batch_size per_gpu_eval_batch_size eval_delay eval_on_start do_eval "
        "prediction_loss_only eval_accumulation_steps eval_do_concat_batches eval_packing "
        "eval_use_gather_object include_for_metrics include_inputs_for_metrics batch_eval_metrics "
        "metric_for_best_model greater_is_better label_names"
    ),
    "checkpoints are whole, and weights are safetensors": (
        "save_only_model save_safetensors save_on_each_node enable_jit_checkpoint ignore_data_skip "
        "restore_callback_states_from_checkpoint"
    ),
    "only the model's own turns are trained, always": "completion_only_loss assistant_only_loss",
    "the number format of the model decides": (
        "bf16_full_eval fp16_full_eval tf32 fp16_opt_level fp16_backend half_precision_backend "
        "use_ipex jit_mode_eval"
    ),
    "speed and memory only; not used here": (
        "torch_compile torch_compile_backend torch_compile_mode torchdynamo use_liger_kernel "
        "liger_kernel_config gradient_checkpointing_kwargs activation_checkpointing_kwargs "
        "torch_empty_cache_steps use_cache activation_offloading pad_to_multiple_of "
        "packing_strategy"
    ),
    "how data is fetched is the reader's": (
        "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order "
        "dataset_num_proc dataset_text_field dataset_batch_size remove_unused_columns "
        "length_column_name dispatch_batches split_batches"
    ),
    "training runs in a process of its own on one device": (
        "local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
        "ddp_static_graph ddp_backend ddp_timeout tpu_num_cores tpu_metrics_debug use_mps_device "
        "xpu_backend mp_parameters ray_scope average_tokens_across_devices "
        "accelerator_config fsdp_config fsdp_transformer_layer_cls_to_wrap"
    ),
    "no effect": (
        "do_train do_predict debug skip_memory_metrics full_determinism use_legacy_prediction_loop"
    ),
}
NOTED: Mapping[str, str] = {name: why for why, names in _NOTES.items() for name in _words(names)}
"""Fields that change nothing in what is learned, each with what is done instead."""

NAMES = frozenset({*TAKEN, *READ, *FIXED, *NOTED})
"""Every field that is known."""

EVERY = ("no", "steps", "epoch")
"""Legal strategies of evaluating and saving."""

ADAMW = (
    *_words("adamw_torch adamw_torch_fused adamw_hf adamw_bnb_8bit adamw_8bit paged_adamw_32bit"),
    *_words("paged_adamw_8bit adamw_apex_fused adamw_torch_xla adamw_torch_npu_fused"),
    "adamw_anyprecision",
)
"""Optimizers that are AdamW; ours is too."""
