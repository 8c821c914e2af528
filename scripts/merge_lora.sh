#!/usr/bin/env bash
# Merge a trained model's adapters in float32 and save the result as one folder.
# Usage: bash scripts/merge_lora.sh RUN DESTINATION [flags of python -m plum export ...]
#   RUN is the folder of a run, of one of its checkpoints (RUN/checkpoints/update_NNNNNN, from any number of ranks) or of a saved model.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

if (($# < 2)); then
    echo "usage: bash scripts/merge_lora.sh RUN DESTINATION [flags of python -m plum export ...]" >&2
    exit 2
fi
exec python -m plum export "$@"
