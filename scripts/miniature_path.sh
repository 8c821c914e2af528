#!/usr/bin/env bash
# Run the whole pipeline at miniature size with the shipped scripts and the paper's configurations: drawn downloads, weights
# in the published file formats, conversion, stage 0, stage 1, export, validation on Partonomy, RefCOCO, ReasonSeg, TextVQA,
# GQA and POPE. Run it before you download anything: a step that fails here would otherwise fail after days. The scores mean nothing.
# Usage: bash scripts/miniature_path.sh [FOLDER]     (default runs/miniature_path; resumable: finished steps are not repeated)
#   NUM_RANKS=2   NUM_PROCS=1   SCORES="partonomy segmentation textvqa gqa pope"   IMAGES=36 (images per data set)
#   LIMIT=5 (questions per kind)   SPLITS="val"   MODES="forced" (segmentation modes)
set -euo pipefail
cd "$(dirname "$0")/.."
code=$PWD
mkdir -p "${1:-runs/miniature_path}"
cd "${1:-runs/miniature_path}"

# The configurations' paths of data, weights and runs are relative to the working directory: this folder.
for name in .venv configs scripts plum partonomy train.py validate_partonomy.py; do
  [ -e "$name" ] || ln -s "$code/$name" "$name"
done
export PATH="$code/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false PYTHONPATH="$code"

step() {  # step NAME COMMAND...: run it, and print how long it took
  local begin=$SECONDS
  printf '\n== %s\n' "$1"
  "${@:2}"
  printf '== %s: %d s\n' "$1" $((SECONDS - begin))
}
once() {  # once PLACE COMMAND...: run it unless PLACE exists
  if [ -e "$1" ]; then echo "$1 already exists"; else "${@:2}"; fi
}
limit=(); [ -z "${LIMIT:-}" ] || limit=(--limit "$LIMIT")
mini=(--config configs/overlays/miniature.yaml)
model=plum-13b-miniature

step "Draw every download" once data/partonomy_core \
  python scripts/make_miniature_data.py --output dataset --images "${IMAGES:-36}" --size 64 --partonomy data
step "Write weights" once weights/sam_miniature.pth python scripts/make_miniature_weights.py --output weights
step "Convert them" once weights/plum_13b_base \
  python -m plum convert-llava weights/llava-miniature weights/plum_13b_base --sam weights/sam_miniature.pth \
  --conversation llava_llama_2
step "Train stage 0" bash scripts/train_plum_0shot.sh configs/plum_13b_0shot.yaml "${mini[@]}"
step "Train stage 1" bash scripts/train_plum_ft.sh configs/plum_13b_ft.yaml "${mini[@]}"
step "Export" once $model python -m plum export runs/plum_13b_ft $model

runs=()
for score in ${SCORES:-partonomy segmentation textvqa gqa pope}; do
  case $score in
    partonomy)
      step "Validate on Partonomy" \
        bash scripts/validate_partonomy.sh $model data/partonomy_paco/val runs/partonomy "${limit[@]}" ;;
    segmentation)
      step "Validate on RefCOCO and ReasonSeg" bash scripts/validate_seg.sh $model dataset runs/seg "${limit[@]}" ;;
    *)  # the checkpoint before its export still has the adapters that --base switches off
      vqa=(python -m plum validate "$score" --root "dataset/$score" --checkpoint runs/plum_13b_ft/model --resume "${limit[@]}")
      step "Validate on $score" "${vqa[@]}" --output "runs/$score"
      step "Validate on $score, adapters off" "${vqa[@]}" --base --output "runs/${score}_base"
      runs+=("runs/$score" "runs/${score}_base") ;;
  esac
done
[ ${#runs[@]} -eq 0 ] || step "Text retention" python -m plum retention "${runs[@]}"
printf '\n%d s in total; everything is in %s\n' "$SECONDS" "$PWD"
