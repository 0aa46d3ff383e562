"""The manifests: each is what Kubernetes' own schemas allow, and they fit each other, the image and the settings.

ServiceMonitor and PrometheusRule are the Prometheus operator's: no schema of theirs is at hand, so the fields that may
be used are written down here, the rules are given to promtool, and what is named is looked up.
"""

from __future__ import annotations

import json
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from grafana.generate import DASHBOARDS, FOLDER
from grafana.rules import prometheus_groups
from runwire_cli.settings import DEFAULT_PORT
from tests.services.process import REPOSITORY

MANIFESTS = REPOSITORY / "deploy" / "kubernetes"
VERSIONS = ("1.29", "1.37")
"""The oldest in which every field is stable, and the newest that the schemas know."""

DOCUMENTS: dict[str, dict[str, Any]] = {
    f"{path.name}: {document['kind']} {document['metadata']['name']}": document
    for path in sorted(MANIFESTS.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}

# Fields of the operator's kinds (monitoring.coreos.com/v1) that were looked up in its API reference.
OPERATOR_FIELDS = {
    "ServiceMonitor": {
        "spec": {"selector", "endpoints", "sampleLimit"},
        "spec.selector": {"matchLabels"},
        "spec.endpoints": {"port", "path", "interval", "scrapeTimeout", "authorization", "relabelings"},
        "spec.endpoints.authorization": {"type", "credentials"},
        "spec.endpoints.authorization.credentials": {"name", "key"},
        "spec.endpoints.relabelings": {"targetLabel", "replacement"},
    },
    "PrometheusRule": {
        "spec": {"groups"},
        "spec.groups": {"name", "interval", "rules"},
        "spec.groups.rules": {"alert", "expr", "for", "labels", "annotations"},
    },
}


def _one(kind: str) -> dict[str, Any]:
    (found,) = [document for document in DOCUMENTS.values() if document["kind"] == kind]
    return found


def _of_the_operator(document: dict[str, Any]) -> bool:
    return str(document["apiVersion"]) == "monitoring.coreos.com/v1"


def test_there_is_what_the_guide_promises() -> None:
    """A consumer with its service, what scrapes it, rules, dashboards, data sources."""
    kinds = sorted(document["kind"] for document in DOCUMENTS.values())
    maps = ["ConfigMap"] * (1 + len(DASHBOARDS))
    assert kinds == [*maps, "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor", "StatefulSet"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name, one in DOCUMENTS.items() if not _of_the_operator(one)])
def test_kubernetes_allows_it(name: str, version: str) -> None:
    """Strictly: a field that doesn't exist is refused, too."""
    kubernetes_validate.validate(DOCUMENTS[name], version, strict=True)


def test_the_check_is_strict() -> None:
    """A misspelt field is seen."""
    broken = json.loads(json.dumps(_one("StatefulSet")))
    broken["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("kind", OPERATOR_FIELDS)
def test_the_operators_kinds_use_known_fields(kind: str) -> None:
    """At each place only those that are written down above."""

    def look(node: Any, path: str) -> None:
        for one in node if isinstance(node, list) else [node]:
            if isinstance(one, dict) and path in OPERATOR_FIELDS[kind]:
                assert set(one) <= OPERATOR_FIELDS[kind][path], path
                for key, value in one.items():
                    look(value, f"{path}.{key}")

    document = _one(kind)
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    look(document["spec"], "spec")


def test_prometheus_finds_the_consumer_and_may_ask_it() -> None:
    """Selector, port and secret are those of the consumer; the job is the one that rules and dashboards name."""
    monitor, service, consumer = _one("ServiceMonitor")["spec"], _one("Service"), _one("StatefulSet")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    (port,) = service["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
    (container,) = consumer["spec"]["template"]["spec"]["containers"]
    token = next(one for one in container["env"] if one["name"] == "RUNWIRE_READ_TOKEN")
    assert endpoint["authorization"]["credentials"] == token["valueFrom"]["secretKeyRef"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "runwire"}]
    labels = consumer["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert consumer["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert consumer["spec"]["serviceName"] == service["metadata"]["name"]
    assert port["targetPort"] in {one["name"] for one in container["ports"]}
    assert {port["port"], *(one["containerPort"] for one in container["ports"])} == {DEFAULT_PORT}


def test_the_consumer_runs_as_its_image_does() -> None:
    """One process, the image's user, its folders; no right and no token of Kubernetes' that it doesn't need."""
    spec = _one("StatefulSet")["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    image = (REPOSITORY / "Dockerfile").read_text()
    assert spec["replicas"] == 1
    assert f"--uid {pod['securityContext']['runAsUser']} " in image
    assert container["args"] == ["runwire", "up"]
    assert "ENTRYPOINT" not in image
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["automountServiceAccountToken"] is False
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]]
    assert set(mounts) == {*claims, *(volume["name"] for volume in pod["volumes"])}
    settings = {one["name"]: one.get("value") for one in container["env"]}
    assert settings["RUNWIRE_HOME"] == mounts["data"]
    documented = (REPOSITORY / "cli/runwire_cli/settings.py").read_text().split('"""')[1]
    assert [name for name in settings if not re.search(rf"\b{name}\b", documented)] == []
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_no_manifest_holds_a_secret() -> None:
    """They are made by a command, and named."""
    assert [name for name, document in DOCUMENTS.items() if document["kind"] == "Secret"] == []


def test_rules_and_dashboards_are_those_of_everybody() -> None:
    """The same groups as in Prometheus' own file, the same JSON as in Grafana's folder, each fit for a ConfigMap."""
    assert _one("PrometheusRule")["spec"]["groups"] == prometheus_groups()
    found: dict[str, str] = {}
    for document in DOCUMENTS.values():
        if document["metadata"].get("labels", {}).get("grafana_dashboard"):
            assert len(json.dumps(document)) < 2**20
            found |= document["data"]
    assert found == {name: (FOLDER / name).read_text() for name in DASHBOARDS}


def test_the_data_sources_are_those_of_compose_at_other_addresses() -> None:
    """The uids that dashboards know; the token comes from Grafana's environment."""
    (ours,) = [one for name, one in DOCUMENTS.items() if name.startswith("datasources.yaml")]
    assert ours["metadata"]["labels"]["grafana_datasource"] == "1"
    composed = yaml.safe_load((REPOSITORY / "grafana/provisioning/datasources/runwire.yaml").read_text())["datasources"]
    for one, other in zip(yaml.safe_load(ours["data"]["runwire.yaml"])["datasources"], composed, strict=True):
        differing = {key for key in {*one, *other} if one.get(key) != other.get(key)}
        assert differing <= {"name", "url", "isDefault", "jsonData"}
        assert one["jsonData"].keys() == other["jsonData"].keys()
        if "allowedHosts" in one["jsonData"]:
            assert one["jsonData"]["allowedHosts"] == [one["url"]]
            assert one["url"] == f"http://{_one('Service')['metadata']['name']}:{DEFAULT_PORT}"
