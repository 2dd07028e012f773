"""The images that deploy/ names, from Debian's packages alone: no registry of images is asked.

Python 3.11, etcd 3.4 and Redis 7.0 of Debian 12 stand in for the versions that the names say.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.image.engine import Engine

TOP = Path(__file__).parents[2]
DOCKERFILE = TOP / "deploy" / "Dockerfile"
IMAGE = "kube-rewrap:0.1.0"
SYSTEMD = "kube-rewrap-test/systemd"
SLIM = "kube-rewrap-test/slim"
SERVERS = "kube-rewrap-test/servers"

_PYTHON = "python3,python3-venv,python-is-python3,ca-certificates"
_PACKAGES = "etcd-server etcd-client redis-server redis-tools binutils systemd dbus"
# /data belongs to the user that the compose file names: a volume that is mounted there takes over the owner.
_SERVERS = f"""
FROM {SLIM}
RUN apt-get update && apt-get install --yes --no-install-recommends {_PACKAGES} \\
 && ln -s /usr/bin/etcd /usr/bin/etcdctl /usr/local/bin/ \\
 && install --directory --owner=65532 --group=65532 --mode=0700 /data
"""
_SYSTEMD = f"""
FROM {IMAGE} AS ours
FROM {SERVERS}
COPY --from=ours /opt/kube-rewrap /opt/kube-rewrap
COPY *.service /etc/systemd/system/
RUN systemctl mask redis-server etcd && install --directory --mode=0700 /etc/kube-rewrap /etc/kubernetes/enc
"""
# The certificate authorities that this machine trusts: pip in the builder may reach its packages through a proxy.
_TRUST = Path("/etc/ssl/certs/ca-certificates.crt")


def make_bases(engine: Engine) -> None:
    """Python's images for the builder and for the final image, etcd's and Redis', under the names in the files."""
    tree = engine.directory / "debian"
    words = ["debootstrap", "--variant=minbase", f"--include={_PYTHON}", "bookworm", str(tree)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=900)
    for path in (tree / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()
    shutil.copyfile(_TRUST, tree / _TRUST.relative_to("/"))
    archive = engine.directory / "debian.tar"
    subprocess.run(["tar", "-C", tree, "--numeric-owner", "-cf", archive, "."], check=True, timeout=300)  # noqa: S607
    engine.docker("import", archive, SLIM, seconds=300)
    shutil.rmtree(tree)
    archive.unlink()
    build(engine, SERVERS, _SERVERS, {})
    [version] = re.findall(r"^ARG PYTHON=(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    engine.docker("tag", SLIM, f"python:{version}-slim-bookworm")
    engine.docker("tag", SERVERS, f"python:{version}-bookworm")
    services = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]
    for name in ("etcd", "redis"):
        engine.docker("tag", SERVERS, services[name]["image"])


def make_ours(engine: Engine) -> None:
    """deploy/Dockerfile as it is."""
    engine.docker("build", "--quiet", "--network", "host", "--file", DOCKERFILE, "--tag", IMAGE, TOP, seconds=900)


def make_systemd(engine: Engine) -> None:
    """A Debian that boots, with the units and our environment where docs/deploy.md installs them."""
    units = {path.name: path.read_text() for path in (TOP / "deploy" / "systemd").glob("*.service")}
    build(engine, SYSTEMD, _SYSTEMD, units)


def build(engine: Engine, tag: str, dockerfile: str, files: dict[str, str]) -> None:
    """An image from a Dockerfile and files that are given as texts."""
    context = engine.directory / "context"
    context.mkdir()
    for name, text in {**files, "Dockerfile": dockerfile}.items():
        (context / name).write_text(text)
    engine.docker("build", "--quiet", "--network", "host", "--tag", tag, context, seconds=900)
    shutil.rmtree(context)
