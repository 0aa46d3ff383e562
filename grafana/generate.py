"""Write grafana/dashboards/*.json from the Python beside this file: `python grafana/generate.py`.

Grafana gets the committed files; a test keeps them equal to what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import compare, health, leaderboard, live, ranks

DASHBOARDS = {
    "live.json": live.build,
    "compare.json": compare.build,
    "leaderboard.json": leaderboard.build,
    "ranks.json": ranks.build,
    "health.json": health.build,
}
FOLDER = Path(__file__).resolve().parent / "dashboards"


def render(name: str) -> str:
    """Return the text of one dashboard file."""
    dashboard = DASHBOARDS[name]().build()
    for number, panel in enumerate(dashboard.panels or [], start=1):
        panel.id_val = number  # links to one panel stay valid
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(dashboard) + "\n"


def main() -> None:
    """Write every dashboard."""
    for name in DASHBOARDS:
        path = FOLDER / name
        path.write_text(render(name))
        print(f"wrote {path.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    main()
