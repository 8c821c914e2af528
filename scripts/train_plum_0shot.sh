#!/usr/bin/env bash
# Train stage 0 of the paper (its "zero-shot" model). Arguments after the config override its keys; see scripts/train.sh for GPUs and nodes.
# Usage: bash scripts/train_plum_0shot.sh [CONFIG.yaml] [--key value ...]
[[ $# -gt 0 && $1 != --* ]] || set -- configs/plum_13b_0shot.yaml "$@"
exec bash "$(dirname "$0")/train.sh" "$@"
