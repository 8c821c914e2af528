#!/usr/bin/env bash
# Validate a saved model on RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO, ReasonSeg, RefCOCOm, InstructPart and MMR, with given
# and with own answers (gRefCOCO: own answers alone).
# Usage: bash scripts/validate_seg.sh CHECKPOINT ROOT OUTPUT [flags of python -m plum validate ...]
# ROOT is a folder in LISA's layout (refer_seg/, reason_seg/, instructpart_part/, MMR/); a data set that is not there is
# left out and said so.
# MODES="forced", MMR_MODES="generate" and SPLITS="val" run these alone. On several GPUs one process runs on each:
# NUM_PROCS=8 (default: all GPUs).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false

checkpoint=$1 root=$2 output=$3
flags=("${@:4}")
procs=${NUM_PROCS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}

validate() { # BENCHMARK SPLIT MODES
    local mode
    for mode in $3; do
        python -m plum validate "$1" --root "$root" --split "$2" --mode "$mode" --checkpoint "$checkpoint" \
            --output "$output/$1_$2_$mode" --num_procs "$procs" --resume ${flags[@]+"${flags[@]}"}
    done
}

modes=${MODES:-forced generated} mmr_modes=${MMR_MODES:-teacher_forced generate union}
for benchmark in refcoco refcoco+ refcocog; do
    if [[ ! -d "$root/refer_seg/$benchmark" ]]; then
        echo "left out: $root/refer_seg/$benchmark is not there"
        continue
    fi
    splits="val testA testB"
    [[ $benchmark == refcocog ]] && splits="val test"
    for split in ${SPLITS:-$splits}; do validate "$benchmark" "$split" "$modes"; done
done
if [[ ! -d "$root/refer_seg/grefcoco" ]]; then
    echo "left out: $root/refer_seg/grefcoco is not there"
elif [[ " $modes " == *" generated "* ]]; then
    for split in ${SPLITS:-val testA testB}; do validate grefcoco "$split" generated; done
fi
if [[ ! -d "$root/instructpart_part/InstructPart/test" ]]; then
    echo "left out: $root/instructpart_part/InstructPart/test is not there"
elif [[ -z ${SPLITS:-} || " $SPLITS " == *" test "* ]]; then
    validate instructpart test "$modes"
fi
for split in ${SPLITS:-val test}; do
    if [[ -d "$root/reason_seg/ReasonSeg/$split" ]]; then
        validate reasonseg "$split" "$modes"
    else
        echo "left out: $root/reason_seg/ReasonSeg/$split is not there"
    fi
done
for file in "$root"/refer_seg/RefCOCOm/annotations/*.json; do
    split=$(basename "$file" .json)
    if [[ ! -f $file ]]; then
        echo "left out: $file is not there"
    elif [[ -z ${SPLITS:-} || " $SPLITS " == *" $split "* ]]; then
        validate refcocom "$split" "$modes"
    fi
done
for split in ${SPLITS:-val test_mixed test_obj_only test_part_only}; do
    if [[ -f "$root/MMR/MMR_$split.json" ]]; then
        validate mmr "$split" "$mmr_modes"
    else
        echo "left out: $root/MMR/MMR_$split.json is not there"
    fi
done
