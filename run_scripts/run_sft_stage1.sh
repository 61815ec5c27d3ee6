#!/usr/bin/env bash
# Stage 1: what distorts pictures and videos. The vision tower learns from pictures, SlowFast from videos.
#   bash run_scripts/run_sft_stage1.sh                 the demo: generated media, a tiny policy, two CPU cores
#   MODEL=… IMAGES=images.yaml VIDEOS=videos.yaml bash run_scripts/run_sft_stage1.sh
# MODEL is a checkpoint or a saved policy; the variables name data set YAMLs (data_configs/README.md, LLaVA's lists of files
# with sampling_strategy too). OUTPUT_DIR says where results go. Arguments are overrides of the run configuration.
set -euo pipefail
run=stage1
sets=("images IMAGES data_configs/demo/assistant_pictures.yaml" "videos VIDEOS data_configs/demo/assistant_names.yaml")
declare -A parts=([images]="vision_tower vision_projector" [videos]="slowfast motion_projector")
source "$(dirname "${BASH_SOURCE[0]}")/lib/sft_stage.sh"
exec "${launch[@]}" train "${arguments[@]}" "output_dir=$output" "$@"
