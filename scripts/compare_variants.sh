#!/usr/bin/env bash
# Train and score overlays of one base configuration, with several seeds from one shared stage 0; print a table.
# Usage: bash scripts/compare_variants.sh FOLDER BASE OUTPUT     (ablations.sh, sisters.sh, loss_weights.sh and kl_sweep.sh call it)
#   FOLDER: overlays of CONFIG; BASE: the variant that the others are compared with, CONFIG unchanged if FOLDER has no such file or
#   BASE is "base"; OUTPUT: folder of the runs
#   Resumable: finished runs and validations are not repeated.
#   SEEDS="1 2 3"  VARIANTS="dice kl_0"  PARALLEL=2 (number of runs at a time, one thread each)  STAGE0=runs/quickstart/stage0/model
#   LIMIT=100 (number of questions per type, and of images per kind of conversation, to score a run on)
#   GENERATE=none (question types that a run also answers in its own words)
#   OVERLAY=FILE (overlay of the base for every variant)    UPDATES=3 (number of updates, for a trial)
#   CONFIG=configs/ablations/base.yaml   DATA=data/quickstart/val (questions to score runs on)   TABLE=ablations (columns of the table)
#   LAUNCH="python train.py --config" (what CONFIG is given to; "bash scripts/train.sh" for DeepSpeed, then with PARALLEL=1)
#   TEXTVQA=FOLDER, REASONSEG=FOLDER (roots of these downloads, to score runs on them as well)
#   MMR=FOLDER (MMR-like data from `partonomy build-mmr`, to score runs on as well)    MMR_LIMIT=120 (number of its questions)
set -euo pipefail
cd "$(dirname "$0")/.."
export FOLDER=$1 BASE=$2 RUNS=$3 STAGE0=${STAGE0:-runs/quickstart/stage0/model} LIMIT=${LIMIT:-100} GENERATE=${GENERATE:-none}
export CONFIG=${CONFIG:-configs/ablations/base.yaml} LAUNCH=${LAUNCH:-python train.py --config}
export TEXTVQA=${TEXTVQA:-} REASONSEG=${REASONSEG:-} OVERLAY=${OVERLAY:-} UPDATES=${UPDATES:-} MMR=${MMR:-} MMR_LIMIT=${MMR_LIMIT:-120}
[ -d "$STAGE0" ] || { echo "$STAGE0 does not exist: train the shared stage 0 first (scripts/quickstart.sh, or the configuration's own)." >&2; exit 1; }
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
data=${DATA:-data/quickstart/val}
[ -e "$data" ] || { echo "$data does not exist: name the questions to score runs on with DATA=FOLDER." >&2; exit 1; }
variants=${VARIANTS:-$BASE $(cd "$FOLDER" && ls ./*.yaml | sed 's#^./##; s#.yaml$##' | grep -v '^base$')}

hold_out() {  # hold_out CHECKPOINT DATA OUTPUT: tags and text, with given answers
  [ -f "$3" ] || python -m plum teacher-forced --checkpoint "$1" --data "$2" --limit "$LIMIT" --output "$3"
}
one_run() {  # one_run VARIANT SEED DATA
  local name=$1_seed$2 run=$RUNS/$1_seed$2 overlay=(${OVERLAY:+--config "$OVERLAY"})
  if [ "$1" != base ] && { [ "$1" != "$BASE" ] || [ -f "$FOLDER/$1.yaml" ]; }; then overlay+=(--config "$FOLDER/$1.yaml"); fi
  {
    $LAUNCH "$CONFIG" "${overlay[@]}" --init_from "$STAGE0" --run_dir "$run" --seed "$2" \
      ${UPDATES:+--num_updates "$UPDATES"} &&
    python validate_partonomy.py --model plum --checkpoint "$run/model" --questions "$3" --output "$run/validation" \
      --question_types identification_with_label,positive_with_label,negative_with_label --generate "$GENERATE" \
      --limit "$LIMIT" --resume &&
    score_mmr "$run" generate && score_mmr "$run" union &&
    score_download "$run" textvqa "$TEXTVQA" && score_download "$run" reasonseg "$REASONSEG" &&
    hold_out "$run/model" "$3" "$run/teacher_forced.json"
  } > "$RUNS/logs/$name.log" 2>&1 && echo "done    $name  $(left)" || { echo "FAILED  $name, see $RUNS/logs/$name.log"; return 1; }
}
score_mmr() {  # score_mmr RUN MODE: if there is MMR-like data
  [ -z "$MMR" ] || python -m plum validate mmr --root "$MMR" --split val --checkpoint "$1/model" --mode "$2" \
    --limit "$MMR_LIMIT" --output "$1/mmr_$2" --resume
}
score_download() {  # score_download RUN BENCHMARK ROOT: if there is a root
  [ -z "$3" ] || python -m plum validate "$2" --root "$3" --split val --checkpoint "$1/model" --limit "$LIMIT" --output "$1/$2" --resume
}
left() {  # "12 of 30, about 9 min left": estimated from the time per run finished so far
  local finished; finished=$(find "$RUNS" -name teacher_forced.json | wc -l)
  local here=$((finished - BEFORE)); [ $here -gt 0 ] || here=1
  echo "$finished of $TOTAL, about $(((TOTAL - finished) * ($(date +%s) - STARTED) / here / 60)) min left"
}
export -f hold_out one_run score_mmr score_download left

mkdir -p "$RUNS/logs"
hold_out "$STAGE0" "$data" "$RUNS/before.json" > "$RUNS/logs/before.log" 2>&1 || { echo "FAILED  $STAGE0, see $RUNS/logs/before.log"; exit 1; }
BEFORE=$(find "$RUNS" -name teacher_forced.json | wc -l) STARTED=$(date +%s)
TOTAL=$(($(wc -w <<< "$variants") * $(wc -w <<< "${SEEDS:-1 2 3}")))
export BEFORE STARTED TOTAL
for seed in ${SEEDS:-1 2 3}; do
  for variant in $variants; do echo "$variant $seed $data"; done
done | xargs -P "${PARALLEL:-2}" -L 1 bash -c 'one_run "$@"' one_run
python scripts/ablation_table.py "$RUNS" --base "$BASE" --columns "${TABLE:-$(basename "$FOLDER")}" | tee "$RUNS/table.md"
printf '\n%d s in total; table: %s\n' "$SECONDS" "$RUNS/table.md"
