#!/usr/bin/env bash
# PLUM beside its sisters on the embedded default: LISA (many or one [SEG]), LISA with feedback, M2SA; three seeds, matched updates.
# All start from the quickstart's stage 0: towers, LLaMA and SAM are shared, every head starts afresh (that stage 0 was trained
# with PLUM's heads, which favours PLUM). Usage: bash scripts/sisters.sh    Resumes; settings: scripts/compare_variants.sh.
#   RUNS=runs/sisters (where the runs go)    VARIANTS="plum lisa_many plum_lisa_losses" (some of them)
set -euo pipefail
export GENERATE=${GENERATE:-identification_with_label}
exec bash "$(dirname "$0")/compare_variants.sh" configs/sisters plum "${RUNS:-runs/sisters}"
