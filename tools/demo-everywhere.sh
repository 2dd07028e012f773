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

# Runs the demonstration with one Python, and prints how it went in one piece, for several run at the same time.
demonstrate() {
  local python=$1 name checkout log said
  name=$("$python" -c 'import platform; print("Python", platform.python_version())')
  checkout=$(mktemp -d -p "$work")
  log=$checkout.log
  git ls-files -z | tar --create --null --files-from - | tar --extract --directory "$checkout"
  # etcd is the same for each Python: it is downloaded only where the tree hasn't got it.
  if [ -d .servers/3.5 ]; then mkdir "$checkout/.servers" && cp -R .servers/3.5 "$checkout/.servers/"; fi
  if timeout "$bound" make --directory "$checkout" --no-print-directory PYTHON="$python" demo >"$log" 2>&1; then
    said=$(grep -m 1 '^COMPLETE' "$log")
    echo "== $name: $said"
  else
    echo "== $name: failed"$'\n'"$(cat "$log")"
    return 1
  fi
  rm -rf "$checkout"
}

able=()
while read -r python; do
  if "$python" -c 'import venv' 2>/dev/null; then
    able+=("$python")
  else
    echo "== $python: skipped, it has no module venv"
  fi
done < <(interpreters)
if [ "${#able[@]}" -eq 0 ]; then
  echo "No Python from 3.11 on was found" >&2
  exit 1
fi

export -f demonstrate
export bound work
if ! printf '%s\0' "${able[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -euo pipefail -c 'demonstrate "$1"' demonstrate; then
  echo "make demo failed" >&2
  exit 1
fi
