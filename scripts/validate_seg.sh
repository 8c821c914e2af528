#!/usr/bin/env bash
# Validate a saved model on RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO, ReasonSeg, RefCOCOm, InstructPart and MMR, with given
# answers and with the model's own (gRefCOCO: only own answers).
# Usage: bash scripts/validate_seg.sh CHECKPOINT ROOT OUTPUT [flags of python -m plum validate ...]
# ROOT is a folder in LISA's layout (refer_seg/, reason_seg/, instructpart_part/, MMR/); missing data sets
# are reported and skipped.
# MODES="forced", MMR_MODES="generate" and SPLITS="val" restrict what is run. NUM_PROCS=8 sets the number of processes
# (default: one per GPU).
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
        echo "skipped: $root/refer_seg/$benchmark does not exist"
        continue
    fi
    splits="val testA testB"
    [[ $benchmark == refcocog ]] && splits="val test"
    for split in ${SPLITS:-$splits}; do validate "$benchmark" "$split" "$modes"; done
done
if [[ ! -d "$root/refer_seg/grefcoco" ]]; then
    echo "skipped: $root/refer_seg/grefcoco does not exist"
elif [[ " $modes " == *" generated "* ]]; then
    for split in ${SPLITS:-val testA testB}; do validate grefcoco "$split" generated; done
fi
if [[ ! -d "$root/instructpart_part/InstructPart/test" ]]; then
    echo "skipped: $root/instructpart_part/InstructPart/test does not exist"
elif [[ -z ${SPLITS:-} || " $SPLITS " == *" test "* ]]; then
    validate instructpart test "$modes"
fi
for split in ${SPLITS:-val test}; do
    if [[ -d "$root/reason_seg/ReasonSeg/$split" ]]; then
        validate reasonseg "$split" "$modes"
    else
        echo "skipped: $root/reason_seg/ReasonSeg/$split does not exist"
    fi
done
for file in "$root"/refer_seg/RefCOCOm/annotations/*.json; do
    split=$(basename "$file" .json)
    if [[ ! -f $file ]]; then
        echo "skipped: $file does not exist"
    elif [[ -z ${SPLITS:-} || " $SPLITS " == *" $split "* ]]; then
        validate refcocom "$split" "$modes"
    fi
done
for split in ${SPLITS:-val test_mixed test_obj_only test_part_only}; do
    if [[ -f "$root/MMR/MMR_$split.json" ]]; then
        validate mmr "$split" "$mmr_modes"
    else
        echo "skipped: $root/MMR/MMR_$split.json does not exist"
    fi
done
