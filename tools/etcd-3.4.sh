#!/usr/bin/env bash
# Puts Debian 12's etcd 3.4 at the given path:  tools/etcd-3.4.sh .servers/3.4/etcd
# Many clusters still run this version. The script installs no package, and starts no daemon.
set -euo pipefail

binary=$1
here=$(cd "$(dirname "$0")" && pwd)
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT

"$here/debian-package.sh" --suite bookworm "$unpacked" etcd-server
version=$("$unpacked/usr/bin/etcd" --version)
version=${version%%$'\n'*}
case $version in
  "etcd Version: 3.4."*) ;;
  *)
    echo "etcd 3.4 is Debian 12's; this system's package holds '$version'" >&2
    exit 1
    ;;
esac
install -D -m 755 "$unpacked/usr/bin/etcd" "$binary"
