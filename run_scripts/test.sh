#!/usr/bin/env bash
# Everything CI checks: installs if needed, lint, format, types, then all tests.
# Arguments go to pytest: bash run_scripts/test.sh tests/test_ground.py
# Tests run one after another: they share two cores, and in-process vLLM engines would meet there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash setup.sh
py=.venv/bin/python
"$py" -m ruff check .
"$py" -m ruff format --check .
"$py" -m mypy
exec "$py" -m pytest -q "$@"
