#!/usr/bin/env bash
# Trains a tiny policy to guess VMAF of real pictures: clips of a film, degraded and labelled here (docs/film.md). Two CPU cores; needs
# pip's registry and, for two of the natural clips, apt-get's.
#   bash run_scripts/run_grpo_film.sh
#   SMOKE=1 bash run_scripts/run_grpo_film.sh      the same with two updates a stage, to see that everything runs
# OUTPUT_DIR says where results go, DATA_DIR where the clips are made, once for all runs. Arguments are overrides of the run
# configuration: seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
thinker=(.venv/bin/python -m thinker.cli)
source run_scripts/lib/film_data.sh

output=${OUTPUT_DIR:-runs/film}
data=$(realpath -m "${DATA_DIR:-$output/data}")
shrink=()
if [[ ${SMOKE:-0} == 1 ]]; then
    shrink=(stages.warm_start.trainer.max_steps=2 stages.grpo.trainer.max_steps=2)
fi
film_data "$data"
exec "${thinker[@]}" train --config run_scripts/configs/grpo_film.yaml "data.variables={FILM_ROOT: '$data'}" "data.cache=$output/cache" \
    "output_dir=$output" "${shrink[@]}" "$@"
