#!/usr/bin/env bash
# Trains the demo assistant: one tiny policy that scores, names distortions and their severity, answers
# choices and yes or no, compares two clips, and looks at pictures. Generated media, two CPU cores.
#   bash run_scripts/run_demo_assistant.sh             below 20 minutes
#   SMOKE=1 bash run_scripts/run_demo_assistant.sh     the same in miniature, to see that everything runs
# OUTPUT_DIR says where results go. Arguments are overrides of the run configuration: seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
thinker=(.venv/bin/python -m thinker.cli)

output=${OUTPUT_DIR:-runs/assistant}
small=() shrink=()
if [[ ${SMOKE:-0} == 1 ]]; then
    small=(--small)
    shrink=(stages.recognise.trainer.max_steps=2 stages.answer.trainer.max_steps=2 stages.score.trainer.max_steps=1
        "stages.score.trainer.per_device_train_batch_size=16")
fi
mkdir -p "$output/data"
data=$(realpath "$output")/data
"${thinker[@]}" demo-data --output "$data/clips" "${small[@]}"
"${thinker[@]}" demo-data --pictures --output "$data/pictures" "${small[@]}"

# records NAME KIND SPLIT OPTIONS…: questions of one kind about clips, and about pictures where their labels are named
records() {
    local file=$data/$1.jsonl kind=$2 split=$3
    rm -f "$file"
    "${thinker[@]}" records "$kind" --split "$split" --form short --output "$file" "${@:4}" | tail -n 1
}
for split in train eval; do
    mos=(--mos "$data/clips/$([[ $split == train ]] && echo train.jsonl || echo eval.json)" --scale 1:5)
    seen=(--media-root "$data/clips/videos")
    truth=(--distortions "$data/clips/distortions.json")
    records "${split}_distortion" distortion "$split" --severity "${truth[@]}" "${seen[@]}"
    records "${split}_level" ugc "$split" "${mos[@]}" "${seen[@]}"
    records "${split}_binary" binary "$split" "${truth[@]}" "${seen[@]}"
    records "${split}_pair" pair "$split" "${mos[@]}" "${seen[@]}"

    mos=(--mos "$data/pictures/$split.json" --scale 1:5)
    seen=(--media-root "$data/pictures/pictures")
    truth=(--distortions "$data/pictures/distortions.json")
    records "${split}_picture_distortion" distortion "$split" --severity "${truth[@]}" "${seen[@]}"
    records "${split}_picture_level" ugc "$split" "${mos[@]}" "${seen[@]}"
    records "${split}_picture_binary" binary "$split" "${truth[@]}" "${seen[@]}"
done

exec "${thinker[@]}" train --config run_scripts/configs/demo_assistant.yaml "data.variables={ASSISTANT_ROOT: '$data'}" \
    "data.cache=$output/cache" "output_dir=$output" "${shrink[@]}" "$@"
