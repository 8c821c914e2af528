#!/usr/bin/env bash
# Train stage 1 of the paper: fine-tune on Partonomy. Arguments after the config override its keys; see scripts/train.sh for GPUs and nodes.
# Usage: bash scripts/train_plum_ft.sh [CONFIG.yaml] [--key value ...]
[[ $# -gt 0 && $1 != --* ]] || set -- configs/plum_13b_ft.yaml "$@"
exec bash "$(dirname "$0")/train.sh" "$@"
