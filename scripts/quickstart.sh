#!/usr/bin/env bash
# Go from nothing to a report: set up, draw the embedded data set, train PLUM-tiny in two stages under DeepSpeed ZeRO-2, validate.
# Usage: bash scripts/quickstart.sh        Run it again after an interruption: every step resumes where it stopped.
#   TRAIN_IMAGES, DEV_IMAGES, VAL_IMAGES   sizes of the three splits     NUM_RANKS  number of processes (default: all GPUs, or 2)
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS

step() {  # step NAME COMMAND...: run it, and print how long it took
  local name=$1 begin=$SECONDS; shift
  printf '\n== %s\n' "$name"
  "$@"
  printf '== %s: %d s\n' "$name" $((SECONDS - begin))
  timings+=("$(printf '%5d s  %s' $((SECONDS - begin)) "$name")")
}
beside() {  # beside NAME COMMAND...: run NAME and, on the other core, COMMAND, whose output is shown when both are done
  local name=$1; shift
  "$@" > "$run/beside.log" 2>&1 &
  local other=$!
  # shellcheck disable=SC2064  (expanded now, because the variable is gone when a failure ends the script)
  trap "kill $other 2> /dev/null" EXIT
  "$name"
  wait "$other" || { cat "$run/beside.log" >&2; exit 1; }
  trap - EXIT
  cat "$run/beside.log"
  rm "$run/beside.log"
}
timings=()

data=data/quickstart run=runs/quickstart
mkdir -p $run
step "Set up .venv" bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
export NUM_RANKS=${NUM_RANKS:-$((gpus > 0 ? gpus : 2))}
per_rank=$((16 / NUM_RANKS > 0 ? 16 / NUM_RANKS : 1))   # 16 images per update for any number of ranks

build() { python -m partonomy build --source synthetic --split "$1" --images "$2" --output "$data/$1" --seed 0 --num_workers 2; }
step "Draw and ask: train" build train "${TRAIN_IMAGES:-4000}"
held_out() {  # and write all three splits in the published record format
  build dev "${DEV_IMAGES:-150}"
  build val "${VAL_IMAGES:-200}"
  for split in train dev val; do
    [ -f $data/${split}_qa_pairs.json ] || python -m partonomy export --questions $data/$split --output $data/${split}_qa_pairs.json
  done
}
step "Draw and ask: dev, val; train the tokenizer" beside held_out \
  python -m plum train-tokenizer --datasets "$data/train" --output "$data/tokenizer" --vocab_size 1024

step "Train stage 0" bash scripts/train_plum_0shot.sh configs/plum_tiny_stage0.yaml --engine.micro_batch_size $per_rank
step "Train stage 1" bash scripts/train_plum_ft.sh configs/plum_tiny_stage1.yaml --engine.micro_batch_size $per_rank
export_model() {  # repeated if stage 1 was retrained
  [ $run/model/config.json -nt $run/stage1/finished.json ] && return
  [ ! -e $run/model ] || rm -rf $run/model $run/validation   # its records belong to the old model
  python -m plum export $run/stage1 $run/model
}
step "Export (merge adapters)" export_model

validate() { python validate_partonomy.py --model "$1" --questions $data/val --output "$run/$2" --num_procs 2 --resume "${@:3}"; }
step "Validate" validate plum validation --checkpoint $run/model --training_metrics $run/stage0/metrics.jsonl,$run/stage1/metrics.jsonl
bounds() {
  validate oracle oracle --generate none
  validate random random --generate none
}
step "Validate oracle and random; held-out tags and text" beside bounds \
  python -m plum teacher-forced --checkpoint $run/model --data $data/val --limit 100 --output $run/teacher_forced.json
cp $run/validation/summary.json $run/summary.json

printf '\n'
python -m partonomy tables $run/validation $run/random $run/oracle
python -m partonomy blind --run $run/validation   # its accuracies beside those of guesses that see neither image nor question
step "Write the report" python -m partonomy report $run/validation --baselines "[$run/random, $run/oracle]" --output $run/report.html

printf '\nTime by step (every run is kept in %s):\n' $run/timings.txt
date -u '+%Y-%m-%d %H:%M' >> $run/timings.txt
printf '%s\n' "${timings[@]}" | tee -a $run/timings.txt
printf '%5d s  total\n' $((SECONDS - started)) | tee -a $run/timings.txt
printf '\nScores: %s   Report: %s\n' $run/summary.json $run/report.html
