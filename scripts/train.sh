#!/usr/bin/env bash
# Train on this node's GPUs, or on 2 CPU ranks if there is none, with the engine of the configuration (engine.kind: DeepSpeed,
# or ddp without it); scripts/launch.sh explains NUM_RANKS, INCLUDE, HOSTFILE and MASTER_PORT. The same command resumes an interrupted run from its last complete checkpoint.
# Usage: bash scripts/train.sh CONFIG.yaml [--key value ...]
set -euo pipefail
config=$1; shift
exec bash "$(dirname "$0")/launch.sh" train.py --config "$config" "$@"
