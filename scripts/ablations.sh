#!/usr/bin/env bash
# The paper's ablations on the embedded default: every file of configs/ablations, three seeds, from the quickstart's stage 0.
# Usage: bash scripts/ablations.sh            Resumable; settings: scripts/compare_variants.sh.
#   RUNS=runs/ablations (where the runs go)
set -euo pipefail
exec bash "$(dirname "$0")/compare_variants.sh" configs/ablations base "${RUNS:-runs/ablations}"
