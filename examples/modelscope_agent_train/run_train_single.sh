#!/usr/bin/env bash
# Train an adapter in one process.
# Flags given to this script are added to those below, and win: run_train_single.sh --model_type qwen3-8b
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

python "$here/llm_sft.py" \
  --model_type qwen2.5-7b-instruct \
  --sft_type lora \
  --output_dir runs \
  --dataset damo/MSAgent-Bench \
  --dataset_sample 20000 \
  --dataset_test_ratio 0.02 \
  --max_length 2048 \
  --dtype bf16 \
  --lora_rank 8 \
  --lora_alpha 32 \
  --lora_dropout_p 0.1 \
  --batch_size 1 \
  --learning_rate 1e-4 \
  --gradient_accumulation_steps 16 \
  --eval_steps 50 \
  --save_steps 50 \
  --save_total_limit 2 \
  --logging_steps 20 \
  --use_flash_attn true \
  "$@"
