#!/usr/bin/env bash
# Segmentation against language for several weights of the KL constraint (paper, Figure 5b): train a stage-1 configuration of any size
# with each weight, score Partonomy, TextVQA and held-out questions, print a table and draw the two curves.
# Usage: bash scripts/kl_sweep.sh CONFIG.yaml      e.g. DATA=data/partonomy_part_imagenet/val TEXTVQA=dataset/textvqa ... configs/plum_13b_ft.yaml
#   LAMBDAS="0 0.01 0.1 0.5 1"   KL_REDUCTION=mean (a value of losses.kl_reduction; default: the configuration's)
#   TEXTVQA=FOLDER (root of the download; without it the curve of language is the loss of held-out questions)
#   Resumable; further settings: scripts/compare_variants.sh. OVERLAY=configs/overlays/miniature.yaml tries it out.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 1 ] || { echo "usage: bash scripts/kl_sweep.sh CONFIG.yaml" >&2; exit 1; }
export CONFIG=$1 TABLE=kl_sweep PARALLEL=${PARALLEL:-1} LAUNCH=${LAUNCH:-bash scripts/train.sh} SEEDS=${SEEDS:-1} VARIANTS=""
export STAGE0=${STAGE0:-$(sed -n 's/^init_from: *\([^ ]*\).*/\1/p' "$CONFIG")}
RUNS=${RUNS:-runs/kl_sweep/$(basename "$CONFIG" .yaml)}
mkdir -p "$RUNS/overlays"
for weight in ${LAMBDAS:-0 0.01 0.1 0.5 1}; do
  echo "losses: {kl: $weight${KL_REDUCTION:+, kl_reduction: $KL_REDUCTION}}" > "$RUNS/overlays/kl_$weight.yaml"
  VARIANTS+="kl_$weight "
done
base=${VARIANTS%% *}
[[ " $VARIANTS" != *" kl_0.1 "* ]] || base=kl_0.1  # the paper's choice
bash scripts/compare_variants.sh "$RUNS/overlays" "$base" "$RUNS"
PATH="$PWD/.venv/bin:$PATH" python scripts/draw_kl_sweep.py "$RUNS" "$RUNS/kl_sweep.svg"
