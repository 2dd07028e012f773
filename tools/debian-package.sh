#!/usr/bin/env bash
# Unpacks Debian packages into a directory, without root and without installing them:
#   tools/debian-package.sh [--suite SUITE] DIRECTORY PACKAGE...
#
# With --suite, a Debian system downloads them from that release's suite on its own mirrors (bookworm is Debian 12,
# trixie 13); apt verifies their signatures. Derived distributions name their suites otherwise, and use their own: the
# caller checks the version.
set -euo pipefail

suite=
if [ "$1" = --suite ]; then
  suite=$2
  shift 2
fi
target=$1
shift
packages=("$@")

for tool in apt-get dpkg-deb; do
  if ! command -v "$tool" >/dev/null; then
    echo "$tool is missing: ${packages[*]} can only be fetched on Debian or one of its children" >&2
    exit 1
  fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$target" "$work/state/lists/partial" "$work/cache/archives/partial" "$work/sources.list.d"

# The name of this system's Debian suite; empty on other distributions.
own_suite() {
  (
    ID='' VERSION_CODENAME=''
    . /etc/os-release
    if [ "$ID" = debian ]; then echo "$VERSION_CODENAME"; fi
  )
}

# The system's package sources, with its suite replaced where --suite is given.
write_sources() {
  local list own
  own=$(own_suite)
  for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -e "$list" ]; then
      sed "s/\b${own:-$suite}\b/${suite:-$own}/g" "$list" >"$work/${list#/etc/apt/}"
    fi
  done
}

# apt with separate package lists: the system's may be absent or old, and only root may update them.
own_apt() {
  apt-get --quiet -o Dir::State="$work/state" -o Dir::State::status=/var/lib/dpkg/status \
    -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/sources.list.d" \
    -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch() {
  cd "$work"
  if [ -z "$suite" ] || [ "$suite" = "$(own_suite)" ]; then
    if apt-get --quiet -o APT::Sandbox::User="$(id -un)" download "${packages[@]}" >"$work/log" 2>&1; then
      return
    fi
  fi
  # A third-party source that can't be reached fails the update; whether Debian's could, the download shows.
  own_apt update >>"$work/log" 2>&1 || true
  own_apt download "${packages[@]}" >>"$work/log" 2>&1
}

write_sources
if ! (fetch); then
  cat "$work/log" >&2
  echo "The Debian packages ${packages[*]} could not be downloaded" >&2
  exit 1
fi
for package in "${packages[@]}"; do
  dpkg-deb --extract "$work/$package"_*.deb "$target"
done
