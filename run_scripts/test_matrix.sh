#!/usr/bin/env bash
# Does scoring work with the oldest and the newest transformers that pyproject.toml allows? For each one a fresh environment is made,
# with what `pip install vqa-thinker` would bring and pytest, and the tests of policies, tasks and scoring run in it, those that need
# nothing of the extras (training, vLLM, Ray). Some 15 minutes on two cores. The record is in docs/log.md, "Dependencies".
#   bash run_scripts/test_matrix.sh [VERSION...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh

range=$(sed -n 's/^ *"transformers>=\([0-9.]*\),<\([0-9.]*\)".*/\1 \2/p' pyproject.toml)
read -r oldest behind <<<"$range"
versions=("$@")
if [[ ${#versions[@]} == 0 ]]; then versions=("==$oldest" "<$behind"); else versions=("${versions[@]/#/==}"); fi

tests=(tests/policies tests/tasks tests/score tests/eval/test_metrics.py)
left_out=(--ignore tests/policies/test_shared_prompt.py --ignore tests/score/test_archive.py --ignore tests/score/test_archive_input.py)
main=.venv/bin/python
links=()
for place in $("$main" -m pip config get global.find-links 2>/dev/null || true); do links+=(--find-links "$place"); done
index=$("$main" -m pip config get global.index-url 2>/dev/null || true)
if [[ -n $index ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
torch=$("$main" -c 'import torch; print(torch.__version__)')
site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

failed=0
for version in "${versions[@]}"; do
    folder=$(mktemp -d)
    .venv/bin/uv venv --quiet --python "$main" "$folder/env"
    py=$folder/env/bin/python
    # The set's own torch, so that the range of transformers is what differs.
    VIRTUAL_ENV=$folder/env .venv/bin/uv pip install --quiet "${links[@]}" --editable . "torch==$torch" "transformers$version" \
        pytest pytest-timeout psutil matplotlib accelerate peft # the last two are of helpers that count
    cp "$(site "$main")"/_thinker_torchvision_cpu_ops.* "$(site "$py")" 2>/dev/null || true # see setup.sh
    "$py" -c 'import huggingface_hub as h, transformers as t; print("transformers", t.__version__, "huggingface_hub", h.__version__)'
    PYTHONPATH=$PWD "$py" -m pytest -q -p no:cacheprovider "${tests[@]}" "${left_out[@]}" || failed=1
    rm -rf "$folder"
done
exit "$failed"
