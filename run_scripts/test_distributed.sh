#!/usr/bin/env bash
# Does training by two processes equal training by one, however the weights are sharded? DDP, ZeRO-2, ZeRO-3, FSDP2; LoRA,
# checkpointing, KL, iterations, evaluation, both back ends, two backbones: 15 runs in which every pair of settings occurs,
# on two CPU cores over gloo. Some 40 minutes. The record lies in benchmarks/distributed.json.
#   bash run_scripts/test_distributed.sh [OUTPUT_DIR]
# Runs that OUTPUT_DIR/distributed.json holds are not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
export PYTHONPATH=$PWD OMP_NUM_THREADS=1
exec .venv/bin/python -m tests.helpers.sharding_matrix "${1:-runs/distributed}"
