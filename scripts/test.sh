#!/usr/bin/env bash
# Set up, lint, check types, run all tests. Arguments go to pytest: bash scripts/test.sh -k losses
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh --dev
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

ruff format --check .
ruff check .
lint-imports
mypy
# A worker that has nothing left takes half of what another still has, so that they end together.
python -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal "$@"
