#!/usr/bin/env bash
# Launch train.py under DeepSpeed on this node's GPUs, or on 2 CPU ranks where there is none.
# Usage: bash scripts/train.sh CONFIG.yaml [--key value ...]
#   NUM_RANKS=4       how many processes (default: all GPUs, else 2)
#   INCLUDE=localhost:0,3   chosen GPUs        HOSTFILE=hosts.txt   several nodes (DeepSpeed's hostfile)
#   MASTER_PORT=29501       for a second run on the same node
set -euo pipefail
[ -z "${HOSTFILE:-}" ] || HOSTFILE=$(realpath "$HOSTFILE")
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

config=$1; shift
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
launcher=(deepspeed --no_local_rank)
[ -z "${MASTER_PORT:-}" ] || launcher+=(--master_port "$MASTER_PORT")
if [ -n "${HOSTFILE:-}" ]; then
  launcher+=(--hostfile "$HOSTFILE")
elif [ -n "${INCLUDE:-}" ]; then
  launcher+=(--include "$INCLUDE")
elif [ "$gpus" -gt 0 ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  # Given --num_gpus the launcher would ignore CUDA_VISIBLE_DEVICES and take the node's first GPUs.
  launcher+=(--include "localhost:$(cut -d, -f "1-${NUM_RANKS:-}" <<< "$CUDA_VISIBLE_DEVICES")")
else
  launcher+=(--num_gpus "${NUM_RANKS:-$((gpus > 0 ? gpus : 2))}")
fi
# CPU ranks share the cores; one thread each unless told otherwise.
[ "$gpus" -gt 0 ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "${launcher[@]}" train.py --config "$config" "$@"
