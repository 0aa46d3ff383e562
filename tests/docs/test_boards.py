"""The guides to dashboards, alerts and clusters: what they name is there, what they show is accepted."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from grafana.generate import DASHBOARDS
from tests.docs.blocks import GUIDES
from tests.repo.files import REPOSITORY
from tests.tiers import require_service

PAGES = ("alerts.md", "compose.md", "kubernetes.md", "prometheus-and-grafana.md")
ANCHOR = re.compile(r"[^\w\- ]")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_that_a_page_names_are_there(page: str) -> None:
    """Also the headings that links lead to."""
    text = (GUIDES / page).read_text()
    for target, anchor in re.findall(r"\]\(([\w./-]+\.md)?(?:#([\w-]+))?\)", text):
        other = GUIDES / target if target else GUIDES / page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            assert anchor in {ANCHOR.sub("", heading).lower().replace(" ", "-") for heading in headings}, anchor
    made_by_the_reader = {"contact-point.yaml", "runwire-webhook"}
    for name in re.findall(r"(?:deploy|grafana)/[\w./-]+", text):
        assert (REPOSITORY / name).exists() or Path(name).name in made_by_the_reader, name


def test_the_page_about_compose_names_each_dashboard() -> None:
    """And nothing that isn't one."""
    table = (GUIDES / "compose.md").read_text().split("## The dashboards")[1].split("Three things")[0]
    named = re.findall(r"^\| \*\*([\w ]+)\*\* \|", table, re.MULTILINE)
    assert named == ["live", "compare", "leaderboard", "ranks", "pipeline health"]
    assert len(named) == len(DASHBOARDS)


def test_the_page_about_kubernetes_names_each_file() -> None:
    """In its table."""
    named = re.findall(r"^\| `([\w.]+)` \|", (GUIDES / "kubernetes.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (REPOSITORY / "deploy" / "kubernetes").iterdir())


def test_prometheus_accepts_what_the_page_shows(tmp_path: Path) -> None:
    """The block that goes into a configuration, with the rule file and the token that it names."""
    require_service("promtool", shutil.which("promtool") is not None, "apt-get install prometheus")
    block = re.search(
        r"```yaml\n(scrape_configs:.*?)```", (GUIDES / "prometheus-and-grafana.md").read_text(), re.DOTALL
    )
    assert block
    (tmp_path / "runwire.yml").write_text((REPOSITORY / "deploy" / "prometheus" / "rules" / "runwire.yml").read_text())
    (tmp_path / "runwire-token").write_text("secret")
    text = block[1].replace("/etc/prometheus/", f"{tmp_path}/")
    assert yaml.safe_load(text)["scrape_configs"][0]["job_name"] == "runwire"
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout
