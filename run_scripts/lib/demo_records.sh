# Makes the media and the questions that the demo assistant and the demos of the stages learn from. To be sourced; needs
# `thinker` (the command, an array). Usage: demo_records FOLDER [--small]
demo_records() {
    local data=$1 small=("${@:2}") split mos seen truth
    mkdir -p "$data"
    "${thinker[@]}" demo-data --output "$data/clips" "${small[@]}"
    "${thinker[@]}" demo-data --pictures --output "$data/pictures" "${small[@]}"
    for split in train eval; do
        mos=(--mos "$data/clips/$([[ $split == train ]] && echo train.jsonl || echo eval.json)" --scale 1:5)
        seen=(--media-root "$data/clips/videos")
        truth=(--distortions "$data/clips/distortions.json")
        questions "${split}_distortion" distortion --severity "${truth[@]}"
        questions "${split}_level" ugc "${mos[@]}"
        if [[ $split == train ]]; then questions train_score score "${mos[@]}"; fi
        questions "${split}_binary" binary "${truth[@]}"
        questions "${split}_pair" pair "${mos[@]}"
        questions "${split}_comparison" comparison "${mos[@]}" "${truth[@]}"

        mos=(--mos "$data/pictures/$split.json" --scale 1:5)
        seen=(--media-root "$data/pictures/pictures")
        truth=(--distortions "$data/pictures/distortions.json")
        questions "${split}_picture_distortion" distortion --severity "${truth[@]}"
        questions "${split}_picture_level" ugc "${mos[@]}"
        questions "${split}_picture_binary" binary "${truth[@]}"
    done
    grep '"concern": "motion"' "$data/eval_distortion.jsonl" >"$data/eval_motion_distortion.jsonl"
    # plain text: what is said of distortions, without the clips
    sed -E 's/"task": "distortion", "video": "[^"]*"/"task": "open"/; s/<video>\\n//' \
        "$data/train_distortion.jsonl" >"$data/train_words.jsonl"
}

# Makes what the demo of ViDA-UGC's recipe learns from: pictures with local distortions in all nine roles, clips, and
# plain text. Usage: vida_records FOLDER [--small]
vida_records() {
    local data=$1 small=("${@:2}") split=train seen role
    mkdir -p "$data"
    "${thinker[@]}" demo-data --output "$data/clips" "${small[@]}"
    "${thinker[@]}" demo-data --local --output "$data/local" "${small[@]}"
    seen=(--media-root "$data/local/pictures" --metadata "$data/local/metadata.json" --scale 1:5)
    for role in assess brief-assess dist-assess dist-detect reg-perception ref-grounding mcq qa image-score; do
        questions "vida_$role" "$role"
    done
    # plain text: what is asked and answered of clips, without them
    sed -E 's/"video": \["[^"]*"\], //; s/<video>\\n//' "$data/clips/distortion.jsonl" >"$data/vida_words.jsonl"
}

# questions NAME KIND OPTIONS…: records of one kind, about the media that `seen` and `split` say
questions() {
    local file=$data/$1.jsonl
    rm -f "$file"
    "${thinker[@]}" records "$2" --split "$split" "${seen[@]}" --form short --output "$file" "${@:3}" | tail -n 1
}
