#!/usr/bin/env bash
# Validate a saved model on a question folder, then print the tables and write the report.
# Usage: bash scripts/validate_partonomy.sh CHECKPOINT QUESTIONS OUTPUT [flags of validate_partonomy.py ...]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

python validate_partonomy.py --model plum --checkpoint "$1" --questions "$2" --output "$3" --resume "${@:4}"
python -m partonomy tables "$3"
python -m partonomy report "$3"
