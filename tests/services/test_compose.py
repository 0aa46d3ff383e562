"""The compose file and what it mounts: accepted, complete, without default secrets, closed to other machines.

Nothing here needs a container engine; the Prometheus configuration and the consumer's command run natively
in other tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.services.process import REPOSITORY
from tests.services.prometheus import CONFIGURATION
from tests.tiers import require_service

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = REPOSITORY / "docker-compose.yml"
SECRETS = ["GRAFANA_ADMIN_PASSWORD", "RUNWIRE_READ_TOKEN", "RUNWIRE_TOKEN"]
GIVEN = dict.fromkeys(SECRETS, "a" * 64)
MAY_BE_EMPTY = ["MQTT_BRIDGE_PASSWORD", "MQTT_TRAINER_PASSWORD", "RUNWIRE_WEBHOOK"]  # mosquitto says what it lacks
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]


def _compose_config(*files: str, **environment: str) -> subprocess.CompletedProcess[str]:
    require_service("docker-compose", shutil.which("docker-compose") is not None, "apt-get install docker-compose")
    return subprocess.run(
        ["docker-compose", "--env-file", ".env.example", *files, "config"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_docker_compose_accepts_the_file() -> None:
    """The oldest docker-compose around reads it once the secrets are given."""
    done = _compose_config(**GIVEN)
    assert done.returncode == 0, done.stderr
    assert {*yaml.safe_load(done.stdout)["services"]} == {
        "kafka",
        "consumer",
        "prometheus",
        "grafana",
        "demo",
        "mosquitto",
        "bridge",
    }


def test_docker_compose_accepts_the_secure_variant() -> None:
    """Its ports alone are open to others, and it says that it needs a name."""
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.secure.yml")
    assert "the name other machines reach this one by" in _compose_config(*files, **GIVEN).stderr
    done = _compose_config(*files, RUNWIRE_PUBLIC_NAME="runs.example", **GIVEN)
    assert done.returncode == 0, done.stderr
    kafka = yaml.safe_load(done.stdout)["services"]["kafka"]["environment"]
    assert "OUTSIDE:SASL_SSL" in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"]
    opened = [
        port
        for service in yaml.safe_load((REPOSITORY / "docker-compose.secure.yml").read_text())["services"].values()
        for port in service["ports"]
    ]
    assert opened == ["9094:9094", "8883:8883"]


@pytest.mark.parametrize("absent", SECRETS)
def test_nothing_starts_without_a_secret(absent: str) -> None:
    """Without a token or Grafana password, compose stops and says what to do."""
    done = _compose_config(**{name: "x" for name in SECRETS if name != absent})
    assert done.returncode != 0
    assert "see .env.example" in done.stderr


def test_every_variable_is_documented_and_has_no_default() -> None:
    """Each secret must be set by the user, nothing else has to be; .env.example explains all and sets none."""
    used = re.findall(r"\$\{([^}]*)\}", COMPOSE.read_text())
    assert sorted({one.split(":?")[0] for one in used if ":?" in one}) == SECRETS
    assert sorted({one for one in used if ":?" not in one}) == [f"{name}:-" for name in sorted(MAY_BE_EMPTY)]
    example = (REPOSITORY / ".env.example").read_text()
    assert sorted(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)) == [
        (name, "") for name in sorted(SECRETS + MAY_BE_EMPTY)
    ]


def test_dashboards_get_the_token_for_reading() -> None:
    """The one that may do everything is the consumer's alone."""
    held = {name: service.get("environment", {}).get("RUNWIRE_TOKEN", "") for name, service in SERVICES.items()}
    assert {name for name, token in held.items() if token.startswith("${RUNWIRE_TOKEN:?")} == {"consumer"}
    assert {name for name, token in held.items() if token.startswith("${RUNWIRE_READ_TOKEN:?")} == {
        "prometheus",
        "grafana",
    }


def test_no_password_or_anonymous_access_is_written_down() -> None:
    """Secrets come from the environment alone."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert "ANONYMOUS" not in name
            if re.search("PASSWORD|TOKEN|SECRET|WEBHOOK", name):
                assert value.startswith("${")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_reachable_from_this_machine_only(name: str) -> None:
    """Ports are published on loopback, and no service may gain privileges."""
    service = SERVICES[name]
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"demo"}))
def test_a_service_says_how_it_is_and_keeps_its_data(name: str) -> None:
    """Each has a health check and a named volume, and the mounted files exist."""
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    volumes = [volume.split(":") for volume in service.get("volumes", [])]
    assert name == "bridge" or f"{name}-data" in [volume[0] for volume in volumes]  # it keeps nothing
    for source, _, *mode in volumes:
        if source.startswith("."):
            assert (REPOSITORY / source).exists()
            assert mode == ["ro"]


def test_the_demo_runs_on_request_only() -> None:
    """`docker compose up` doesn't train; `--profile demo` does."""
    assert SERVICES["demo"]["profiles"] == ["demo"]
    assert SERVICES["demo"]["command"] == ["runwire", "demo", "--url", "kafka://kafka:9092"]


def test_the_image_is_built_from_pinned_files_and_runs_without_root() -> None:
    """What it copies exists and passes .dockerignore; packages are checked by hash."""
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    assert "USER runwire" in lines
    assert [line for line in lines if "pip install" in line and "--no-deps" not in line] == [
        "RUN pip install --require-hashes -r requirements/local.txt"
    ]
    ignored, *allowed = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith(("#", "**"))
    ]
    assert ignored == "*"
    assert [line for line in allowed if not (REPOSITORY / line.removeprefix("!")).exists()] == []
    assert "!requirements/local.txt" in allowed


def _start(target: Path, token: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CONFIGURATION / "start.sh", CONFIGURATION, target, *command],
        env={"PATH": os.environ["PATH"], "RUNWIRE_TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_prometheus_accepts_the_configuration(tmp_path: Path) -> None:
    """Promtool checks what start.sh puts together from the mounted folder and the token."""
    require_service("promtool", shutil.which("promtool") is not None, "apt-get install prometheus")
    done = _start(tmp_path / "config", "secret", "promtool", "check", "config", f"{tmp_path}/config/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_token_reaches_prometheus_as_a_private_file(tmp_path: Path) -> None:
    """Mode 0600, exactly the token, and no longer in the environment; without a token nothing starts."""
    done = _start(tmp_path / "config", "secret", "sh", "-c", "echo ${RUNWIRE_TOKEN-unset}")
    token = tmp_path / "config" / "token"
    assert (token.read_text(), token.stat().st_mode & 0o777, done.stdout) == ("secret", 0o600, "unset\n")
    assert "RUNWIRE_TOKEN" in _start(tmp_path / "config", "", "true").stderr
