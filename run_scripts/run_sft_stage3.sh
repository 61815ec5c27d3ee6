#!/usr/bin/env bash
# Stage 3: questions of all kinds about videos and pictures, and plain text.
#   MODEL=runs/stage2/final bash run_scripts/run_sft_stage3.sh         the demo, after that of stage 2
#   MODEL=… QUESTIONS=questions.yaml bash run_scripts/run_sft_stage3.sh
# MODEL is a checkpoint or a saved policy; the variables name data set YAMLs (data_configs/README.md, LLaVA's lists of files
# with sampling_strategy too). OUTPUT_DIR says where results go. Arguments are overrides of the run configuration.
set -euo pipefail
run=stage3
sets=("questions QUESTIONS data_configs/demo/assistant_clips.yaml")
declare -A parts=([questions]="vision_tower vision_projector slowfast motion_projector language_model")
source "$(dirname "${BASH_SOURCE[0]}")/lib/sft_stage.sh"
exec "${launch[@]}" train "${arguments[@]}" "output_dir=$output" "$@"
