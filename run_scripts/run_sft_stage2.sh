#!/usr/bin/env bash
# Stage 2: the level of a video, then of streamed videos with their stalls.
#   MODEL=runs/stage1/final bash run_scripts/run_sft_stage2.sh         the demo, after that of stage 1
#   MODEL=… UGC=levels.yaml STREAMING=streaming.yaml bash run_scripts/run_sft_stage2.sh
# MODEL is a checkpoint or a saved policy; the variables name data set YAMLs (data_configs/README.md, LLaVA's lists of files
# with sampling_strategy too). OUTPUT_DIR says where results go. Arguments are overrides of the run configuration.
set -euo pipefail
run=stage2
sets=("ugc UGC data_configs/demo/assistant_levels.yaml" "streaming STREAMING data_configs/demo/stalled.yaml")
declare -A parts=([ugc]="vision_tower vision_projector slowfast motion_projector language_model" [streaming]="vision_tower vision_projector slowfast motion_projector language_model")
source "$(dirname "${BASH_SOURCE[0]}")/lib/sft_stage.sh"
exec "${launch[@]}" train "${arguments[@]}" "output_dir=$output" "$@"
