#!/usr/bin/env bash
# Compare PLUM with its sisters on the embedded default: LISA (many or one [SEG]), LISA with feedback, M2SA; three seeds, equal updates.
# All are trained and scored on Partonomy's questions and on MMR-like ones, which this script builds from the embedded data set (not
# the published MMR). All start from one stage 0: the quickstart's, whose LLaMA first learns the words of the MMR-like questions
# (configs/overlays/words.yaml). They share towers, LLaMA and SAM; every head starts afresh. That stage 0 was trained with PLUM's
# heads, which favours PLUM.
# Usage: bash scripts/sisters.sh    Resumable; settings: scripts/compare_variants.sh.
#   RUNS=runs/sisters (folder of the runs)    VARIANTS="plum lisa_many plum_lisa_losses" (some of them)
#   UPDATES=3 (number of updates of every run, for a trial)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" RUNS=${RUNS:-runs/sisters} UPDATES=${UPDATES:-}
export GENERATE=${GENERATE:-identification_with_label} OVERLAY=configs/overlays/mmr_like.yaml MMR=data/quickstart/mmr
first=runs/quickstart/stage0/model
[ -d "$first" ] || { echo "$first does not exist: run scripts/quickstart.sh first; it trains the shared stage 0." >&2; exit 1; }
for split in train val; do python -m partonomy build-mmr "data/quickstart/$split" --output "$MMR" --split "$split"; done
python train.py --config configs/plum_tiny_stage0.yaml --config configs/overlays/words.yaml --run_dir "$RUNS/stage0" \
  ${UPDATES:+--num_updates "$UPDATES"}
STAGE0=$RUNS/stage0/model exec bash scripts/compare_variants.sh configs/sisters plum "$RUNS"
