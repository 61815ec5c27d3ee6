#!/usr/bin/env bash
# Detailed assessment of pictures after ViDA-UGC: LoRA on the language model, the vision projector and the vision tower
# trained beside it, on pictures, videos and plain text in one stage.
#   bash run_scripts/run_sft_vida.sh                 the demo: generated media, a tiny policy, two CPU cores
#   MODEL=… RECORDS=records.yaml bash run_scripts/run_sft_vida.sh
# MODEL is a checkpoint or a saved policy; RECORDS names a data set YAML (data_configs/README.md). OUTPUT_DIR says where
# results go. Arguments are overrides of the run configuration, such as the bounds of pictures of a Qwen2.5-VL policy:
# model.clip.image_min_pixels=3136 model.clip.image_max_pixels=3211264
set -euo pipefail
run=vida
sets=("lessons RECORDS data_configs/demo/vida.yaml")
maker=vida_records
texts=null      # all that the lessons say
declare -A parts=([lessons]="lora vision_projector vision_tower")
source "$(dirname "${BASH_SOURCE[0]}")/lib/sft_stage.sh"
exec "${launch[@]}" train "${arguments[@]}" "output_dir=$output" "$@"
