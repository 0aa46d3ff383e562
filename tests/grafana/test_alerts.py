"""Alert rules: one list for Prometheus, Grafana and Kubernetes, tried by a real promtool, each with its runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.alerts import ALERTS, RUNBOOK, Alert
from grafana.queries import PROMETHEUS
from grafana.rules import GRAFANA_EVERY, prometheus_groups, text_of
from tests.grafana.alert_cases import CASES, Case
from tests.services.process import REPOSITORY
from tests.tiers import require_service

BY_NAME = {alert.name: alert for alert in ALERTS}


def _promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    require_service("promtool", shutil.which("promtool") is not None, "apt-get install prometheus")
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _annotations(alert: Alert, labels: dict[str, str]) -> dict[str, str]:
    """What Prometheus makes of an alert's texts: a label that isn't there is empty."""

    def filled(text: str) -> str:
        return re.sub(r"\{\{ \.Labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), text)

    return {
        "summary": filled(alert.summary),
        "description": filled(alert.description),
        "runbook": alert.runbook,
    }


def _as_promtool_reads(case: Case) -> dict[str, Any]:
    alert = BY_NAME[case.alert]
    return {
        "name": f"{case.alert}: {case.why}",
        "interval": "10s",
        "input_series": [{"series": series, "values": values.strip()} for series, values in case.series],
        "alert_rule_test": [
            {
                "eval_time": case.at,
                "alertname": case.alert,
                "exp_alerts": [
                    {
                        "exp_labels": labels | {"severity": alert.severity},
                        "exp_annotations": _annotations(alert, labels),
                    }
                    for labels in case.fires
                ],
            }
        ],
    }


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    """`promtool test rules` over histories of every alert, with the labels and texts that people get."""
    files = []
    for group in prometheus_groups():
        for rule in group["rules"]:  # alone, since promtool evaluates all rules of a file for each of its histories
            name = rule["alert"]
            (tmp_path / f"{name}.rules.yml").write_text(text_of({"groups": [{**group, "rules": [rule]}]}))
            histories = [_as_promtool_reads(case) for case in CASES if case.alert == name]
            files.append(tmp_path / f"{name}.yml")
            tests = {"rule_files": [f"{name}.rules.yml"], "evaluation_interval": group["interval"], "tests": histories}
            files[-1].write_text(text_of(tests))
    done = _promtool("test", "rules", *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", BY_NAME)
def test_an_alert_has_cases_of_both_kinds(name: str) -> None:
    """A rule that never fires, or always, would be seen."""
    assert {bool(case.fires) for case in CASES if case.alert == name} == {True, False}


def test_promtool_accepts_the_rules() -> None:
    """As they are committed."""
    done = _promtool("check", "rules", REPOSITORY / "deploy" / "prometheus" / "rules" / "runwire.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    """Each annotation's anchor is there, and says what to do."""
    text = (REPOSITORY / RUNBOOK).read_text()
    sections = dict(re.findall(r"^### (Runwire\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(BY_NAME)
    assert [name for name, section in sections.items() if "**Do**" not in section] == []
    assert [alert.runbook for alert in ALERTS] == [f"{RUNBOOK}#{name.lower()}" for name in sections]


def test_grafana_asks_what_prometheus_asks() -> None:
    """Each of its rules is true for a series exactly while Prometheus' expression has it, whatever its value."""
    groups = yaml.safe_load((REPOSITORY / "grafana/provisioning/alerting/runwire.yaml").read_text())["groups"]
    assert {group["interval"] for group in groups} == {GRAFANA_EVERY}
    rules = {rule["title"]: rule for group in groups for rule in group["rules"]}
    assert list(rules) == list(BY_NAME)
    for name, rule in rules.items():
        alert = BY_NAME[name]
        assert rule["uid"] == alert.uid
        assert len(rule["uid"]) <= 40
        assert (rule["for"], rule["labels"]) == (alert.lasting, {"severity": alert.severity})
        query, reduced, threshold = rule["data"]
        assert [step["datasourceUid"] for step in rule["data"]] == [PROMETHEUS.uid, "__expr__", "__expr__"]
        assert query["model"] == {"refId": "A", "instant": True, "expr": f"group without () ({alert.expression})"}
        assert reduced["model"] == {"refId": "B", "type": "reduce", "expression": "A", "reducer": "last"}
        assert threshold["model"]["conditions"] == [{"evaluator": {"type": "gt", "params": [0]}}]
        assert rule["condition"] == "C"


def test_a_text_holds_no_variable_that_grafana_would_fill_in() -> None:
    """A `$` in a provisioning file stands for an environment variable."""
    for alert in ALERTS:
        assert "$" not in alert.expression + alert.summary + alert.description
