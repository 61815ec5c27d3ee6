#!/usr/bin/env bash
# Trains a policy by GRPO.
#   bash run_scripts/run_grpo_lsvq.sh                      the demo: generated videos, a tiny policy, two CPU cores
#   SMOKE=1 bash run_scripts/run_grpo_lsvq.sh              the same in miniature, to see that everything runs
#   MODEL=… TRAIN_JSONL=… VIDEO_ROOT=… bash run_scripts/run_grpo_lsvq.sh        LSVQ, or your own data in its form
#   MODEL=… DATASET=set.yaml bash run_scripts/run_grpo_lsvq.sh                  a data set YAML, as thinker import-labels writes it
# The last two hold out a tenth of the contents and score it before, during and after training, unless data.eval or
# data.held_out is among the arguments.
# OUTPUT_DIR says where results go. Arguments are overrides of the run configuration: seed=1 stages.grpo.trainer.beta=0.02
# More than one GPU: NUM_PROCESSES=8 ACCELERATE_CONFIG=run_scripts/configs/zero2.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
python=.venv/bin/python
source run_scripts/lib/launch.sh

given=
for name in MODEL TRAIN_JSONL VIDEO_ROOT DATASET; do
    if [[ -n ${!name:-} ]]; then given+="$name "; fi
done

if [[ $given == "MODEL TRAIN_JSONL VIDEO_ROOT " || $given == "MODEL DATASET " || $given == "MODEL VIDEO_ROOT DATASET " ]]; then
    output=${OUTPUT_DIR:-runs/lsvq}
    arguments=(--config run_scripts/configs/grpo_lsvq.yaml "model.path=$MODEL" "data.cache=$output/cache")
    if [[ -n ${DATASET:-} ]]; then
        arguments+=("stages.grpo.data=[{config: '$DATASET'}]") # VIDEO_ROOT is a variable in it
    else
        arguments+=("stages.grpo.data.0.overrides={train.0.jsonl: '$TRAIN_JSONL', train.0.video_root: '$VIDEO_ROOT'}")
    fi
    if [[ " $*" != *" data.eval"* && " $*" != *" data.held_out="* ]]; then arguments+=(data.held_out=0.1); fi
elif [[ -z $given ]]; then
    output=${OUTPUT_DIR:-runs/demo}
    arguments=(--config run_scripts/configs/grpo_demo.yaml)
    if [[ ${SMOKE:-0} == 1 ]]; then
        arguments=(--config run_scripts/configs/grpo_smoke.yaml)
        "$python" -m thinker.cli demo-data --output "$output/data" --small
    else
        "$python" -m thinker.cli demo-data --output "$output/data"
    fi
    arguments+=("data.variables={DEMO_ROOT: '$(realpath "$output")/data'}" "data.cache=$output/cache")
else
    echo "set MODEL with TRAIN_JSONL and VIDEO_ROOT, or MODEL with DATASET, or none of them for the demo" >&2
    exit 2
fi

exec "${launch[@]}" train "${arguments[@]}" "output_dir=$output" "$@"
