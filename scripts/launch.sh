#!/usr/bin/env bash
# Launch a Python program on this node's GPUs, on 2 CPU ranks if there is none, or on several nodes through DeepSpeed.
# Usage: bash scripts/launch.sh PROGRAM.py [arguments]      (train.sh, smoke_overfit.sh use it)
#   NUM_RANKS=4       number of processes (default: all GPUs, else 2)
#   INCLUDE=localhost:0,3   GPUs to use        HOSTFILE=hosts.txt   several nodes (docs/train/multi_node_slurm.md)
#   MASTER_PORT=29501       port at which the ranks meet (default: a free one)
# The exit status is 0 only if every rank has finished. Ctrl-C, SIGTERM and SIGUSR1 reach every rank; a training run then saves
# a checkpoint and ends with 130, 143 or 75. A second Ctrl-C or SIGTERM ends the ranks at once.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false
exec python -m plum.training.launch "$caller" "$@"
