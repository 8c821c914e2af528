#!/usr/bin/env bash
# Does a set-up learn at all? Trains on 8 samples of its data and asks for them again: loss, masks and answers, each with
# pass or FAIL. Minutes, before days are spent. The exit status is 0 when everything passed.
# Usage: bash scripts/smoke_overfit.sh CONFIG.yaml [--data_folder data/mine] [--updates 200] [--key value ...]
#   --data_folder   8 images of this folder (partonomy's own form) instead of the configuration's data
#   GPUs and nodes as in scripts/launch.sh; 1, 2, 4 or 8 ranks
set -euo pipefail
config=$1; shift
exec bash "$(dirname "$0")/launch.sh" scripts/smoke_overfit.py --config "$config" "$@"
