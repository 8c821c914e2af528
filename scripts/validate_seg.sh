#!/usr/bin/env bash
# Validate a saved model on RefCOCO, RefCOCO+, RefCOCOg and ReasonSeg, forced and generated.
# Usage: bash scripts/validate_seg.sh CHECKPOINT ROOT OUTPUT [flags of python -m plum validate ...]
# ROOT is a folder in LISA's layout (refer_seg/, reason_seg/); a data set that is not there is left out and said so.
# MODES="forced" and SPLITS="val" run these alone. On several GPUs one process runs on each: NUM_PROCS=8 (default: all GPUs).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

checkpoint=$1 root=$2 output=$3
flags=("${@:4}")
procs=${NUM_PROCS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}

validate() { # BENCHMARK SPLIT
    local mode
    for mode in ${MODES:-forced generated}; do
        python -m plum validate "$1" --root "$root" --split "$2" --mode "$mode" --checkpoint "$checkpoint" \
            --output "$output/$1_$2_$mode" --num_procs "$procs" --resume ${flags[@]+"${flags[@]}"}
    done
}

for benchmark in refcoco refcoco+ refcocog; do
    if [[ ! -d "$root/refer_seg/$benchmark" ]]; then
        echo "left out: $root/refer_seg/$benchmark is not there"
        continue
    fi
    splits="val testA testB"
    [[ $benchmark == refcocog ]] && splits="val test"
    for split in ${SPLITS:-$splits}; do validate "$benchmark" "$split"; done
done
for split in ${SPLITS:-val test}; do
    if [[ -d "$root/reason_seg/ReasonSeg/$split" ]]; then
        validate reasonseg "$split"
    else
        echo "left out: $root/reason_seg/ReasonSeg/$split is not there"
    fi
done
