"""deploy/kubernetes/base: manifests fit Kubernetes' schema and each other, and give nothing more rights than needed."""

from __future__ import annotations

import importlib
import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.documents.deployment import BASE, DAEMONS, PAGE, TOP, deployments, manifests

# Typed nowhere; the schemas of this version come with it.
kubernetes_validate: Any = importlib.import_module("kubernetes_validate")
VERSION = "1.34"

KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
ALL = manifests()
DEPLOYMENTS = deployments()
COMPONENTS = sorted(DEPLOYMENTS)
each_manifest = pytest.mark.parametrize("document", ALL, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
each_component = pytest.mark.parametrize("name", COMPONENTS)
each_daemon = pytest.mark.parametrize("name", DAEMONS)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in ALL if one["kind"] == kind]


def container(name: str) -> dict[str, Any]:
    """The only container of a Deployment."""
    [found] = DEPLOYMENTS[name]["containers"]
    assert isinstance(found, dict)
    return found


def pod_labels(name: str) -> dict[str, str]:
    [found] = [one for one in of_kind("Deployment") if one["metadata"]["name"] == f"kube-rewrap-{name}"]
    labels: dict[str, str] = found["spec"]["template"]["metadata"]["labels"]
    return labels


def selected(selector: dict[str, Any]) -> set[str]:
    """The components whose pods a selector takes."""

    def takes(labels: dict[str, str]) -> bool:
        wanted: dict[str, str] = selector.get("matchLabels", {})
        expressions = selector.get("matchExpressions", [])
        assert all(one["operator"] == "In" for one in expressions)
        return wanted.items() <= labels.items() and all(labels.get(e["key"]) in e["values"] for e in expressions)

    return {name for name in COMPONENTS if takes(pod_labels(name))}


@each_manifest
def test_a_manifest_fits_the_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_validation_refuses_what_is_misspelt() -> None:
    document = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}, "automountToken": False}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_kustomization_takes_every_manifest_and_each_once() -> None:
    assert set(KUSTOMIZATION) == {"apiVersion", "kind", "namespace", "resources", "images"}
    assert (KUSTOMIZATION["apiVersion"], KUSTOMIZATION["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    files = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    assert sorted(KUSTOMIZATION["resources"]) == sorted(files)
    names = [(one["kind"], one["metadata"]["name"]) for one in ALL]
    assert len(names) == len(set(names))


def test_the_kustomization_names_the_namespace_and_the_image() -> None:
    assert [one["metadata"]["name"] for one in of_kind("Namespace")] == [KUSTOMIZATION["namespace"]]
    assert [one for one in ALL if "namespace" in one["metadata"]] == [], "the kustomization sets it"
    [image] = KUSTOMIZATION["images"]
    assert {container(name)["image"] for name in DAEMONS} == {f"{image['name']}:{image['newTag']}"}
    assert f'version = "{image["newTag"]}"' in (TOP / "pyproject.toml").read_text(encoding="utf-8")


@each_component
def test_a_deployment_selects_its_own_pods(name: str) -> None:
    [found] = [one for one in of_kind("Deployment") if one["metadata"]["name"] == f"kube-rewrap-{name}"]
    assert selected(found["spec"]["selector"]) == {name}
    assert found["metadata"]["labels"] == pod_labels(name)
    assert found["spec"]["replicas"] == (1 if name == "redis" else 2)


@each_component
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    spec = DEPLOYMENTS[name]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["serviceAccountName"] in {one["metadata"]["name"] for one in of_kind("ServiceAccount")}
    assert [key for key in ("hostNetwork", "hostPID", "hostIPC", "initContainers") if key in spec] == []


def test_only_who_reads_the_configuration_is_root() -> None:
    root = {name for name in COMPONENTS if DEPLOYMENTS[name]["securityContext"]["runAsUser"] == 0}
    mounts = {name for name in COMPONENTS if any("hostPath" in volume for volume in DEPLOYMENTS[name]["volumes"])}
    assert root == mounts == set(DAEMONS)
    assert DEPLOYMENTS["redis"]["securityContext"]["runAsNonRoot"] is True


@each_component
def test_a_container_has_bounds_and_probes(name: str) -> None:
    found = container(name)
    assert {"cpu", "memory"} == set(found["resources"]["requests"])
    assert "memory" in found["resources"]["limits"]
    ports = {port["name"] for port in found["ports"]}
    for probe in ("livenessProbe", "readinessProbe"):
        [how] = [found[probe][kind] for kind in ("httpGet", "tcpSocket") if kind in found[probe]]
        assert how["port"] in ports


@each_component
def test_an_image_is_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+\.\d+(-[a-z]+)?", container(name)["image"])


@each_daemon
def test_a_daemon_stays_on_control_plane_nodes_and_apart_from_its_like(name: str) -> None:
    spec = DEPLOYMENTS[name]
    role = "node-role.kubernetes.io/control-plane"
    assert spec["nodeSelector"] == {role: ""}
    assert spec["tolerations"] == [{"key": role, "operator": "Exists", "effect": "NoSchedule"}]
    [rule] = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert rule["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert selected(rule["podAffinityTerm"]["labelSelector"]) == {name}


@each_daemon
def test_the_configurations_directory_is_mounted_read_only(name: str) -> None:
    found = container(name)
    [volume] = [one for one in DEPLOYMENTS[name]["volumes"] if "hostPath" in one]
    [mount] = [one for one in found["volumeMounts"] if one["name"] == volume["name"]]
    assert volume["hostPath"]["type"] == "Directory"
    assert mount["readOnly"] is True
    # The same path on the node and in the pod, so that what a log says is true in both.
    assert mount["mountPath"] == volume["hostPath"]["path"]
    [file] = [one["value"] for one in found["env"] if one["name"] == "REWRAP_ENCRYPTION_CONFIG"]
    assert file.rpartition("/")[0] == mount["mountPath"]


@each_component
def test_volumes_and_mounts_are_the_same_and_only_tmp_is_written(name: str) -> None:
    volumes = {one["name"] for one in DEPLOYMENTS[name]["volumes"]}
    mounts = container(name)["volumeMounts"]
    assert {one["name"] for one in mounts} == volumes
    assert [one["mountPath"] for one in mounts if not one.get("readOnly")] == ([] if name == "redis" else ["/tmp"])  # noqa: S108


def test_scheduler_and_worker_see_the_same() -> None:
    """A worker with other files than its scheduler would hand every batch back."""
    one, other = (DEPLOYMENTS[name] for name in DAEMONS)
    assert one["volumes"] == other["volumes"]
    assert one["securityContext"] == other["securityContext"]
    for key in ("image", "env", "volumeMounts", "ports", "livenessProbe", "readinessProbe"):
        assert container("scheduler")[key] == container("worker")[key]


def test_what_is_mounted_is_made_here_or_by_the_operator() -> None:
    volumes = [volume for spec in DEPLOYMENTS.values() for volume in spec["volumes"]]
    maps = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert maps == {one["metadata"]["name"] for one in of_kind("ConfigMap")}
    secrets = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
    references = [env["valueFrom"] for name in DAEMONS for env in container(name)["env"] if "valueFrom" in env]
    secrets |= {one["secretKeyRef"]["name"] for one in references if "secretKeyRef" in one}
    page = PAGE.read_text(encoding="utf-8")
    assert secrets == {"kube-rewrap-redis", "kube-rewrap-etcd-client"}
    assert [name for name in sorted(secrets) if f"create secret generic {name} " not in page] == []


def test_the_keys_of_the_secrets_are_those_that_the_page_makes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    made = set(re.findall(r"--from-file=([\w.]+)", page))
    settings = settings_table("etcd")
    [mount] = [one for one in container("worker")["volumeMounts"] if one["name"] == "etcd-client"]
    used = {settings[name].removeprefix(f"{mount['mountPath']}/") for name in ("cacert", "cert", "key")}
    [users] = [one["secret"]["items"] for one in DEPLOYMENTS["redis"]["volumes"]]
    used |= {item["key"] for item in users}
    used |= {
        env["valueFrom"]["secretKeyRef"]["key"]
        for env in container("worker")["env"]
        if "secretKeyRef" in env.get("valueFrom", {})
    }
    assert used == made


def settings_table(group: str) -> dict[str, Any]:
    [document] = of_kind("ConfigMap")
    table: dict[str, Any] = tomllib.loads(document["data"]["settings.toml"])[group]
    return table


@each_daemon
def test_the_settings_file_is_where_the_variable_says(name: str) -> None:
    found = container(name)
    [path] = [one["value"] for one in found["env"] if one["name"] == "REWRAP_SETTINGS"]
    [mount] = [one for one in found["volumeMounts"] if one["name"] == "settings"]
    [document] = of_kind("ConfigMap")
    assert path in {f"{mount['mountPath']}/{key}" for key in document["data"]}


@each_daemon
def test_metrics_and_health_are_asked_where_they_are_served(name: str) -> None:
    found = container(name)
    host, _, port = settings_table("service")["metrics_addr"].rpartition(":")
    assert host == "0.0.0.0"  # noqa: S104 - kubelet asks at the pod's address
    assert found["ports"] == [{"name": "metrics", "containerPort": int(port)}]
    served = (TOP / "worker" / "monitoring.py").read_text(encoding="utf-8")
    for probe in ("livenessProbe", "readinessProbe"):
        assert f'"{found[probe]["httpGet"]["path"]}"' in served
    [deployment] = [one for one in of_kind("Deployment") if one["metadata"]["name"] == f"kube-rewrap-{name}"]
    assert deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == port


def test_redis_is_found_under_the_name_that_the_page_writes() -> None:
    [service] = of_kind("Service")
    [port] = service["spec"]["ports"]
    assert selected({"matchLabels": service["spec"]["selector"]}) == {"redis"}
    assert port["targetPort"] in {one["name"] for one in container("redis")["ports"]}
    assert f"@{service['metadata']['name']}:{port['port']}/0" in PAGE.read_text(encoding="utf-8")


def test_redis_has_users_keeps_nothing_and_evicts_nothing() -> None:
    arguments = container("redis")["args"]
    assert all(isinstance(word, str) for word in arguments)
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options.pop("--maxmemory")
    assert options == {
        "--aclfile": "/etc/redis/users.acl",
        "--save": "",
        "--appendonly": "no",
        "--maxmemory-policy": "noeviction",
        "--proto-max-bulk-len": "1mb",
    }


def test_there_is_a_disruption_budget_for_each_daemon() -> None:
    assert [selected(one["spec"]["selector"]) for one in of_kind("PodDisruptionBudget")] == [{name} for name in DAEMONS]
    assert {one["spec"]["minAvailable"] for one in of_kind("PodDisruptionBudget")} == {1}


def test_the_network_is_closed_but_for_what_is_needed() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind("NetworkPolicy")}
    assert policies.pop("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    governed = {name: selected(spec["podSelector"]) for name, spec in policies.items()}
    assert governed == {"kube-rewrap-daemons": set(DAEMONS), "kube-rewrap-redis": {"redis"}}
    out = {rule["port"] for way in policies["kube-rewrap-daemons"]["egress"] for rule in way["ports"]}
    assert out == {2379, "redis", 53}
    # Only etcd's port is open to any address.
    assert [way["ports"] for way in policies["kube-rewrap-daemons"]["egress"] if "to" not in way] == [
        [{"protocol": "TCP", "port": 2379}]
    ]
    assert "egress" not in policies["kube-rewrap-redis"]
    [way] = policies["kube-rewrap-redis"]["ingress"]
    assert [selected(one["podSelector"]) for one in way["from"]] == [set(DAEMONS)]


def test_the_ports_of_policies_have_names_that_the_pods_know() -> None:
    named = {port["name"] for name in COMPONENTS for port in container(name)["ports"]}
    ways = [
        way for one in of_kind("NetworkPolicy") for key in ("ingress", "egress") for way in one["spec"].get(key, [])
    ]
    assert {rule["port"] for way in ways for rule in way["ports"] if isinstance(rule["port"], str)} <= named


def test_etcd_is_reached_at_the_address_of_the_pods_own_node() -> None:
    for name in DAEMONS:
        by_name = {one["name"]: one for one in container(name)["env"]}
        assert by_name["NODE_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
        # Kubernetes fills in only what was defined before.
        assert list(by_name).index("NODE_IP") < list(by_name).index("REWRAP_ENDPOINTS")
        assert by_name["REWRAP_ENDPOINTS"]["value"] == "https://$(NODE_IP):2379"
