"""Decrypts one object for `rewrap inspect`, and says why an etcd key is not governed."""

from __future__ import annotations

import posixpath

from kube_rewrap.config.encryption.resources import Layout, Located
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.scheduler.engine import Examined
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import survey_cluster
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.etcd.ranges import key_text


async def examine(cluster: Cluster, key: bytes) -> tuple[str, Examined]:
    """Return one object's resource and verdict.

    Raises SettingsError for a key that the configuration does not govern, or that does not exist.
    """
    resource = resource_of(key, cluster.layout, await survey_cluster(cluster))
    await cluster.engine.load_proven_resources()
    examined = await cluster.engine.examine(key, resource)
    if examined is None:
        raise no_object(key, "does not exist")
    return resource, examined


def resource_of(key: bytes, layout: Layout, territory: Territory) -> str:
    """Return the governed resource of an etcd key. Raises SettingsError where there is none."""
    resource = next((one.resource for one in territory.governed if key in one.range), None)
    if resource is None:
        raise no_object(key, _why_ungoverned(key, layout, territory))
    return resource


def _why_ungoverned(key: bytes, layout: Layout, territory: Territory) -> str:
    root = posixpath.join("/", layout.etcd_prefix.strip("/"), "")
    if not key.startswith(root.encode()):
        return f"lies outside {root}, where kube-apiserver stores objects; write {root}RESOURCE/NAMESPACE/NAME"
    located = layout.resource_at(key)
    if not isinstance(located, Located):
        return "lies under no resource that the configuration governs"
    because = f"belongs to {located.resource}, no resource that the configuration governs"
    slips = [name for name, _, remedy in territory.idle if str(located.resource) in remedy.split("; ")[0]]
    return f"{because}; {', '.join(slips)} is another name, and governs nothing" if slips else because


def no_object(key: bytes, message: str) -> SettingsError:
    """Return the error for an etcd key that names no governed object."""
    return SettingsError("command line", (Fault(key_text(key), message, "see `etcdctl get --prefix --keys-only`"),))
