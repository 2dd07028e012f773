"""deploy/kubernetes/overlays, rendered by kubectl: they fit Kubernetes' schema, and change what they say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_rewrap.config.settings.flags import EVERY
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from
from tests.documents.deployment import BASE, DAEMONS, DEPLOY, KUBERNETES, PAGE, TOP, deployments
from tests.documents.test_deploy_kubernetes import VERSION
from tools.prometheus_rule import RULES, TARGET, as_prometheus_rule

# Typed nowhere.
kubernetes_validate: Any = importlib.import_module("kubernetes_validate")
jsonschema: Any = importlib.import_module("jsonschema")

KUBECTL = TOP / ".servers" / "kubectl" / "kubectl"
pytestmark = pytest.mark.skipif(
    not KUBECTL.exists() and "CI" not in os.environ, reason="no kubectl: tools/kubectl.sh could not get it"
)

OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)

# Of the Prometheus operator's CRDs, what we use. kubernetes_validate has the schemas of Kubernetes alone.
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_SELECTOR = {
    "type": "object",
    "properties": {"matchLabels": _TEXTS, "matchExpressions": {"type": "array"}},
    "additionalProperties": False,
}
_DURATION = {"type": "string", "pattern": r"^(\d+[smhd])+$"}
_RULE = {
    "type": "object",
    "properties": {
        "alert": {"type": "string"},
        "expr": {"type": "string"},
        "for": _DURATION,
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
    "required": ["alert", "expr"],
    "additionalProperties": False,
}
_GROUP = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "rules": {"type": "array", "items": _RULE}},
    "required": ["name"],
    "additionalProperties": False,
}
_ENDPOINT = {
    "type": "object",
    "properties": {"port": {"type": "string"}, "interval": _DURATION},
    "additionalProperties": False,
}
CRDS: dict[str, dict[str, Any]] = {
    "PrometheusRule": {
        "type": "object",
        "properties": {"groups": {"type": "array", "items": _GROUP}},
        "required": ["groups"],
        "additionalProperties": False,
    },
    "PodMonitor": {
        "type": "object",
        "properties": {
            "jobLabel": {"type": "string"},
            "selector": _SELECTOR,
            "podMetricsEndpoints": {"type": "array", "items": _ENDPOINT},
        },
        "required": ["selector", "podMetricsEndpoints"],
        "additionalProperties": False,
    },
}


@cache
def kustomized(directory: Path) -> list[dict[str, Any]]:
    words = [str(KUBECTL), "kustomize", str(directory)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))


def rendered(overlay: str) -> list[dict[str, Any]]:
    return kustomized(KUBERNETES / "overlays" / overlay)


def of_kind(overlay: str, kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in rendered(overlay) if one["kind"] == kind}


def container(overlay: str, name: str) -> dict[str, Any]:
    [found] = deployments(rendered(overlay))[name]["containers"]
    assert isinstance(found, dict)
    return found


def environment(overlay: str, name: str) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in container(overlay, name)["env"]}


def settings_of(overlay: str, directory: Path) -> Settings:
    """What a daemon reads: the settings file, under the endpoints of its pod. Raises what it would end with."""
    file = directory / "settings.toml"
    file.write_text(of_kind(overlay, "ConfigMap")["kube-rewrap-settings"]["data"]["settings.toml"], encoding="utf-8")
    variables = {
        "REWRAP_ENDPOINTS": environment(overlay, "worker")["REWRAP_ENDPOINTS"].replace("$(NODE_IP)", "192.0.2.1"),
        "REWRAP_BROKER": "redis://rewrap:x@kube-rewrap-redis:6379/0",
        "REWRAP_SETTINGS": str(file),
    }
    return settings_from(EVERY, {}, variables)


@each_overlay
def test_an_overlay_fits_the_schema(overlay: str) -> None:
    for document in rendered(overlay):
        if document["kind"] in CRDS:
            assert document["apiVersion"] == "monitoring.coreos.com/v1"
            jsonschema.validate(document["spec"], CRDS[document["kind"]])
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)


@each_overlay
def test_an_overlays_settings_are_accepted(overlay: str, tmp_path: Path) -> None:
    assert settings_of(overlay, tmp_path).pace.rate == Settings().pace.rate


@each_overlay
def test_what_an_overlay_mounts_is_a_volume_and_keeps_its_hardening(overlay: str) -> None:
    for name, spec in deployments(rendered(overlay)).items():
        [found] = spec["containers"]
        assert {one["name"] for one in found["volumeMounts"]} == {one["name"] for one in spec["volumes"]}
        assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert found["securityContext"]["readOnlyRootFilesystem"]
        assert spec["automountServiceAccountToken"] is False


@each_overlay
def test_every_object_of_a_namespace_is_in_ours(overlay: str) -> None:
    clusterwide = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    objects = [one for one in rendered(overlay) if one["kind"] not in clusterwide]
    assert {one["metadata"]["namespace"] for one in objects} == {"kube-rewrap"}


def test_every_component_has_an_overlay_and_all_of_them_are_on_the_page() -> None:
    used = [
        path.rpartition("/")[2]
        for overlay in OVERLAYS
        for path in yaml.safe_load(
            (KUBERNETES / "overlays" / overlay / "kustomization.yaml").read_text(encoding="utf-8")
        ).get("components", [])
    ]
    assert sorted(used) == COMPONENTS
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in OVERLAYS if f"`{name}`" not in page] == []


def test_the_top_is_the_overlay_for_kubeadm() -> None:
    assert kustomized(KUBERNETES) == rendered("kubeadm") == kustomized(BASE)


def test_all_components_fit_together(tmp_path: Path) -> None:
    """In a kustomization of one's own, as the page describes it; `host-network` excludes `external-etcd`."""
    relative = os.path.relpath(KUBERNETES, tmp_path)
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{relative}/base"],
        "components": [f"{relative}/components/{name}" for name in COMPONENTS if name != "host-network"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    kinds = {one["kind"] for one in kustomized(tmp_path)}
    assert {"PodMonitor", "PrometheusRule", "ClusterRole"} <= kinds
    assert "NetworkPolicy" not in kinds


def test_the_pages_own_kustomization_renders(tmp_path: Path) -> None:
    [document] = re.findall(r"```yaml\n(apiVersion: kustomize.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    text = document.replace("../kube-rewrap", os.path.relpath(TOP, tmp_path))
    (tmp_path / "kustomization.yaml").write_text(text, encoding="utf-8")
    images = {spec["containers"][0]["image"] for spec in deployments(kustomized(tmp_path)).values()}
    assert "registry.example.com/kube-rewrap:0.1.0" in images


def test_external_etcd_is_reached_at_every_member(tmp_path: Path) -> None:
    assert len(settings_of("external-etcd", tmp_path).etcd.endpoints) == 3
    assert environment("external-etcd", "scheduler") == environment("external-etcd", "worker")


def test_local_etcd_is_reached_from_the_hosts_network_where_no_port_collides() -> None:
    ports = set()
    for name in DAEMONS:
        assert environment("local-etcd", name)["REWRAP_ENDPOINTS"] == "https://127.0.0.1:2379"
        spec = deployments(rendered("local-etcd"))[name]
        assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
        [port] = spec["containers"][0]["ports"]
        ports.add(port["containerPort"])
        template = of_kind("local-etcd", "Deployment")[f"kube-rewrap-{name}"]["spec"]["template"]
        assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert len(ports) == len(DAEMONS)


def test_kms_mounts_the_directory_of_the_socket_in_both_daemons() -> None:
    for name in DAEMONS:
        spec = deployments(rendered("kms"))[name]
        [mount] = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "kms-plugin"]
        [volume] = [one for one in spec["volumes"] if one["name"] == "kms-plugin"]
        assert volume["hostPath"] == {"path": mount["mountPath"], "type": "Directory"}
        assert mount["readOnly"]


def test_auto_rotation_gives_the_scheduler_alone_what_a_rotation_needs(tmp_path: Path) -> None:
    overlay = "auto-rotation"
    mounts = {name: {m["name"]: m for m in container(overlay, name)["volumeMounts"]} for name in DAEMONS}
    assert not mounts["scheduler"]["encryption-configuration"].get("readOnly")
    assert mounts["worker"]["encryption-configuration"]["readOnly"]
    assert "apiserver" not in mounts["worker"]
    settings = settings_of(overlay, tmp_path)
    assert settings.rotation.auto
    place = mounts["scheduler"]["apiserver"]["mountPath"]
    [volume] = [one for one in deployments(rendered(overlay))["scheduler"]["volumes"] if one["name"] == "apiserver"]
    token, ca = volume["projected"]["sources"]
    assert str(settings.apiservers.token_file) == f"{place}/{token['serviceAccountToken']['path']}"
    assert str(settings.apiservers.cacert) == f"{place}/{ca['configMap']['items'][0]['path']}"
    [binding] = of_kind(overlay, "ClusterRoleBinding").values()
    account = {"kind": "ServiceAccount", "name": "kube-rewrap", "namespace": "kube-rewrap"}
    assert binding["subjects"] == [account]
    [role] = of_kind(overlay, "ClusterRole").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert role["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    [ways] = [way["ports"] for way in policy(overlay)["egress"] if "to" not in way]
    assert [way["port"] for way in ways] == [2379, 6443]


def policy(overlay: str) -> dict[str, Any]:
    spec: dict[str, Any] = of_kind(overlay, "NetworkPolicy")["kube-rewrap-daemons"]["spec"]
    return spec


def test_auto_rotation_begins_with_the_settings_of_the_base() -> None:
    """Its file replaces the base's."""
    texts = {
        overlay: of_kind(overlay, "ConfigMap")["kube-rewrap-settings"]["data"]["settings.toml"]
        for overlay in ("kubeadm", "auto-rotation")
    }
    assert texts["auto-rotation"].startswith(texts["kubeadm"])
    assert set(tomllib.loads(texts["auto-rotation"])) - set(tomllib.loads(texts["kubeadm"])) == {
        "apiservers",
        "rotation",
    }


def test_without_network_policy_there_is_none_and_nothing_else_is_missing() -> None:
    kept = [one for one in rendered("kubeadm") if one["kind"] != "NetworkPolicy"]
    assert rendered("without-network-policy") == kept
    assert len(kept) < len(rendered("kubeadm"))


def test_monitoring_scrapes_both_daemons_once() -> None:
    [monitor] = of_kind("monitoring", "PodMonitor").values()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    [expression] = monitor["spec"]["selector"]["matchExpressions"]
    assert expression["values"] == list(DAEMONS)
    for name in DAEMONS:
        assert endpoint["port"] in {port["name"] for port in container("monitoring", name)["ports"]}
        metadata = of_kind("monitoring", "Deployment")[f"kube-rewrap-{name}"]["spec"]["template"]["metadata"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()
        assert monitor["spec"]["jobLabel"] in metadata["labels"]
        assert "annotations" not in metadata


def test_the_prometheus_rule_holds_the_alerts() -> None:
    """`make docs` writes it."""
    assert TARGET.read_text(encoding="utf-8") == as_prometheus_rule(RULES.read_text(encoding="utf-8"))
    [rule] = of_kind("monitoring", "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))
