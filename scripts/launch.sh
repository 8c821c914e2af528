#!/usr/bin/env bash
# Launch a Python program under DeepSpeed on this node's GPUs, or on 2 CPU ranks if there is none.
# Usage: bash scripts/launch.sh PROGRAM.py [arguments]      (train.sh, smoke_overfit.sh use it)
#   NUM_RANKS=4       number of processes (default: all GPUs, else 2)
#   INCLUDE=localhost:0,3   GPUs to use        HOSTFILE=hosts.txt   several nodes (DeepSpeed's hostfile)
#   MASTER_PORT=29501       for a second run on the same node
set -euo pipefail
[ -z "${HOSTFILE:-}" ] || HOSTFILE=$(realpath "$HOSTFILE")
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

# Counting imports torch, which takes seconds: not where everything is given that would follow from the number.
gpus=0
is_placed="${HOSTFILE:-}${INCLUDE:-}"
[ -n "$is_placed" ] || [ -n "${CUDA_VISIBLE_DEVICES:-}" ] || is_placed="${NUM_RANKS:-}"
if [ -z "$is_placed" ] || [ -z "${OMP_NUM_THREADS:-}" ]; then
  gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
fi
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

# In the background, so that a signal to this script reaches the launcher, which then ends every rank.
"${launcher[@]}" "$@" &
launched=$!
trap 'kill -TERM "$launched" 2> /dev/null' INT TERM HUP
status=0
wait "$launched" || status=$?
while kill -0 "$launched" 2> /dev/null; do wait "$launched" || status=$?; done
[ "$status" -eq 0 ] || echo "$1 ended with status $status; the first error above says why (-9 or 247: a rank was killed)." >&2
exit "$status"
