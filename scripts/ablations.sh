#!/usr/bin/env bash
# Run the paper's ablations, and those of the authors' switches, on the embedded default: every file in configs/ablations, with three
# seeds, from the quickstart's stage 0.
# Usage: bash scripts/ablations.sh            Resumable; settings: scripts/compare_variants.sh.
#   RUNS=runs/ablations (folder of the runs)
set -euo pipefail
exec bash "$(dirname "$0")/compare_variants.sh" configs/ablations base "${RUNS:-runs/ablations}"
