# Makes the data of the film run (docs/film.md): sources out of registry packages, clips and labels, and the lessons of the warm start.
# To be sourced from the root of the checkout; needs `thinker` (the command, an array). Usage: film_data FOLDER
source run_scripts/lib/demo_records.sh # questions

film_data() {
    local data=$1 set
    if ! .venv/bin/python -c 'from thinker.data.reference_labels.vmaf import find_vmaf; find_vmaf()' 2>/dev/null; then
        .venv/bin/python -m pip install --quiet '.[vmaf]' # an ffmpeg with libvmaf
    fi
    .venv/bin/python run_scripts/film_sources.py "$data/sources"
    for set in film natural; do
        "${thinker[@]}" make-labels --sources "$data/sources/$set" --output "$data/$set" --config "data_configs/film/$set.yaml"
    done
    film_lessons "$data/film"
    grep -oh '"value": "[^"]*"' "$data"/film/train_*.jsonl | cut -d'"' -f4 | sort -u >"$data/texts.txt"
}

# Lessons about the training clips. Usage: film_lessons FOLDER
film_lessons() {
    local data=$1 split=train
    local seen=(--media-root "$data/clips" --distortions "$data/distortions.json" --mos "$data/vmaf_train.jsonl" --scale 0:100)
    questions train_words distortion --severity &
    questions train_levels ugc --share 0.05
    questions train_reasoning reasoning --severity --share 0.05
    wait $!
}
