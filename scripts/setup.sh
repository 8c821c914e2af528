#!/usr/bin/env bash
# Make .venv with the pinned packages; does nothing when they are already there.
# Usage: bash scripts/setup.sh [--dev]     (PYTHON=python3.11 picks the interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=(requirements.txt)
[ "${1:-}" = "--dev" ] && requirements+=(requirements-dev.txt)

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "Python 3.11 or newer is needed; set PYTHON=..." >&2; exit 1; }

for file in "${requirements[@]}"; do
  stamp=".venv/$file.installed"
  if ! cmp -s "$file" "$stamp"; then
    echo "Installing $file ..."
    .venv/bin/python -m pip install --quiet --upgrade pip
    .venv/bin/python -m pip install --quiet -r "$file"
    cp "$file" "$stamp"
  fi
done
