#!/usr/bin/env bash
# Train under DeepSpeed on this node's GPUs, or on 2 CPU ranks if there is none; scripts/launch.sh explains NUM_RANKS,
# INCLUDE, HOSTFILE and MASTER_PORT. The same command resumes an interrupted run from its last complete checkpoint.
# Usage: bash scripts/train.sh CONFIG.yaml [--key value ...]
set -euo pipefail
config=$1; shift
exec bash "$(dirname "$0")/launch.sh" train.py --config "$config" "$@"
