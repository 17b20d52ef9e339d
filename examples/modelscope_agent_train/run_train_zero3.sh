#!/usr/bin/env bash
# Train in NPROC processes that share out the weights too (ZeRO stage 3).
# Flags given to this script are added to those below, and win: run_train_zero3.sh --model_type qwen3-8b
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
processes="${NPROC:-4}"

# 16 rows in a step, whatever the number of processes.
torchrun --nproc-per-node "$processes" --master-port "${MASTER_PORT:-29500}" "$here/llm_sft.py" \
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
  --gradient_accumulation_steps "$((16 / processes))" \
  --eval_steps 50 \
  --save_steps 50 \
  --save_total_limit 2 \
  --logging_steps 20 \
  --use_flash_attn true \
  --deepspeed "$here/ds_stage_3.json" \
  "$@"
