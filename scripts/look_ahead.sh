#!/usr/bin/env bash
# Does the span tagger have to look ahead (paper, Table 12)? Train PLUM with a bidirectional, a causal and no attention block from scratch
# on answers about the quickstart's drawings, whose tags depend on the words that follow; print a table of tag scores on held-out images.
# Usage: bash scripts/look_ahead.sh    Resumable: finished runs are not repeated.
#   SEEDS="1 2 3"   PARALLEL=2 (number of runs at a time, one thread each)   RUNS=runs/look_ahead   UPDATES=3 (number of updates, for a trial)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
export RUNS=${RUNS:-runs/look_ahead} UPDATES=${UPDATES:-}
[ -d data/quickstart/tokenizer ] || { echo "data/quickstart does not exist: run scripts/quickstart.sh first; it draws it." >&2; exit 1; }

one_run() {  # one_run VARIANT SEED
  local run=$RUNS/$1_seed$2 overlay=()
  [ "$1" = bidirectional ] || overlay=(--config "configs/ablations/tagger_$1.yaml")
  {
    python train.py --config configs/look_ahead/base.yaml "${overlay[@]}" --run_dir "$run" --seed "$2" ${UPDATES:+--num_updates "$UPDATES"} &&
    { [ -f "$run/teacher_forced.json" ] ||
      python -m plum teacher-forced --checkpoint "$run/model" --data data/quickstart/val --kinds part_status --output "$run/teacher_forced.json"; }
  } > "$RUNS/logs/$1_seed$2.log" 2>&1 && echo "done    $1, seed $2" || { echo "FAILED  $1, seed $2, see $RUNS/logs/$1_seed$2.log"; return 1; }
}
export -f one_run

mkdir -p "$RUNS/logs"
for seed in ${SEEDS:-1 2 3}; do
  for variant in bidirectional causal none; do echo "$variant $seed"; done
done | xargs -P "${PARALLEL:-2}" -L 1 bash -c 'one_run "$@"' one_run
python scripts/ablation_table.py "$RUNS" --base bidirectional --columns look_ahead | tee "$RUNS/table.md"
