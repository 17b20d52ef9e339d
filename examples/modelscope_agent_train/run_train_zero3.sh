#!/usr/bin/env bash
# Train in NPROC processes that share out the weights too (ZeRO stage 3).
# All else is as in run_train_ddp.sh; flags given to this script win: run_train_zero3.sh --model_type qwen3-8b
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

exec "$here/run_train_ddp.sh" --deepspeed "$here/ds_stage_3.json" "$@"
