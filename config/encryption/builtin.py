"""The API groups and stored resources that are compiled into kube-apiserver, up to 1.36 and back to 1.9.

Only stored resources: reviews, bindings, component statuses and subresources have no path in etcd.
Sources: k/k pkg/kubeapiserver/default_storage_factory_builder.go (exceptions, cohabitation) and the group
registrations under k/k pkg/registry. The group of a custom resource may end in .k8s.io, too
(snapshot.storage.k8s.io, gateway.networking.k8s.io), but is not in this table.

A name of one of these groups that is not listed governs nothing. kube-apiserver compares resource and group: with
`deployments` or `deployments.batch` in its file, it stores deployments.apps in plaintext.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RESOURCES_BY_GROUP: Mapping[str, tuple[str, ...]] = {
    "": (
        "configmaps",
        "endpoints",
        "events",  # also served as events.k8s.io, and stored here
        "limitranges",
        "namespaces",
        "nodes",
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "serviceaccounts",
        "services",
    ),
    "admissionregistration.k8s.io": (
        "initializerconfigurations",  # to 1.13
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "validatingwebhookconfigurations",
    ),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "apiregistration.k8s.io": ("apiservices",),
    "apps": ("controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"),
    "auditregistration.k8s.io": ("auditsinks",),  # to 1.18
    "authentication.k8s.io": (),  # reviews, answered and not stored
    "authorization.k8s.io": (),  # likewise
    "autoscaling": ("horizontalpodautoscalers",),
    "batch": ("cronjobs", "jobs"),
    "certificates.k8s.io": ("certificatesigningrequests", "clustertrustbundles", "podcertificaterequests"),
    "coordination.k8s.io": ("leasecandidates", "leases"),
    "discovery.k8s.io": ("endpointslices",),
    "events.k8s.io": (),  # stored as events of the core group
    "extensions": (),  # removed in 1.22; its resources are stored under their present groups
    "flowcontrol.apiserver.k8s.io": ("flowschemas", "prioritylevelconfigurations"),
    "imagepolicy.k8s.io": (),  # reviews
    "internal.apiserver.k8s.io": ("storageversions",),
    "networking.k8s.io": (
        "clustercidrs",  # 1.25 to 1.28
        "ingressclasses",
        "ingresses",
        "ipaddresses",
        "networkpolicies",
        "servicecidrs",
    ),
    "node.k8s.io": ("runtimeclasses",),
    "policy": ("poddisruptionbudgets", "podsecuritypolicies"),  # the latter to 1.24
    "rbac.authorization.k8s.io": ("clusterrolebindings", "clusterroles", "rolebindings", "roles"),
    "resource.k8s.io": (
        "deviceclasses",
        "devicetaintrules",
        "podschedulingcontexts",  # to 1.31, as are the next three
        "podschedulings",
        "resourceclaimparameters",
        "resourceclasses",
        "resourceclassparameters",
        "resourceclaims",
        "resourceclaimtemplates",
        "resourcepoolstatusrequests",
        "resourceslices",
    ),
    "scheduling.k8s.io": ("podgroups", "priorityclasses", "workloads"),
    "settings.k8s.io": ("podpresets",),  # to 1.19
    "storage.k8s.io": (
        "csidrivers",
        "csinodes",
        "csistoragecapacities",
        "storageclasses",
        "volumeattachments",
        "volumeattributesclasses",
    ),
    "storagemigration.k8s.io": ("storageversionmigrations",),
}

GROUPED_RESOURCES = {
    ("customresourcedefinitions", "apiextensions.k8s.io"),
    ("apiservices", "apiregistration.k8s.io"),
}
"""(plural, group) of built-in resources stored under `<group>/<plural>/`: their servers are libraries of their own."""

SPECIAL_PATHS: Mapping[tuple[str, str], str] = {
    ("replicationcontrollers", ""): "controllers",
    ("endpoints", ""): "services/endpoints",
    ("nodes", ""): "minions",
    ("services", ""): "services/specs",
    ("ingresses", "networking.k8s.io"): "ingress",
    ("podsecuritypolicies", "policy"): "podsecuritypolicy",
}
"""(plural, group) → path, for resources whose path is not their plural. SpecialDefaultResourcePrefixes upstream."""

NEVER_ENCRYPTED = frozenset({b"ranges", b"masterleases", b"peerserverleases"})
"""First path segments under the prefix whose values kube-apiserver reads without any provider."""
