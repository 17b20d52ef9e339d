"""The way of 2023: tokenize, build_trainer, and a cfg_modify_fn that appends a DeepspeedHook.

`python finetune_tool.py --model FOLDER --dataset_json_file rows.jsonl`; with `--deepspeed
ds_stage_2.json` under torchrun. Two imports are all that changed: what came from
`modelscope.trainers` and from `modelscope.swift` now comes from `modelscope_agent_train`.
"""

import argparse
import json
import re

import torch
from modelscope.msdatasets.dataset_cls.custom_datasets.torch_custom_dataset import (
    TorchCustomDataset,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelscope_agent_train import LoRAConfig, Swift, build_trainer

EXEC = re.compile(r"(<\|startofexec\|>.*?<\|endofexec\|>)", re.DOTALL)


class ToolDataset(TorchCustomDataset):
    """Ids and labels of conversations; what a tool answered is not learned."""

    def __init__(self, conversations, tokenizer, max_length):
        self.rows = [row(turns, tokenizer, max_length) for turns in conversations]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.rows[place]


def row(turns, tokenizer, max_length):
    ids, labels = [], []
    for turn in turns:
        head = f"<|{turn['from']}|>:" if not ids else f"\n\n<|{turn['from']}|>:"
        for piece in EXEC.split(head + turn["value"]):
            tokens = tokenizer(piece, add_special_tokens=False)["input_ids"]
            learned = turn["from"] == "assistant" and not EXEC.fullmatch(piece)
            ids += tokens
            labels += tokens if learned else [-100] * len(tokens)
    return {
        "input_ids": torch.tensor(ids[:max_length]),
        "labels": torch.tensor(labels[:max_length]),
    }


class Collator:
    """Pads a batch, as ModelScope's own trainer needs it."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, rows):
        pad = torch.nn.utils.rnn.pad_sequence
        ids, labels = ([row[name] for row in rows] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "labels": pad(labels, batch_first=True, padding_value=-100),
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset_json_file", required=True)
    parser.add_argument("--work_dir", default="work_dir")
    parser.add_argument("--max_length", type=int, default=2048)
    parser.add_argument("--use_lora", type=int, default=1)
    parser.add_argument("--lora_replace_module", default="q_proj")
    parser.add_argument("--deepspeed")
    args = parser.parse_args()

    with open(args.dataset_json_file, encoding="utf-8") as file:
        conversations = [json.loads(line)["conversations"] for line in file]
    split = max(1, int(len(conversations) * 0.98))
    model = AutoModelForCausalLM.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if args.use_lora:
        lora = LoRAConfig(replace_modules=[args.lora_replace_module], rank=8, lora_alpha=32)
        Swift.prepare_model(model, lora)

    def cfg_modify_fn(cfg):
        cfg.train.work_dir = args.work_dir
        cfg.train.optimizer = {
            "type": "AdamW",
            "lr": 1e-4,
            "weight_decay": 0.01,
            "options": {
                "cumulative_iters": 2,
                "grad_clip": {"norm_type": 2, "max_norm": 2.0},
                "warmup": {"warmup_ratio": 0.1},
            },
        }
        if "hooks" not in cfg.train:
            cfg.train["hooks"] = []
        if args.deepspeed:
            cfg.train.hooks.append(
                {
                    "type": "DeepspeedHook",
                    "config": args.deepspeed,
                    "save_zero_checkpoint": True,
                    "with_mpu": False,
                }
            )
        return cfg

    kwargs = dict(  # noqa: C408  # as in 2023
        model=model,
        train_dataset=ToolDataset(conversations[:split], tokenizer, args.max_length),
        eval_dataset=ToolDataset(conversations[split:], tokenizer, args.max_length) or None,
        seed=42,
        cfg_modify_fn=cfg_modify_fn,
        data_collator=Collator(tokenizer),
        max_epochs=1,
    )
    trainer = build_trainer(name="trainer", default_args=kwargs)
    trainer.train()


if __name__ == "__main__":
    main()
