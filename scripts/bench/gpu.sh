#!/usr/bin/env bash
# Speed on one device with random weights: training steps with and without gradient checkpointing, then evaluation.
# Usage: bash scripts/bench/gpu.sh [SIZE ...]        sizes: small 7b 13b; default 7b 13b on a GPU, small without one
#   BATCH=6   images a micro-batch     STEPS=10   timed micro-batches     IMAGES=8   images of the evaluation
# Formulas of the FLOPs: plum/doctor/step_flops.py; of the utilisation: scripts/bench/gpu.py. One JSON line each.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ $# -gt 0 ]; then sizes=("$@"); elif [ "$gpus" -gt 0 ]; then sizes=(7b 13b); else sizes=(small); fi
batch=${BATCH:-6} steps=${STEPS:-10} images=${IMAGES:-8}

for size in "${sizes[@]}"; do
  for checkpointing in false true; do
    printf '\n== %s, training, gradient checkpointing %s\n' "$size" "$checkpointing"
    python scripts/bench/gpu.py --size "$size" --batch "$batch" --steps "$steps" --gradient_checkpointing "$checkpointing" ||
      printf '== failed (out of memory is an answer too)\n'
  done
  printf '\n== %s, where the time of a step goes\n' "$size"
  python scripts/bench/train.py --size "$size" --batch "$batch" --steps "$steps" --repeats 2
  for types in five ten; do
    printf '\n== %s, evaluation plain and fast, %s question types\n' "$size" "$types"
    python scripts/bench/eval.py --size "$size" --images "$images" --types "$types" --repeats 3
  done
  printf '\n== %s, its records in float32: the bounds of log-probabilities and pixels are float32 bounds\n' "$size"
  python scripts/bench/eval.py --size "$size" --images 2 --parts masks --dtype float32
done
