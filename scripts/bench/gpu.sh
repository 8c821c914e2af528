#!/usr/bin/env bash
# Measures one device with random weights: training steps (cuDNN's attention on and off first), FLOPs utilisation, peak
# memory against the doctor's estimate, images/s of SAM and SAM 2, evaluation fast against plain, loss of large vocabularies.
# Usage: bash scripts/bench/gpu.sh [SIZE ...]
#   sizes: small 7b 13b small_qwen3_vl qwen3_vl_4b small_calico calico_7b
#   default: 7b qwen3_vl_4b calico_7b on a GPU (about ten minutes on an H200), small small_qwen3_vl without one
#   OUT=gpu.json   file of all results     BATCH=6   images a micro-batch     STEPS=10   timed micro-batches
#   IMAGES=4       images of the evaluation     LIMIT=240   seconds that a measurement may take
# One JSON object a measurement is printed; OUT holds the list of them. A failed one is recorded, and the rest goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ $# -gt 0 ]; then sizes=("$@"); elif [ "$gpus" -gt 0 ]; then sizes=(7b qwen3_vl_4b calico_7b); else sizes=(small small_qwen3_vl); fi
if [ "$gpus" -gt 0 ]; then batch=6 steps=10 images=4 limit=240; else batch=2 steps=2 images=1 limit=900; fi

list=$(printf '"%s",' "${sizes[@]}")
exec python scripts/bench/measurements.py "[${list%,}]" --output "${OUT:-gpu.json}" --batch "${BATCH:-$batch}" \
  --steps "${STEPS:-$steps}" --images "${IMAGES:-$images}" --limit "${LIMIT:-$limit}"
