"""Alert rules as files: for Prometheus, for Grafana's own alerting, for the Prometheus operator of Kubernetes."""

from __future__ import annotations

from typing import Any

import yaml

from grafana.alerts import ALERTS, Alert
from grafana.queries import PROMETHEUS

HEADER = "# Made by grafana/generate.py from grafana/alerts.py; what to do about each is in docs/guides/alerts.md.\n"
GRAFANA_HEADER = HEADER + "# Without a contact point they only show in Grafana: see contact-point.yaml.example.\n"
EVERY = {"runs": "5s", "pipeline": "15s"}
GRAFANA_EVERY = "10s"  # what Grafana allows at least


class _Dumper(yaml.SafeDumper):
    pass


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent)


def prometheus_groups() -> list[dict[str, Any]]:
    """Return the groups of a rule file."""
    return [
        {
            "name": f"runwire-{group}",
            "interval": interval,
            "rules": [_prometheus_rule(alert) for alert in ALERTS if alert.group == group],
        }
        for group, interval in EVERY.items()
    ]


def prometheus_file() -> str:
    """Return the text of Prometheus' rule file."""
    return HEADER + text_of({"groups": prometheus_groups()})


def grafana_file() -> str:
    """Return the text of Grafana's provisioning file."""
    groups = [
        {
            "orgId": 1,
            "name": f"runwire-{group}",
            "folder": "Runwire",
            "interval": GRAFANA_EVERY,
            "rules": [_grafana_rule(alert) for alert in ALERTS if alert.group == group],
        }
        for group in EVERY
    ]
    return GRAFANA_HEADER + text_of({"apiVersion": 1, "groups": groups})


def text_of(tree: Any) -> str:
    """Return YAML in the order in which the tree was made, a text of several lines as lines."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1_000_000, allow_unicode=True)


def _annotations(alert: Alert) -> dict[str, str]:
    return {"summary": alert.summary, "description": alert.description, "runbook": alert.runbook}


def _prometheus_rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": _annotations(alert),
    }


def _grafana_rule(alert: Alert) -> dict[str, Any]:
    """A is true for a series while it has a row, whose value may be anything, NaN too: so B and C see a 1."""
    query = {"refId": "A", "instant": True, "expr": f"group without () ({alert.expression})"}
    threshold = {"evaluator": {"type": "gt", "params": [0]}}
    return {
        "uid": alert.uid,
        "title": alert.name,
        "condition": "C",
        "for": alert.lasting,
        "noDataState": "OK",
        "execErrState": "Error",
        "labels": {"severity": alert.severity},
        "annotations": _annotations(alert),
        "data": [
            _step("A", PROMETHEUS.uid or "", query),
            _step("B", "__expr__", {"refId": "B", "type": "reduce", "expression": "A", "reducer": "last"}),
            _step("C", "__expr__", {"refId": "C", "type": "threshold", "expression": "B", "conditions": [threshold]}),
        ],
    }


def _step(ref_id: str, datasource: str, model: dict[str, Any]) -> dict[str, Any]:
    return {
        "refId": ref_id,
        "relativeTimeRange": {"from": 60, "to": 0},
        "datasourceUid": datasource,
        "model": model,
    }
