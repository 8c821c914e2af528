#!/usr/bin/env bash
# Compare CALICO, its four ablations, MI-LISA, MI-GLaMM and PLUM on pairs of the embedded default: equal updates, three seeds.
# CALICO's towers are trained from scratch here (configs/calico_tiny_stage0.yaml); the others start from the quickstart's stage 0, whose
# LLaMA first learns the words of questions about pairs (configs/overlays/pairs_words.yaml). Towers of this size know drawings only: the
# table says which parts of a system help at this scale, not what they do at 7B.
# Usage: bash scripts/pairs.sh    Resumable.
#   RUNS=runs/pairs (folder of the runs)    SEEDS="1 2 3"    VARIANTS="calico plum" (some of them)    LIMIT=100 (pairs per task)
#   UPDATES=3 (number of updates of every run, for a trial)    PAIRS=12000 (number of training pairs)
#   LAUNCH="python train.py --config" (one process without DeepSpeed; default: scripts/train.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
runs=${RUNS:-runs/pairs} data=data/quickstart limit=${LIMIT:-100}
variants=${VARIANTS:-calico calico_no_qformer calico_no_dino calico_no_cem calico_no_cam mi_lisa mi_glamm plum}
read -ra launch <<< "${LAUNCH:-bash scripts/train.sh}"
updates=(${UPDATES:+--num_updates "$UPDATES"} ${UPDATES:+--save_every "$UPDATES"})
mkdir -p "$runs"
first=runs/quickstart/stage0/model
[ -d "$first" ] || { echo "$first does not exist: run scripts/quickstart.sh first." >&2; exit 1; }

pairs() { python -m partonomy build-mixedparts "$data/$1" --output "$data/$2" --num_train "$3" --num_val 0 --num_test "$4" --shares "$5"; }
pairs train pairs "${PAIRS:-12000}" 0 1,0,0
pairs val pairs_val 0 $((3 * limit)) 0,0,1   # other images than those of any training
[[ $variants != *calico* ]] || "${launch[@]}" configs/calico_tiny_stage0.yaml --run_dir "$runs/calico_stage0" "${updates[@]}"
[[ $variants != *mi_* && $variants != *plum* ]] || "${launch[@]}" configs/plum_tiny_stage0.yaml \
  --config configs/overlays/pairs_words.yaml --run_dir "$runs/llava_stage0" "${updates[@]}"

for seed in ${SEEDS:-1 2 3}; do
  for variant in $variants; do
    run=$runs/${variant}_seed$seed
    case $variant in
      calico*) config=configs/calico_tiny_stage1.yaml stage0=$runs/calico_stage0 ;;
      *) config=configs/plum_tiny_pairs.yaml stage0=$runs/llava_stage0 ;;
    esac
    overlay=()
    [ ! -f "configs/pairs/$variant.yaml" ] || overlay=(--config "configs/pairs/$variant.yaml")
    "${launch[@]}" "$config" "${overlay[@]}" --init_from "$stage0/model" --run_dir "$run" --seed "$seed" "${updates[@]}"
    python -m partonomy run mixedparts --root "$data/pairs_val" --model plum --checkpoint "$run/model" --output "$runs/scores/${variant}_seed$seed" \
      --embedding_model char-ngram-tfidf --resume
  done
done
python -m partonomy tables "$runs"/scores/* | tee "$runs/table.txt"
base=${variants%% *}
[[ " $variants " != *" calico "* ]] || base=calico
# Means over seeds, and differences to CALICO (or the first variant), paired by seed.
python scripts/ablation_table.py "$runs/scores" --base "$base" --columns pairs | tee "$runs/table.md"
printf '\n%d s in total; table: %s\n' "$SECONDS" "$runs/table.txt, $runs/table.md"
