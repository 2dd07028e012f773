"""`make docs`: writes the PrometheusRule of deploy/kubernetes from deploy/alerts.yaml, whose groups are its spec."""

from __future__ import annotations

from pathlib import Path

_DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = _DEPLOY / "alerts.yaml"
TARGET = _DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"
_HEAD = """\
# `make docs` writes this file from deploy/alerts.yaml: change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: kube-rewrap
  labels:
    app.kubernetes.io/name: kube-rewrap
spec:
"""


def as_prometheus_rule(rules: str) -> str:
    """Return the groups of a file for Prometheus, comments too, as the spec of a PrometheusRule. Raises ValueError."""
    groups = rules.index("groups:\n")
    return _HEAD + "".join(f"  {line}\n" if line else "\n" for line in rules[groups:].splitlines())


if __name__ == "__main__":
    TARGET.write_text(as_prometheus_rule(RULES.read_text(encoding="utf-8")), encoding="utf-8")
