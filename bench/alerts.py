"""How long until a real Prometheus with the rules as deployed fires for a run that diverges, and one that is killed.

Two trainings send into a folder, a consumer reads it, Prometheus scrapes that. One training diverges from its start:
from the first infinite loss in the store until the alert fires. The other is killed: from the signal until then.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.measuring import scratch
from bench.report import show
from tests.services.consumer import ConsumerProcess
from tests.services.learner import DIVERGES_AT, Learner
from tests.services.process import wait_until
from tests.services.prometheus import PrometheusServer

TIMEOUT_SECONDS = 120.0


def main() -> None:
    """Measure and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with scratch() as folder:
        figures = measure(folder)
    show("Seconds until an alert fires", {"prometheus": figures}, as_json=options.json)


def measure(folder: Path) -> dict[str, float]:
    """Seconds until each of both alerts fires."""
    url = f"dir:{folder / 'topic'}"
    # Homes of their own: nobody recovers the journal of the one that is killed.
    killed = Learner(folder / "killed", url, launch="k", name="killed")
    with (
        ConsumerProcess(url, home=folder / "consumer") as consumer,
        PrometheusServer([consumer.address], folder=folder / "prometheus") as prometheus,
    ):
        diverges = Learner(
            folder / "diverges", url, launch="d", name="diverges", learning_rate=DIVERGES_AT, pause_seconds=0.5
        )

        def fires_after(alerts: str, run: str) -> float:
            since = time.monotonic()
            query = f'ALERTS{{alertname=~"{alerts}", run="{run}", alertstate="firing"}}'
            wait_until(lambda: prometheus.query(query), timeout_seconds=TIMEOUT_SECONDS, what=query)
            return round(time.monotonic() - since, 2)

        try:
            consumer.wait_for(
                "SELECT 1 FROM latest WHERE run = 'diverges' AND metric = 'train/loss' AND NOT isfinite(value)",
                timeout_seconds=TIMEOUT_SECONDS,
            )
            not_finite_seconds = fires_after("RunwireLossNotFinite", "diverges")
            prometheus.wait_for('runwire_run_state{run="killed"} == 0', timeout_seconds=TIMEOUT_SECONDS)
            killed.kill()
            killed_seconds = fires_after("RunwireRunLost|RunwireRunCrashed", "killed")
        finally:
            diverges.kill()
            killed.kill()
    return {"not_finite_seconds": not_finite_seconds, "killed_seconds": killed_seconds}


if __name__ == "__main__":
    main()
