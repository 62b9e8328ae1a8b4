#!/usr/bin/env bash
# Set up (.venv, packages) and run the tests: `bash scripts/test.sh`, on two cores; or with pytest's own arguments, on one,
# e.g. `bash scripts/test.sh -m slow`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
python -m ruff check .
python -m ruff format --check .
if [ $# -eq 0 ]; then set -- -n 2 --dist loadfile --no-loadscope-reorder; fi
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" python -m pytest "$@"
