#!/usr/bin/env bash
# Does scoring work with the oldest and the newest transformers that pyproject.toml allows? For each one a fresh environment is made,
# with what `pip install vqa-thinker` would bring and pytest, and the tests of policies, tasks and scoring run in it, those that need
# nothing of the extras (training, vLLM, Ray). Some 15 minutes on two cores. The record is in docs/log.md, "Dependencies".
#   bash run_scripts/test_matrix.sh [VERSION...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
source run_scripts/lib/environment.sh

range=$(sed -n 's/^ *"transformers>=\([0-9.]*\),<\([0-9.]*\)".*/\1 \2/p' pyproject.toml)
read -r oldest behind <<<"$range"
versions=("$@")
if [[ ${#versions[@]} == 0 ]]; then versions=("==$oldest" "<$behind"); else versions=("${versions[@]/#/==}"); fi

tests=(tests/policies tests/tasks tests/score tests/eval/metrics)
left_out=(--ignore tests/policies/test_shared_prompt.py --ignore tests/score/test_archive.py --ignore tests/score/test_archive_input.py)

failed=0
for version in "${versions[@]}"; do
    folder=$(mktemp -d)
    py=$folder/env/bin/python
    # The set's own torch, so that the range of transformers is what differs.
    fresh_environment "$folder/env" "transformers$version" pytest pytest-timeout psutil matplotlib \
        accelerate peft pycocotools # the first two are of helpers that count, the last one counts boxes
    "$py" -c 'import huggingface_hub as h, transformers as t; print("transformers", t.__version__, "huggingface_hub", h.__version__)'
    PYTHONPATH=$PWD "$py" -m pytest -q -p no:cacheprovider "${tests[@]}" "${left_out[@]}" || failed=1
    rm -rf "$folder"
done
exit "$failed"
