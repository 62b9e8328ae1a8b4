#!/usr/bin/env bash
# Set up (.venv, packages) and run the tests: `bash scripts/test.sh`, or with pytest's arguments, e.g. `-m slow`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
python -m ruff check .
python -m ruff format --check .
python -m pytest "$@"
