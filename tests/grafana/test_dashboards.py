"""Dashboards and provisioning: generated, fixed by uid, and speaking of metrics and relations that exist."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import duckdb
import pytest
import yaml
from prometheus_client import CollectorRegistry

from grafana import live, queries
from grafana.generate import DASHBOARDS, FOLDER, render
from runwire_consumer.database import MEMORY, Database
from runwire_consumer.gauges import RunGauges
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.self_metrics import KeepingMetrics, SelfMetrics
from tests.services.process import REPOSITORY

PROVISIONING = REPOSITORY / "grafana" / "provisioning"


def _walk(node: Any) -> list[dict[str, Any]]:
    """Return every object in a JSON tree."""
    if isinstance(node, dict):
        return [node, *(found for value in node.values() for found in _walk(value))]
    if isinstance(node, list):
        return [found for value in node for found in _walk(value)]
    return []


def _dashboard(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return tree


def _provisioned(path: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((PROVISIONING / path).read_text())
    return tree


def test_the_committed_files_are_what_the_generator_makes() -> None:
    """`python grafana/generate.py` changes nothing; there is no file that it doesn't make."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == {name: render(name) for name in DASHBOARDS}


@pytest.mark.parametrize(("name", "uid"), [("live.json", "runwire-live")])
def test_a_dashboard_has_its_uid_and_stays_as_it_is(name: str, uid: str) -> None:
    """Links to it last, and nobody edits in the browser what the next start would undo."""
    dashboard = _dashboard(name)
    assert (dashboard["uid"], dashboard["editable"]) == (uid, False)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert ids == list(range(1, len(ids) + 1))


def test_every_query_goes_to_a_provisioned_datasource() -> None:
    """The uids and types in dashboards are those of provisioning/datasources."""
    provisioned = {
        (source["type"], source["uid"]) for source in _provisioned("datasources/runwire.yaml")["datasources"]
    }
    assert provisioned == {(one.type_val, one.uid) for one in (queries.PROMETHEUS, queries.SQL)}
    used = {
        (node["datasource"]["type"], node["datasource"]["uid"])
        for name in DASHBOARDS
        for node in _walk(_dashboard(name))
        if "datasource" in node
    }
    assert used == provisioned


def test_runs_are_picked_by_id_and_shown_by_name() -> None:
    """The picker's values hold no quotes, whatever a run is called; All fits PromQL and SQL."""
    variables = {one["name"]: one for one in _dashboard("live.json")["templating"]["list"]}
    assert list(variables) == ["project", "run"]
    sql = variables["run"]["query"]["infinityQuery"]["url_options"]["data"]
    assert "run_id AS __value" in sql
    assert "name" in sql.split("AS __text")[0]
    assert {one["allValue"] for one in variables.values()} == {".*"}


def test_panels_do_not_overlap() -> None:
    """Each panel has its own place on the grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in _dashboard("live.json")["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < live.WIDTH
        assert not cells & taken
        taken |= cells


def test_alert_rules_stand_on_provisioned_data() -> None:
    """Each rule's condition is one of its own steps, and its data comes from Prometheus or an expression."""
    rules = [rule for group in _provisioned("alerting/runwire.yaml")["groups"] for rule in group["rules"]]
    assert [rule["uid"] for rule in rules] == [
        "runwire-consumer-away",
        "runwire-source-away",
        "runwire-consumer-not-ready",
        "runwire-dead-letters",
        "runwire-source-anomalies",
        "runwire-retention",
        "runwire-snapshot-failing",
        "runwire-snapshot-old",
        "runwire-store-repaired",
        "runwire-run-broken",
    ]
    for rule in rules:
        steps = {step["refId"]: step["datasourceUid"] for step in rule["data"]}
        assert steps == {"A": "runwire-prometheus", "B": "__expr__", "C": "__expr__"}
        assert rule["condition"] == "C"


def _exported() -> set[str]:
    """Return the name of every sample that a consumer's /metrics can hold."""
    registry = CollectorRegistry()
    SelfMetrics(registry)
    KeepingMetrics(registry)
    gauges = RunGauges(duckdb.connect).describe()
    names = {family.name for family in gauges}
    for family in registry.collect():
        names |= {sample.name for sample in family.samples} | {family.name}
    return names


def test_every_metric_that_is_asked_for_exists() -> None:
    """Dashboards and alerts name only what the consumer exports."""
    expressions = [
        node["expr"]
        for tree in [*map(_dashboard, DASHBOARDS), _provisioned("alerting/runwire.yaml")]
        for node in _walk(tree)
        if "expr" in node
    ]
    asked = {name for expression in expressions for name in re.findall(r"runwire_\w+", expression)}
    assert len(asked) > 8
    assert asked - _exported() == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_in_sql_is_allowed(name: str) -> None:
    """The consumer runs each of them, also with a run's id or none chosen, and returns the columns it declares."""
    targets = [node for node in _walk(_dashboard(name)) if "url_options" in node]
    assert targets
    with contextlib.closing(Database.open(MEMORY)) as database:
        sandbox = Sandbox(database.cursor)
        for target in targets:
            for chosen in (".*", "(abcdefgh23456722|my\\-project)", ""):
                query = target["url_options"]["data"]
                query = query.replace("${run:regex}", chosen).replace("${project:regex}", chosen)
                declared = [column["selector"] for column in target["columns"]]
                assert sorted(sandbox.run(query).unique_columns) == sorted(declared)


def test_no_provisioning_file_holds_a_secret() -> None:
    """A `$` stands only for the token that Grafana takes from its environment."""
    for path in PROVISIONING.rglob("*.yaml"):
        assert set(re.findall(r"\$\w+", path.read_text())) <= {"$NAME", "$RUNWIRE_TOKEN"}
