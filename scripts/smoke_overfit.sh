#!/usr/bin/env bash
# Check that a configuration can overfit 8 samples: train on 8 samples of its data, ask for them again, and print pass or FAIL
# for loss, masks and answers. It takes minutes; run it before you spend days. The exit status is 0 if everything passed.
# Usage: bash scripts/smoke_overfit.sh CONFIG.yaml [--data_folder data/mine] [--updates 200] [--key value ...]
#   --data_folder   8 images of this folder (partonomy's own form) instead of the configuration's data
#   GPUs and nodes as in scripts/launch.sh; 1, 2, 4 or 8 ranks
set -euo pipefail
config=$1; shift
exec bash "$(dirname "$0")/launch.sh" scripts/smoke_overfit.py --config "$config" "$@"
