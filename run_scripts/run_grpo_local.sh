#!/usr/bin/env bash
# Trains a tiny policy to say what impairs a picture and where, with the rewards of boxes, levels, choices, distortions and
# scores in one GRPO run. Generated pictures, two CPU cores. What GRPO gains, and what it does not: docs/log.md, "Boxes".
#   bash run_scripts/run_grpo_local.sh
#   SMOKE=1 bash run_scripts/run_grpo_local.sh     the same in miniature, to see that everything runs
# OUTPUT_DIR says where results go. Arguments are overrides of the run configuration: seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
thinker=(.venv/bin/python -m thinker.cli)
source run_scripts/lib/demo_records.sh

output=${OUTPUT_DIR:-runs/local}
small=() shrink=()
if [[ ${SMOKE:-0} == 1 ]]; then
    small=(--small)
    shrink=(stages.lessons.trainer.max_steps=2 stages.grpo.trainer.max_steps=2)
fi
data=$(realpath -m "$output")/data
local_records "$data" "${small[@]}"
exec "${thinker[@]}" train --config run_scripts/configs/grpo_demo_local.yaml "data.variables={LOCAL_ROOT: '$data'}" \
    "data.cache=$output/cache" "output_dir=$output" "${shrink[@]}" "$@"
