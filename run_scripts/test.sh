#!/usr/bin/env bash
# Everything CI checks: installs if needed, lint, format, types, then all tests.
# Arguments go to pytest: bash run_scripts/test.sh tests/integration/test_ground.py
# Two test processes, one thread each: a tiny model gains nothing from a second thread. A file's tests
# stay together (they share engines), in the order of names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash setup.sh
py=.venv/bin/python
"$py" -m ruff check .
"$py" -m ruff format --check .
"$py" -m mypy
exec "$py" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
