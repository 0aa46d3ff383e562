"""Write dashboards, alert rules and manifests from the Python beside this file: `python grafana/generate.py`.

Grafana, Prometheus and Kubernetes get the committed files; a test keeps them equal to what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import compare, health, leaderboard, live, manifests, ranks, rules

REPOSITORY = Path(__file__).resolve().parents[1]
DASHBOARDS = {
    "live.json": live.build,
    "compare.json": compare.build,
    "leaderboard.json": leaderboard.build,
    "ranks.json": ranks.build,
    "health.json": health.build,
}
FOLDER = REPOSITORY / "grafana" / "dashboards"


def render(name: str) -> str:
    """Return the text of one dashboard file."""
    dashboard = DASHBOARDS[name]().build()
    for number, panel in enumerate(dashboard.panels or [], start=1):
        panel.id_val = number  # links to one panel stay valid
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(dashboard) + "\n"


def files() -> dict[Path, str]:
    """Return every generated file and its text."""
    boards = {name: render(name) for name in DASHBOARDS}
    deploy = REPOSITORY / "deploy"
    return {
        **{FOLDER / name: text for name, text in boards.items()},
        REPOSITORY / "grafana" / "provisioning" / "alerting" / "runwire.yaml": rules.grafana_file(),
        deploy / "prometheus" / "rules" / "runwire.yml": rules.prometheus_file(),
        deploy / "kubernetes" / "prometheusrule.yaml": manifests.prometheus_rule(),
        deploy / "kubernetes" / "dashboards.yaml": manifests.dashboards(boards),
    }


def main() -> None:
    """Write every file."""
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
