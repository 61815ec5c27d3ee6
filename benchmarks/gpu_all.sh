#!/usr/bin/env bash
# All that is measured on one GPU, in 13 minutes at most, the most valuable first.
#   bash benchmarks/gpu_all.sh OUTDIR [PART ...]      parts: step sharded memory rates four_bit attention
# Every part is a process of its own and writes OUTDIR/gpu_PART.json row by row, so what a part measured before it was stopped
# is kept; OUTDIR/summary.jsonl has a line a part: seconds, exit status (124: stopped at its limit), what it said last where it
# failed. A failed part does not stop the others. Exit status: that of the last part that failed, else 0.
# LIMIT: seconds of all (780); PYTHON: the interpreter (python3); SMOKE=1: tiny sizes on a CPU, which only show that it runs.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:?usage: gpu_all.sh OUTDIR [PART ...]}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
parts=("$@")
if [[ ${#parts[@]} == 0 ]]; then parts=(step sharded memory rates four_bit attention); fi
limit=${LIMIT:-780} failed=0

# Seconds that a part may take, its benchmark, and its arguments.
declare -A seconds=([step]=230 [sharded]=220 [memory]=120 [rates]=150 [four_bit]=110 [attention]=60)
declare -A file=([step]=gpu_step [sharded]=gpu_sharded [memory]=gpu_step [rates]=gpu_rates [four_bit]=gpu_four_bit
    [attention]=gpu_attention)
declare -A given=([step]="" [sharded]="" [memory]="--measure memory --models InternVL3-8B --prompts 5000" [rates]=""
    [four_bit]="" [attention]="--repeats 10")
if [[ ${SMOKE:-0} == 1 ]]; then
    tiny="--device cpu --repeats 1"
    text="$tiny --prompts 100 --completion 20"
    given=([step]="$text --models tiny-qwen2_5_vl --groups 2"
        [memory]="$text --models tiny-internvl3 --measure memory --most 4"
        [sharded]="--device cpu --model tiny-internvl3 --sides plain --completion 16 --written 4" # others: a minute each
        [rates]="$tiny --model tiny-internvl3 --batches 1 --new-tokens 4 --workers 0 --clips 2 --video-seconds 1"
        [four_bit]="$text --models tiny-internvl3"
        [attention]="$text --heads 4 2 16 --groups 2")
fi

say() { # what was said last → a JSON line of the part
    "$python" -c 'import json, sys; name, taken, status, said = sys.argv[1:]
line = {"part": name, "seconds": int(taken), "status": int(status)}
print(json.dumps(line | ({"said": said} if said else {})))' "$@"
}

for part in "${parts[@]}"; do
    if [[ -z ${file[$part]:-} ]]; then
        echo "unknown part $part, expected some of ${!file[*]}" >&2
        exit 2
    fi
done
for part in "${parts[@]}"; do
    began=$SECONDS left=$((limit - SECONDS)) said=""
    if [[ $left -le 10 ]]; then
        say "$part" 0 125 "not begun: the $limit s of all are over" >>"$out/summary.jsonl"
        failed=125
        continue
    fi
    # The last ten seconds are for a part that does not end at once when it is told to.
    allowed=$((seconds[$part] < left - 10 ? seconds[$part] : left - 10))
    echo "== $part: at most $allowed s" | tee -a "$out/log.txt"
    read -ra options <<<"${given[$part]}"
    # Standard output is the rows, which the JSON has too.
    timeout --kill-after=10 "$allowed" "$python" "$root/benchmarks/${file[$part]}.py" "${options[@]}" \
        --output "$out/gpu_$part.json" >"$out/.said" 2>&1
    status=$?
    if [[ $status != 0 ]]; then
        failed=$status said=$(grep -v '^ *$' "$out/.said" | tail -n 1 | cut -c 1-500)
    fi
    tail -n 60 "$out/.said" | cut -c 1-2000 | tee -a "$out/log.txt"
    rm -f "$out/.said"
    if [[ ! -e $out/gpu_$part.json ]]; then # nothing was measured: the record says why
        "$python" -c 'import json, sys; print(json.dumps({"rows": [{"skipped": sys.argv[1]}]}))' \
            "$said" >"$out/gpu_$part.json"
    fi
    say "$part" $((SECONDS - began)) "$status" "$said" | tee -a "$out/summary.jsonl"
done
exit "$failed"
