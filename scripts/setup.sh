#!/usr/bin/env bash
# Create .venv with the pinned packages; do nothing if they are already installed.
# Usage: bash scripts/setup.sh [--dev]     (PYTHON=python3.11 chooses the interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=(requirements.txt)
[ "${1:-}" = "--dev" ] && requirements+=(requirements-dev.txt)

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; }
if [ ! -x .venv/bin/python ]; then
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do is_recent "$python" && break; done
  is_recent "$python" || { echo "Python 3.11 or newer is needed; set PYTHON=..." >&2; exit 1; }
  "$python" -m venv .venv
fi
is_recent .venv/bin/python || { echo ".venv has a Python older than 3.11: delete it, then run this again" >&2; exit 1; }

for file in "${requirements[@]}"; do
  stamp=".venv/$file.installed"
  if ! cmp -s "$file" "$stamp"; then
    echo "Installing $file ..."
    .venv/bin/python -m pip install --quiet --upgrade pip
    .venv/bin/python -m pip install --quiet -r "$file"
    cp "$file" "$stamp"
  fi
done
