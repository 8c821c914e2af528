#!/usr/bin/env bash
# Sensitivity to the loss weights (paper, Table 14): train a stage-1 configuration of any size with five settings and score them.
# Usage: bash scripts/loss_weights.sh CONFIG.yaml      e.g. DATA=data/partonomy_part_imagenet/val REASONSEG=dataset ... configs/plum_13b_ft.yaml
#   READING=table6 (the headings of Table 14 moved so that its last row has Table 6's weights) or printed (KL 2 to 8, mask loss 2, BCE 0.1)
#   REASONSEG=FOLDER (root of the download whose validation split gives gIoU and cIoU; without it only Partonomy's are scored)
#   Resumable; further settings: scripts/compare_variants.sh. OVERLAY=configs/overlays/miniature.yaml tries it out.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 1 ] || { echo "usage: bash scripts/loss_weights.sh CONFIG.yaml" >&2; exit 1; }
case ${READING:-table6} in
  table6) name=overlap ;;
  printed) name=kl ;;
  *) echo "READING=$READING: table6 or printed" >&2; exit 1 ;;
esac
export CONFIG=$1 TABLE=loss_weights PARALLEL=${PARALLEL:-1} LAUNCH=${LAUNCH:-bash scripts/train.sh} SEEDS=${SEEDS:-1}
export STAGE0=${STAGE0:-$(sed -n 's/^init_from: *\([^ ]*\).*/\1/p' "$CONFIG")} VARIANTS="${VARIANTS:-${name}_2 ${name}_4 ${name}_5 ${name}_6 ${name}_8}"
RUNS=${RUNS:-runs/loss_weights/$(basename "$CONFIG" .yaml)}
bash scripts/compare_variants.sh configs/loss_weights "${BASE:-${name}_8}" "$RUNS"
scored=("$RUNS"/*_seed*/reasonseg)
[ ! -d "${scored[0]}" ] || PATH="$PWD/.venv/bin:$PATH" python -m partonomy tables "${scored[@]}" --table 14
