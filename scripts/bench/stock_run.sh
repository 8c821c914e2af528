#!/usr/bin/env bash
# A tiny stock model with SAM 2 from adoption to scores, on ranks that change: 2, then 1, then 2 again. CPU, minutes, random weights.
# Usage: bash scripts/bench/stock_run.sh [ENGINE [FOLDER [FAMILY]]]    ENGINE: deepspeed (default: ZeRO-2) or ddp (torchrun)
# It ends with 1 if the interrupted run's losses are not the uninterrupted one's, or an export's logits not the model's.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD" TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

engine=${1:-deepspeed} folder=${2:-$(mktemp -d)/stock_run} family=${3:-qwen3_vl}
readonly STOPPED=75  # the exit status of a run that max_minutes has stopped; torchrun's own is 1

start() {  # number of ranks, flags of train.py; an update has 4 images
  local ranks=$1; shift
  local flags=(--config "$folder/run.yaml" --engine.kind "$engine" --engine.accumulation $((4 / ranks)) "$@")
  if [ "$engine" = ddp ]; then
    python -m torch.distributed.run --standalone --nproc_per_node "$ranks" train.py "${flags[@]}"
  else
    NUM_RANKS=$ranks bash scripts/launch.sh train.py "${flags[@]}"
  fi
}

stop_after_an_update() {  # the same arguments
  local status=0
  start "$@" --max_minutes 0.0001 || status=$?
  [ "$status" = $STOPPED ] || { [ "$engine" = ddp ] && [ "$status" = 1 ]; } || exit "$status"
}

python scripts/bench/stock_run.py inputs "$folder" --family "$family"
python -m plum adopt "$folder/stock" "$folder/base" --sam "$folder/sam2"
start 2 --run_dir "$folder/whole"
stop_after_an_update 2 --run_dir "$folder/run"
stop_after_an_update 1 --run_dir "$folder/run"
start 2 --run_dir "$folder/run"
python -m plum export "$folder/run" "$folder/stock_form" --stock
python -m plum export "$folder/run" "$folder/adapters" --adapters_only
python -m plum export "$folder/run" "$folder/merged"
python validate_partonomy.py --model plum --checkpoint "$folder/merged" --questions "$folder/world" \
  --output "$folder/scores" --max_new_tokens 8
python scripts/bench/stock_run.py check "$folder"
printf 'Everything is in %s\n' "$folder"
