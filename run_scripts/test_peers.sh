#!/usr/bin/env bash
# Are the numbers in other people's tools our own? Each tool is installed in an environment of its own, with Thinker's core beside it, and
# run for real: lmms-eval with our model and our tasks against thinker eval and thinker bench, pyiqa's metrics beside ours in one loop.
# Neither is a dependency: lmms-eval wants an older av, pyiqa's licence is non-commercial. The record is in docs/peers.md.
#   bash run_scripts/test_peers.sh                  both; some 10 minutes on two cores, 6 GB of disk meanwhile
#   bash run_scripts/test_peers.sh lmms_eval        one of them
# KEEP=FOLDER keeps environments and results there, and uses them again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -x .venv/bin/uv ]] || bash setup.sh
source run_scripts/lib/environment.sh

folder=${KEEP:-$(mktemp -d)}
mkdir -p "$folder"
[[ -n ${KEEP:-} ]] || trap 'rm -rf "$folder"' EXIT
export PYTHONPATH='' OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 HF_HOME=$folder/hub TOKENIZERS_PARALLELISM=false
export THINKER_DATA=$folder/data

# environment NAME OVERRIDES PACKAGE…: makes it where it is not there, and sets py
environment() {
    local name=$1
    printf '%s\n' "$2" >"$folder/$name.overrides"
    shift 2
    py=$folder/$name/bin/python
    if [[ ! -x $py ]]; then
        fresh_environment "$folder/$name" --overrides "$folder/$name.overrides" "$@"
    fi
}

# ---- data, and a policy that has learned some of it
policy=$folder/run/final
if [[ ! -d $policy ]]; then
    "$main" run_scripts/peers/make_data.py "$THINKER_DATA"
    PYTHONPATH=$PWD "$main" -m thinker.cli train --config run_scripts/peers/policy.yaml \
        "stages.lessons.data.0.config=$THINKER_DATA/lessons.yaml" "output_dir=$folder/run"
fi

lmms_eval() {
    # It asks for av below 16, with which no video is read here; it runs with ours. And it patches a private module that filelock 4
    # no longer has.
    environment lmms_eval "av>=17,<19" lmms-eval "filelock<4" || return 1
    rm -rf "$folder/lmms_results"
    "$py" run_scripts/peers/compare_lmms_eval.py "$policy" "$folder/lmms_results"
}

pyiqa() {
    environment pyiqa '' pyiqa || return 1
    mkdir -p "$folder/pictures"
    "$py" run_scripts/peers/compare_pyiqa.py "$policy" "$folder/pictures"
}

failed=0
for peer in "${@:-lmms_eval pyiqa}"; do
    for name in $peer; do
        case $name in
            lmms_eval | pyiqa) ;;
            *) echo "test_peers: $name is none of: lmms_eval pyiqa" >&2; exit 2 ;;
        esac
        echo "== $name, $(date -u +%F)"
        SECONDS=0
        "$name" || failed=1
        echo "== $name: $SECONDS s"
    done
done
exit "$failed"
