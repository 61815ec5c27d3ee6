#!/usr/bin/env bash
# Trains the demo assistant: one tiny policy that scores, names distortions and their severity, answers
# choices and yes or no, compares two clips, looks at pictures and says where they are impaired. Generated media, two CPU cores.
#   bash run_scripts/run_demo_assistant.sh             below 30 minutes
#   SMOKE=1 bash run_scripts/run_demo_assistant.sh     the same in miniature, to see that everything runs
# OUTPUT_DIR says where results go. Arguments are overrides of the run configuration: seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
thinker=(.venv/bin/python -m thinker.cli)
source run_scripts/lib/demo_records.sh

output=${OUTPUT_DIR:-runs/assistant}
small=() shrink=()
if [[ ${SMOKE:-0} == 1 ]]; then
    small=(--small)
    shrink=(stages.questions.trainer.max_steps=2)
fi
data=$(realpath -m "$output")/data
demo_records "$data" "${small[@]}" &
local_records "$data" "${small[@]}"
wait $!
exec "${thinker[@]}" train --config run_scripts/configs/demo_assistant.yaml \
    "data.variables={ASSISTANT_ROOT: '$data', LOCAL_ROOT: '$data'}" \
    "data.cache=$output/cache" "output_dir=$output" "${shrink[@]}" "$@"
