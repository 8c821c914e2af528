#!/usr/bin/env bash
# The paper's ablations on the embedded default: every file of configs/ablations, three seeds, from one shared stage 0.
# Usage: bash scripts/ablations.sh            Resumes: finished runs and validations are not repeated.
#   SEEDS="1 2 3"  VARIANTS="base dice"  PARALLEL=2 (runs at a time, one thread each)  RUNS=runs/ablations
#   LIMIT=100 (questions of each type, and images of each kind of conversation, that a run is scored on)
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d runs/quickstart/stage0/model ] || { echo "Run scripts/quickstart.sh first: it trains the shared stage 0." >&2; exit 1; }
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 RUNS=${RUNS:-runs/ablations} LIMIT=${LIMIT:-100}
data=data/quickstart/val
variants=${VARIANTS:-base $(cd configs/ablations && ls ./*.yaml | sed 's#^./##; s#.yaml$##' | grep -v '^base$')}

one_run() {  # one_run VARIANT SEED
  local name=$1_seed$2 run=$RUNS/$1_seed$2 overlay=()
  [ "$1" = base ] || overlay=(--config "configs/ablations/$1.yaml")
  mkdir -p "$RUNS/logs"
  {
    python train.py --config configs/ablations/base.yaml "${overlay[@]}" --run_dir "$run" --seed "$2" &&
    python validate_partonomy.py --model plum --checkpoint "$run/model" --questions "$3" --output "$run/validation" \
      --question_types identification_with_label,positive_with_label,negative_with_label --generate none --limit "$LIMIT" --resume &&
    { [ -f "$run/teacher_forced.json" ] ||
      python -m plum teacher-forced --checkpoint "$run/model" --data "$3" --limit "$LIMIT" --output "$run/teacher_forced.json"; }
  } > "$RUNS/logs/$name.log" 2>&1 && echo "done    $name  $(left)" || { echo "FAILED  $name, see $RUNS/logs/$name.log"; return 1; }
}
left() {  # "12 of 30, about 9 min left": time so far shared among the runs finished in it
  local finished; finished=$(find "$RUNS" -name teacher_forced.json | wc -l)
  local here=$((finished - BEFORE)); [ $here -gt 0 ] || here=1
  echo "$finished of $TOTAL, about $(((TOTAL - finished) * ($(date +%s) - STARTED) / here / 60)) min left"
}
export -f one_run left

mkdir -p "$RUNS"
BEFORE=$(find "$RUNS" -name teacher_forced.json | wc -l) STARTED=$(date +%s)
TOTAL=$(($(wc -w <<< "$variants") * $(wc -w <<< "${SEEDS:-1 2 3}")))
export BEFORE STARTED TOTAL
for seed in ${SEEDS:-1 2 3}; do
  for variant in $variants; do echo "$variant $seed $data"; done
done | xargs -P "${PARALLEL:-2}" -L 1 bash -c 'one_run "$@"' one_run
python scripts/ablation_table.py "$RUNS" | tee "$RUNS/table.md"
printf '\n%d s in all; table: %s\n' "$SECONDS" "$RUNS/table.md"
