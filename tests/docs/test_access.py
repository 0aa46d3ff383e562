"""The guide to access: its commands run as written, and its tables are the real ones."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import yaml

from runwire_cli.client import ServerFile
from runwire_consumer import connections, guard, http, rates
from runwire_consumer.access import Scope
from tests.cli.commands import train
from tests.consumer.certificates import make_certificate
from tests.docs.guides import shell_blocks, start_block
from tests.repo.files import REPOSITORY
from tests.services.process import free_ports, wait_until

PAGE = "guides/access.md"
TEXT = (REPOSITORY / "docs" / PAGE).read_text(encoding="utf-8")
BLOCKS = shell_blocks(PAGE)
SECONDS = 90.0


def test_its_commands_run(tmp_path: Path) -> None:
    """In the order of the page: tokens are made, used from elsewhere, and one is taken back."""
    home = tmp_path / ".runwire"
    home.mkdir()
    train(home, "first")
    (port,) = free_ports(1)
    up = start_block(f"exec runwire up --port {port}", tmp_path, {})
    try:
        wait_until((home / "server.json").exists, timeout_seconds=SECONDS, what="the consumer serves")
        make, revoke = BLOCKS["Tokens for others"]
        (login,) = BLOCKS["Log in from another machine"]
        for block, words in (
            (make, ("dashboard", "student", "digits")),
            (login, ("Logged in at", "with scope read in digits", "first", "is forgotten here")),
            (revoke, ("'dashboard' is revoked",)),
        ):
            process = start_block(block, tmp_path, {"https://runwire.example.org": f"http://127.0.0.1:{port}"})
            printed, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, printed
            assert [word for word in words if word not in printed] == []
        for name in ("dashboard", "student"):
            assert re.fullmatch(r"rwt_[\w-]{43}\n", (tmp_path / f"{name}.token").read_text())
    finally:
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=SECONDS)


def test_its_tls_starts(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    files.certificate.rename(tmp_path / "cert.pem")
    files.key.rename(tmp_path / "key.pem")
    (tmp_path / ".runwire").mkdir()
    (block,) = BLOCKS["TLS"]
    up = start_block(block.replace("runwire up", "exec runwire up --port 0"), tmp_path, {"0.0.0.0": "127.0.0.1"})  # noqa: S104
    try:
        server = tmp_path / ".runwire" / "server.json"
        wait_until(server.exists, timeout_seconds=SECONDS, what="the consumer serves")
        found = ServerFile.read(server.parent)
        assert found is not None
        assert found.address.startswith("https://127.0.0.1:")
    finally:
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=SECONDS)


def test_every_block_is_run() -> None:
    found = {title: len(blocks) for title, blocks in BLOCKS.items() if blocks}
    assert found == {"Tokens for others": 2, "Log in from another machine": 1, "TLS": 1}


def test_its_prometheus_is_configured_as_ours() -> None:
    """The token is in a file, as in the configuration that the tests run."""
    found = re.search(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    (job,) = yaml.safe_load(found[1])["scrape_configs"]
    (ours,) = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert set(job["authorization"]) <= set(ours["authorization"])
    assert "credentials_file" in job["authorization"]


def test_its_table_of_addresses_is_all() -> None:
    """Every route with its rule."""
    table = dict[tuple[str, str], str]()
    for addresses, who in re.findall(r"^\| (`(?:GET|POST) .*?) \| (.*?) \|$", TEXT, re.MULTILINE):
        for method, path in re.findall(r"`(GET|POST) (\S+)`", addresses):
            table[method, path] = who
    assert set(table) == set(http.ACCESS)
    for key, rule in http.ACCESS.items():
        scope = "everybody" if rule.scope is None else f"`{rule.scope.word}`"
        more = (
            ", by project"
            if rule.by_project and rule.scope
            else "; on loopback everybody"
            if rule.open_on_loopback
            else ""
        )
        assert table[key] == scope + more, key


@pytest.mark.parametrize("scope", Scope)
def test_its_scopes_are_all(scope: Scope) -> None:
    assert f"| `{scope.word}` |" in TEXT


def test_its_limits_are_the_real_ones() -> None:
    for words in (
        f"{connections.HEAD_SECONDS_MAX:g} s, {guard.HEADERS_MAX} headers, {guard.HEADERS_BYTES_MAX // 1024} KiB",
        f"URL {guard.URL_BYTES_MAX // 1024} KiB",
        f"{guard.BODY_SECONDS_MAX:g} s, {guard.BODY_BYTES_MAX // 2**20} MiB",
        f"takes nothing of its answer | {connections.READER_SECONDS_MAX:g} s",
        f"{connections.CONNECTIONS_MAX}, {connections.CONNECTIONS_OF_ADDRESS_MAX} of one address",
        f"{rates.REQUESTS.burst:,} at once, then {rates.REQUESTS.per_second:g} a second",
        f"{rates.FAILURES.burst} at once, then one in {1 / rates.FAILURES.per_second:g} s",
    ):
        assert words in TEXT, words
