#!/usr/bin/env bash
# Runs `make demo` in a fresh checkout and environment, with each Python >= 3.11 that it finds: on PATH, of the system,
# and of pyenv. It removes the directories afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

bound=600 # seconds for one; some 30 are enough
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

candidates() {
  local directory
  type -ap python3 python3.{11,12,13,14,15} || true
  for directory in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin; do
    if [ -x "$directory/python3" ]; then echo "$directory/python3"; fi
  done
}

# One of each installation, by sys.executable: pyenv's shims and the system's links lead to the same one.
interpreters() {
  local candidate
  candidates | while read -r candidate; do
    "$candidate" -c 'import sys; sys.version_info < (3, 11) or print(sys._base_executable)' 2>/dev/null || true
  done | xargs -r -n 1 realpath | sort -u
}

failed=()
ran=0
while read -r python; do
  name=$("$python" -c 'import platform; print("Python", platform.python_version())')
  if ! "$python" -c 'import venv' 2>/dev/null; then
    echo "== $name: skipped, it has no module venv"
    continue
  fi
  echo "== $name"
  checkout=$work/$((ran += 1))
  mkdir "$checkout"
  git ls-files -z | tar --create --null --files-from - | tar --extract --directory "$checkout"
  if timeout "$bound" make --directory "$checkout" --no-print-directory PYTHON="$python" demo >"$work/log" 2>&1; then
    grep -m 1 '^COMPLETE' "$work/log"
  else
    cat "$work/log"
    failed+=("$name")
  fi
  rm -rf "$checkout"
done < <(interpreters)

if [ "${#failed[@]}" -gt 0 ] || [ "$ran" -eq 0 ]; then
  echo "make demo failed on: ${failed[*]:-no Python from 3.11 on was found}" >&2
  exit 1
fi
