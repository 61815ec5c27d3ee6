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

# Makes pictures whose distortions have a place, in the nine roles of ViDA-UGC, their main distortion and their score.
# Usage: local_records FOLDER [--small]
local_records() {
    local data=$1 small=("${@:2}") split seen role
    mkdir -p "$data"
    "${thinker[@]}" demo-data --local --output "$data/local" "${small[@]}"
    seen=(--media-root "$data/local/pictures" --metadata "$data/local/metadata.json")
    for split in train eval; do
        for role in assess brief-assess dist-assess dist-detect reg-perception ref-grounding mcq qa image-score; do
            questions "local_${split}_$role" "$role"
        done
        questions "local_${split}_distortion" distortion --severity
        questions "local_${split}_score" score
        # the same questions with MOS for answers, which rewards compare with
        sed -E 's/"task": "open"/"task": "score"/; s/"<answer>([0-9.]+)<\/answer>"/\1/' \
            "$data/local_${split}_score.jsonl" >"$data/local_${split}_mos.jsonl"
    done
}

# Makes what the demo of ViDA-UGC's recipe learns from: these pictures, clips, and plain text. Usage: as local_records
vida_records() {
    local data=$1
    local_records "$@"
    "${thinker[@]}" demo-data --output "$data/clips" "${@:2}"
    # plain text: what is asked and answered of clips, without them
    sed -E 's/"video": \["[^"]*"\], //; s/<video>\\n//' "$data/clips/distortion.jsonl" >"$data/vida_words.jsonl"
}

# questions NAME KIND OPTIONS…: records of one kind, about the media that `seen` and `split` say
questions() {
    local file=$data/$1.jsonl
    rm -f "$file"
    "${thinker[@]}" records "$2" --split "$split" "${seen[@]}" --form short --output "$file" "${@:3}" | tail -n 1
}
