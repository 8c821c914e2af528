#!/usr/bin/env bash
# Train CALICO on pairs of images. Arguments after the config override its keys; see scripts/train.sh for GPUs and nodes.
# Usage: bash scripts/train_calico.sh [CONFIG.yaml] [--key value ...]
#   Pairs: python -m partonomy build-mixedparts data/paco data/ade20k data/part_imagenet --output data/mixed_parts
#   The tiny recipe and its comparison with other systems: scripts/pairs.sh
[[ $# -gt 0 && $1 != --* ]] || set -- configs/calico_7b.yaml "$@"
exec bash "$(dirname "$0")/train.sh" "$@"
