#!/usr/bin/env bash
# Launch train.py under DeepSpeed on this node's GPUs, or on 2 CPU ranks where there is none.
# Usage: bash scripts/train.sh CONFIG.yaml [--key value ...]
#   NUM_RANKS=4       how many processes (default: all GPUs, else 2)
#   INCLUDE=localhost:0,3   chosen GPUs        HOSTFILE=hosts.txt   several nodes (DeepSpeed's hostfile)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

config=$1; shift
launcher=(deepspeed --no_local_rank)
if [ -n "${HOSTFILE:-}" ]; then
  launcher+=(--hostfile "$HOSTFILE")
elif [ -n "${INCLUDE:-}" ]; then
  launcher+=(--include "$INCLUDE")
else
  launcher+=(--num_gpus "${NUM_RANKS:-$(python -c 'import torch; print(torch.cuda.device_count() or 2)')}")
fi
# CPU ranks share the cores; one thread each unless told otherwise.
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "${launcher[@]}" train.py --config "$config" "$@"
