#!/usr/bin/env bash
# Makes a virtual environment with pip in it:  tools/venv.sh DIRECTORY
#
# Uses $PYTHON, or the first Python >= 3.11 that it finds. Debian ships python3 without ensurepip; then the script takes
# pip from Debian's own wheel, which needs no root either. REWRAP_NO_ENSUREPIP=1 forces that way, to test it.
set -euo pipefail

venv=$1
here=$(cd "$(dirname "$0")" && pwd)

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo "No Python >= 3.11 found. Install one, or name it: make PYTHON=/path/to/python3.11 …" >&2
  return 1
}

has_ensurepip() {
  [ -z "${REWRAP_NO_ENSUREPIP:-}" ] && "$1" -c 'import ensurepip' 2>/dev/null
}

python=$(find_python)
rm -rf "$venv"
if has_ensurepip "$python"; then
  "$python" -m venv "$venv"
else
  echo "$python has no ensurepip; pip comes from Debian's python3-pip-whl"
  unpacked=$(mktemp -d)
  trap 'rm -rf "$unpacked"' EXIT
  "$here/debian-package.sh" "$unpacked" python3-pip-whl
  wheel=$(echo "$unpacked"/usr/share/python-wheels/pip-*.whl)
  "$python" -m venv --without-pip "$venv"
  PYTHONPATH=$wheel "$venv/bin/python" -m pip install --quiet --no-index --no-deps "$wheel"
fi
