#!/usr/bin/env bash
# Every equality test on the backbones on which CI runs only those that a backbone most needs: packed against plain rows,
# vLLM against transformers, encode-once counts, checkpoints, conversations, SFT and GRPO. Two CPU cores, some 30 minutes.
#   bash run_scripts/test_backbones.sh                                      all of them
#   bash run_scripts/test_backbones.sh tests/rollout                        some of the tests
#   THINKER_BACKBONES="internvl3_5" bash run_scripts/test_backbones.sh      one backbone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
export THINKER_BACKBONES="${THINKER_BACKBONES:-internvl3_5 llava_onevision qwen2_vl qwen3_vl}" OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest -q --timeout 900 -k "${THINKER_BACKBONES// / or }" "$@"
