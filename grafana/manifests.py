"""Kubernetes manifests of what is generated: alert rules as a PrometheusRule, each dashboard as a ConfigMap."""

from __future__ import annotations

from grafana.rules import HEADER, prometheus_groups, text_of

LABELS = {"app.kubernetes.io/name": "runwire", "app.kubernetes.io/part-of": "runwire"}
DASHBOARD_LABEL = {"grafana_dashboard": "1"}
"""What Grafana's sidecar looks for, as its Helm chart and kube-prometheus-stack set it up."""


def prometheus_rule() -> str:
    """Return the rules for the Prometheus operator."""
    return HEADER + text_of(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "runwire", "labels": LABELS},
            "spec": {"groups": prometheus_groups()},
        }
    )


def dashboards(files: dict[str, str]) -> str:
    """Return a ConfigMap a dashboard; `files` are names and texts of the JSON files."""
    documents = [_config_map(name, text) for name, text in files.items()]
    return "# Made by grafana/generate.py.\n" + "---\n".join(documents)


def _config_map(name: str, text: str) -> str:
    return text_of(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"runwire-dashboard-{name.removesuffix('.json')}",
                "labels": LABELS | DASHBOARD_LABEL,
                "annotations": {"grafana_folder": "Runwire"},
            },
            "data": {name: text},
        }
    )
