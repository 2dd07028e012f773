#!/usr/bin/env bash
# Unpacks a Debian package into a directory, without root and without installing it:
#   tools/debian-package.sh PACKAGE DIRECTORY
set -euo pipefail

package=$1
target=$2

for tool in apt-get dpkg-deb; do
  if ! command -v "$tool" >/dev/null; then
    echo "$tool is missing: the Debian package $package can only be fetched on Debian or one of its children" >&2
    exit 1
  fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$target" "$work/state/lists/partial" "$work/cache/archives/partial"

# apt with package lists of its own: the system's may be absent or old, and only root may renew them.
own_apt() {
  apt-get --quiet -o Dir::State="$work/state" -o Dir::State::status=/var/lib/dpkg/status \
    -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch() {
  cd "$work"
  if apt-get --quiet -o APT::Sandbox::User="$(id -un)" download "$package" >"$work/log" 2>&1; then
    return
  fi
  # A third-party source that can't be reached fails the update; whether Debian's could, the download shows.
  own_apt update >>"$work/log" 2>&1 || true
  own_apt download "$package" >>"$work/log" 2>&1
}

if ! (fetch); then
  cat "$work/log" >&2
  echo "The Debian package $package could not be downloaded" >&2
  exit 1
fi
dpkg-deb --extract "$work/$package"_*.deb "$target"
