"""What people wait for at the built-in page, in a real Chromium: first paint, a thousand runs, a million points, news.

A store with 1,000 runs of ten metrics and one run with a curve of a million points is served by `runwire up`. Times are
medians in milliseconds: from the start of a navigation, or for `update_ms` from the call of `log()`, to the moment when
the page has drawn it. `update_max_ms` is the slowest one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

import runwire
from bench.measuring import scratch
from bench.queries import LONG_RUN, Process, batch, opening, states_of
from bench.report import rounded, show
from runwire_consumer.store import Store
from tests.consumer.telling import DAY_ONE, SECOND
from tests.page.browser import CHROMIUM, HOW_TO_GET, chromium, log_in
from tests.services.consumer import ConsumerProcess

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

METRICS = tuple(f"train/metric-{number:02}" for number in range(10))
STEPS = 100
LONG_ROWS = 100_000
UPDATE_PAUSE_SECONDS = 0.7
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
ROWS = "() => document.querySelectorAll('tr[data-at]').length > 10 && performance.now()"
DRAWN = "(points) => document.querySelector('.plot')?.dataset.points === String(points) && performance.now()"
WATCH = """() => {
    const plot = document.querySelector(".plot");
    globalThis.drawn = {};
    const note = () => { globalThis.drawn[plot.dataset.points] ??= Date.now(); };
    new MutationObserver(note).observe(plot, { attributes: true });
}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--points", type=int, default=1_000_000, help="of the long curve")
    parser.add_argument("--repeats", type=int, default=7, help="of each navigation, and twice as many updates")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(f"There is no Chromium: {HOW_TO_GET}")
    with scratch() as home:
        fill(home / "runwire.duckdb", options.runs, options.points)
        with ConsumerProcess(f"dir:{home / 'topic'}", home=home) as consumer, chromium() as browser:
            context = browser.new_context(viewport={"width": 1600, "height": 1000}, reduced_motion="reduce")
            page = context.new_page()
            page.goto(f"http://{consumer.address}/")
            log_in(page, consumer.token)
            page.close()
            figures = measure(context, consumer, options.points, options.repeats)
    show("The page", figures if options.json else {"ms": figures}, as_json=options.json)


def measure(context: BrowserContext, consumer: ConsumerProcess, points: int, repeats: int) -> dict[str, Any]:
    """Every figure by its name."""
    address = f"http://{consumer.address}"
    paints, tables, curves, zooms = [], [], [], []
    for _ in range(repeats):
        page = context.new_page()
        page.goto(address)
        tables.append(page.wait_for_function(ROWS).json_value())
        paints.append(page.evaluate(PAINT))
        page.goto(f"{address}/runs/{LONG_RUN}")
        curves.append(page.wait_for_function(DRAWN, arg=points).json_value())
        zooms.append(zoomed(page))
        page.close()
    updates = updated(context, consumer, 2 * repeats)
    return {
        "first_paint_ms": rounded(statistics.median(paints)),
        "update_ms": rounded(statistics.median(updates)),
        "update_max_ms": rounded(max(updates)),
        "million_points_ms": rounded(statistics.median(curves)),
        "zoom_ms": rounded(statistics.median(zooms)),
        "thousand_runs_ms": rounded(statistics.median(tables)),
    }


def zoomed(page: Page) -> float:
    """Milliseconds from a key that halves what is in sight until the finer curve is drawn."""
    before = page.evaluate("() => document.querySelector('.plot').dataset.points")
    page.locator(".plot").first.focus()
    began = page.evaluate("() => performance.now()")
    page.keyboard.press("+")
    script = "(before) => document.querySelector('.plot').dataset.points !== before && performance.now()"
    return float(page.wait_for_function(script, arg=before).json_value()) - float(began)


def updated(context: BrowserContext, consumer: ConsumerProcess, count: int) -> list[float]:
    """Milliseconds from each call of log() until the chart has its point."""
    page = context.new_page()
    logged: dict[str, float] = {}
    with runwire.init("bench", home=consumer.home, url=consumer.url, auto_metrics=False) as run:
        run.log({"loss": 1.0}, step=0)
        page.goto(f"http://{consumer.address}/")
        page.locator("tr[data-at]", has_text=run.name).wait_for()
        page.goto(f"http://{consumer.address}/runs/{run.id}")
        page.wait_for_function(DRAWN, arg=1)
        page.evaluate(WATCH)
        for step in range(1, count + 1):
            logged[str(step + 1)] = time.time() * 1e3
            run.log({"loss": 1.0 / (step + 1)}, step=step)
            # Not in step with whatever beats in the consumer or the page.
            time.sleep(UPDATE_PAUSE_SECONDS * (1 + 0.5 * (step % 5)))
        page.wait_for_function(DRAWN, arg=count + 1)
        drawn = page.evaluate("() => globalThis.drawn")
    page.close()
    return [drawn[points] - at for points, at in logged.items() if points in drawn]


def fill(path: Path, runs: int, points: int) -> None:
    """A store of ended runs, by the consumer's own transactions, compacted as it does."""
    generator = np.random.default_rng(1)
    store = Store.open(path)
    now = DAY_ONE + 10**6 * SECOND
    fleet = [Process("e", f"{number:016x}", attempt=f"a{number}", started=float(number)) for number in range(runs)]
    for first in range(0, runs, 100):
        items = [one for process in fleet[first : first + 100] for one in opening(process)]
        items += [batch(process, METRICS, 0, STEPS, generator) for process in fleet[first : first + 100]]
        store.write(store.admit(items, now, at_tail=False), {})
    long = Process("f", LONG_RUN, attempt="long")
    store.write(store.admit(opening(long), now, at_tail=False), {})
    for step in range(0, points, LONG_ROWS):
        rows = min(LONG_ROWS, points - step)
        store.write(store.admit([batch(long, METRICS[:1], step, rows, generator)], now, at_tail=False), {})
    store.write(store.admit([], now, at_tail=False), states_of(store, [*(one.run_id for one in fleet), LONG_RUN]))
    while store.compaction.step() is not None:
        pass
    store.compaction.finish(store.cursor())
    store.close()


if __name__ == "__main__":
    main()
