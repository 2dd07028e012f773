#!/usr/bin/env bash
# Puts Debian's prometheus and promtool into a directory:  tools/prometheus.sh .servers/prometheus
# The script installs no package, and starts no daemon.
set -euo pipefail

target=$1
here=$(cd "$(dirname "$0")" && pwd)
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT

"$here/debian-package.sh" "$unpacked" prometheus
"$unpacked/usr/bin/prometheus" --version >/dev/null
install -D -m 755 -t "$target" "$unpacked/usr/bin/promtool" "$unpacked/usr/bin/prometheus"
