"""Dashboards and provisioning: generated, fixed by uid, and speaking of metrics, labels and relations that exist."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from grafana import queries
from grafana.alerts import ALERTS
from grafana.generate import DASHBOARDS, FOLDER, files, render
from grafana.panels import WIDTH
from runwire_consumer.database import MEMORY, Database
from runwire_consumer.sandbox import Sandbox
from tests.consumer.small_store import DIGITS, OTHER, small_store
from tests.docs.test_metrics import exported
from tests.grafana.model import Picked, asked_targets, check_target, frame, transformed, variables_in
from tests.services.process import REPOSITORY

PROVISIONING = REPOSITORY / "grafana" / "provisioning"
UIDS = {f"{name}.json": f"runwire-{name}" for name in ("live", "compare", "leaderboard", "ranks", "health")}
BOARDS: dict[str, dict[str, Any]] = {name: json.loads((FOLDER / name).read_text()) for name in UIDS}
HOSTILE = 'x-y.z+(a|b)/[c]{2}^?*$ ü "'.replace('"', "")
"""A name that can be picked: anything but quotes and backslashes."""

# Of Prometheus itself, and what label_replace makes on the dashboard of ranks.
FOREIGN_METRICS = {"up": {"job", "instance"}}
MADE_LABELS = {"row"}


def _walk(node: Any) -> list[dict[str, Any]]:
    """Return every object in a JSON tree."""
    if isinstance(node, dict):
        return [node, *(found for value in node.values() for found in _walk(value))]
    if isinstance(node, list):
        return [found for value in node for found in _walk(value)]
    return []


def _provisioned(path: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((PROVISIONING / path).read_text())
    return tree


def test_the_committed_files_are_what_the_generator_makes() -> None:
    """`python grafana/generate.py` changes nothing; there is no dashboard that it doesn't make."""
    assert {path: path.read_text() for path in files()} == files()
    assert {path.name for path in FOLDER.iterdir()} == set(DASHBOARDS) == set(UIDS)


@pytest.mark.parametrize("name", UIDS)
def test_a_dashboard_has_its_uid_and_stays_as_it_is(name: str) -> None:
    """Links to it last, and nobody edits in the browser what the next start would undo."""
    board = BOARDS[name]
    assert (board["uid"], board["editable"]) == (UIDS[name], False)
    ids = [panel["id"] for panel in board["panels"]]
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("name", UIDS)
def test_the_dashboards_lead_to_each_other_with_runs_and_time(name: str) -> None:
    """Links by tag, which carry variables and the time range, so that the same runs stay chosen."""
    (link,) = BOARDS[name]["links"]
    assert link["type"] == "dashboards"
    assert link["tags"] == BOARDS[name]["tags"] == ["runwire"]
    assert (link["includeVars"], link["keepTime"]) == (True, True)


def test_links_in_tables_lead_to_dashboards_that_exist() -> None:
    """With the row's run and the time range; the table has the column that they take the id from."""
    found = set()
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for node in _walk(panel.get("fieldConfig", {})):
                for link in node["value"] if node.get("id") == "links" else []:
                    uid = re.fullmatch(
                        r"/d/([\w-]+)\?var-run=\$\{__data\.fields\.run_id\}&\$\{__url_time_range\}", link["url"]
                    )
                    assert uid, link["url"]
                    assert uid[1] in UIDS.values()
                    (target,) = panel["targets"]
                    assert "run_id" in {column["text"] for column in target["columns"]}
                    found.add((name, uid[1]))
    assert len(found) >= 5


def test_every_query_goes_to_a_provisioned_datasource() -> None:
    """The uids and types in dashboards are those of provisioning/datasources."""
    provisioned = {
        (source["type"], source["uid"]) for source in _provisioned("datasources/runwire.yaml")["datasources"]
    }
    assert provisioned == {(one.type_val, one.uid) for one in (queries.PROMETHEUS, queries.SQL)}
    nodes = [node for board in BOARDS.values() for node in _walk(board)]
    used = {(node["datasource"]["type"], node["datasource"]["uid"]) for node in nodes if node.get("datasource")}
    assert used == provisioned
    for node in nodes:
        if "url_options" in node:
            assert node["datasource"]["uid"] == queries.SQL.uid
        if "expr" in node:
            assert node["datasource"]["uid"] == queries.PROMETHEUS.uid


@pytest.mark.parametrize("name", UIDS)
def test_pickers_cascade_and_each_is_needed(name: str) -> None:
    """Project, then runs of it, then metrics of these; none is there for nothing, none is missing."""
    board = BOARDS[name]
    pickers = [variable["name"] for variable in board["templating"].get("list", [])]
    assert pickers == [one for one in ("project", "run", "metric", "order") if one in pickers]
    needed = set()
    for what, target in asked_targets(board):
        text = target["expr"] if "expr" in target else target["url_options"]["data"]
        asked = variables_in(text)
        if what.startswith("picker"):
            assert asked <= set(pickers[: pickers.index(what.removeprefix("picker "))])
        needed |= asked
    assert needed == set(pickers)
    for panel in board["panels"]:
        assert variables_in(panel["title"]) <= set(pickers)
        assert panel.get("repeat") in {None, "metric"}


@pytest.mark.parametrize("name", UIDS)
def test_all_stands_for_everything_in_both_languages(name: str) -> None:
    """Who can pick several can pick All; metrics can't, or a panel would be made for each."""
    for variable in BOARDS[name]["templating"].get("list", []):
        all_value = variable.get("allValue")
        assert (all_value == queries.ALL) == bool(variable.get("includeAll"))
        assert not (variable["name"] == "metric" and variable.get("includeAll"))


@pytest.mark.parametrize("name", UIDS)
def test_panels_do_not_overlap(name: str) -> None:
    """Each panel has its own place on the grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < WIDTH
        assert not cells & taken
        taken |= cells


def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    """Dashboards and alerts name only what the consumer exports, as it stands at /metrics."""
    expressions = [node["expr"] for board in BOARDS.values() for node in _walk(board) if "expr" in node]
    expressions += [alert.expression for alert in ALERTS]
    known = {name: set(labels) for name, (_, labels) in exported().items()}
    for name, (kind, labels) in exported().items():
        if kind == "histogram":
            known[f"{name}_bucket"] = set(labels)
    known |= FOREIGN_METRICS
    every_label = set().union(*known.values()) | MADE_LABELS | {"instance"}
    asked = set()
    for expression in expressions:
        for selector in re.finditer(r"\b(runwire_\w+|up)(?:\{([^}]*)\})?", expression):
            name, matchers = selector[1], selector[2] or ""
            assert name in known, expression
            asked.add(name)
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)):
                assert label in known[name], (label, expression)
        for listed in re.findall(r"\b(?:by|on|without|group_left)\s*\(([\w, ]*)\)", expression):
            assert {one.strip() for one in listed.split(",")} - {""} <= every_label, expression
    assert len(asked) > 25


def test_every_legend_names_a_label_that_its_series_have() -> None:
    """A legend with a label that isn't there would be empty."""
    every_label = set().union(*(labels for _, labels in exported().values())) | MADE_LABELS
    legends = [node["legendFormat"] for board in BOARDS.values() for node in _walk(board) if "legendFormat" in node]
    used = {label for legend in legends for label in re.findall(r"\{\{(\w+)\}\}", legend)}
    assert used <= every_label
    assert {"run", "rank"} <= used


PICKS = [
    Picked({"project": None, "run": None, "metric": "train/loss", "order": "name"}),
    Picked({"project": "digits", "run": [DIGITS, OTHER], "metric": "val/acc", "order": "highest"}),
    Picked({"project": [HOSTILE, "b"], "run": DIGITS, "metric": HOSTILE, "order": "lowest"}),
]


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[tuple[Sandbox, Sandbox]]:
    """What asks a store with odd runs, and what asks an empty one."""
    with contextlib.closing(small_store()) as filled, contextlib.closing(Database.open(MEMORY)) as empty:
        yield Sandbox(filled.cursor), Sandbox(empty.cursor)


@pytest.mark.parametrize("name", UIDS)
def test_every_query_in_sql_is_allowed_and_answers_what_it_declares(
    name: str, sandboxes: tuple[Sandbox, Sandbox]
) -> None:
    """The consumer runs each, whatever is picked, in an empty store and in a full one; it has the shape that works."""
    panels = {panel["title"]: panel for panel in BOARDS[name]["panels"]}
    targets = [(what, target) for what, target in asked_targets(BOARDS[name]) if "url_options" in target]
    assert targets
    filled, empty = sandboxes
    for (what, target), (sandbox, picked) in itertools.product(
        targets, [*((filled, picked) for picked in PICKS), (empty, PICKS[-1])]
    ):
        check_target(target)
        if name == "ranks.json" and not isinstance(picked.values["run"], str):
            continue  # there one run is picked
        result = sandbox.run(picked.in_sql(target["url_options"]["data"]))
        declared = [column["text"] for column in target["columns"]]
        assert sorted(result.unique_columns) == sorted(declared), what
        table = frame(target, list(result.objects()))
        if what in panels:
            transformed(panels[what], table)


@pytest.mark.parametrize(
    ("picked", "text"),
    [
        ("a", "a"),
        (["a"], "a"),
        (["a", "b-c"], "(a|b\\-c)"),
        (None, ".*"),
        ("x.y/z(1)", "x\\.y\\/z\\(1\\)"),
    ],
)
def test_the_model_fills_in_as_grafana_does(picked: Any, text: str) -> None:
    """One, many, All; special characters stand for themselves."""
    assert Picked({"run": picked}).in_sql("'${run:regex}'") == f"'{text}'"


def test_pickers_leave_out_what_would_break_a_query() -> None:
    """Quotes and backslashes in names of projects and metrics, and names that a label would cut."""
    odd = ["plain", "with space", HOSTILE, 'a"b', "a'b", "a\\b", "l" * 128, "l" * 129, "ü" * 65]
    with contextlib.closing(Database.open(MEMORY)) as database:
        rows = ", ".join("('" + name.replace("'", "''") + "')" for name in odd)
        sql = f"SELECT name FROM (VALUES {rows}) t(name) WHERE {queries.pickable_sql('name')}"  # noqa: S608 - ours
        assert [name for (name,) in database.cursor().execute(sql).fetchall()] == [odd[0], odd[1], odd[2], odd[6]]


def test_compose_gives_grafana_and_prometheus_what_these_files_name() -> None:
    """Mounted where the provider and the home dashboard look, at services that there are, with the variable's value."""
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    grafana = services["grafana"]
    mounts = {there: here for here, there, *_ in (one.split(":") for one in grafana["volumes"])}
    assert mounts["/etc/grafana/provisioning"] == "./grafana/provisioning"
    (provider,) = _provisioned("dashboards/runwire.yaml")["providers"]
    assert mounts[provider["options"]["path"]] == "./grafana/dashboards"
    assert provider["allowUiUpdates"] is False
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/live.json"
    assert "RUNWIRE_TOKEN" in grafana["environment"]
    plugin, _, version = grafana["environment"]["GF_PLUGINS_PREINSTALL_SYNC"].partition("@")
    assert (plugin, version[:2]) == (queries.SQL.type_val, "3.")
    for source in _provisioned("datasources/runwire.yaml")["datasources"]:
        service, _, port = source["url"].removeprefix("http://").partition(":")
        assert f"127.0.0.1:{port}:{port}" in services[service]["ports"]
    configuration = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text())
    assert configuration["rule_files"] == ["rules/*.yml"]
    assert configuration["scrape_configs"][0]["job_name"] == "runwire"
    assert "./deploy/prometheus:/etc/runwire:ro" in services["prometheus"]["volumes"]


def test_no_provisioning_file_holds_a_secret() -> None:
    """A `$` stands only for what Grafana takes from its environment."""
    for path in PROVISIONING.rglob("*.yaml*"):
        assert set(re.findall(r"\$\w+", path.read_text())) <= {"$NAME", "$RUNWIRE_TOKEN", "$RUNWIRE_ALERTS_URL"}


def test_the_contact_point_to_fill_in_is_no_contact_point_yet() -> None:
    """Grafana reads .yaml files only: an address that is missing would keep it from starting."""
    example = PROVISIONING / "alerting" / "contact-point.yaml.example"
    tree = yaml.safe_load(example.read_text())
    (point,) = tree["contactPoints"]
    assert tree["policies"][0]["receiver"] == point["name"]
    assert {path.name for path in example.parent.iterdir()} == {example.name, "runwire.yaml"}


def test_render_is_stable() -> None:
    """Twice the same text."""
    assert render("live.json") == render("live.json")
