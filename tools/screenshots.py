"""Take the pictures of docs/images: runs of a real training in the page, by a real Chromium.

usage: python tools/screenshots.py [FOLDER]

The training is a softmax regression on scikit-learn's digits at four learning rates.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

import runwire
from tests.page.browser import CHROMIUM, HOW_TO_GET, chromium, log_in
from tests.services.consumer import ConsumerProcess
from tests.services.process import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
RATES = (0.001, 0.01, 0.05, 40.0)
STEPS = 1_500
BATCH = 64
SQL = """SELECT step, avg(value) AS mean, max(value) AS best
FROM curves WHERE metric = 'val/acc'
GROUP BY step ORDER BY step"""


def train(home: Path, rate: float) -> str:
    """One run; returns its id."""
    digits = load_digits()
    data, wanted = digits.data / 16.0, digits.target
    draw = np.random.default_rng(1)
    order = draw.permutation(len(data))
    seen, held = order[:1_400], order[1_400:]
    weights = np.zeros((data.shape[1], 10))
    params = {"lr": rate, "batch": BATCH, "optimizer": "sgd"}
    with runwire.init("digits", params=params, home=home, url=f"dir:{home / 'topic'}") as run:
        run.define("val/acc", best="max")
        for step in range(STEPS):
            picked = draw.choice(seen, BATCH)
            scores = data[picked] @ weights
            scores -= scores.max(axis=1, keepdims=True)
            likely = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            loss = -float(np.mean(np.log(likely[np.arange(BATCH), wanted[picked]] + 1e-12)))
            likely[np.arange(BATCH), wanted[picked]] -= 1.0
            slope = data[picked].T @ likely / BATCH
            weights -= rate * (1.0 - step / STEPS) * slope * 10
            row = {"train/loss": loss, "train/grad_norm": math.sqrt(float(np.sum(slope**2)))}
            if step % 50 == 0:
                guessed = (data[held] @ weights).argmax(axis=1)
                row["val/acc"] = float(np.mean(guessed == wanted[held]))
            run.log(row, step=step)
        return run.id


def shoot(page: Page, address: str, runs: list[str], folder: Path) -> None:
    """Every view once."""
    chosen = urlencode([("run", run) for run in runs])
    for name, path, drawn in (
        ("runs", "/?metric=val%2Facc&param=lr", "tbody tr[data-at]"),
        ("run", f"/runs/{runs[1]}", ".plot"),
        ("compare", f"/compare?{chosen}", ".plot"),
        ("sql", f"/sql?{urlencode({'q': SQL})}", "textarea"),
    ):
        page.goto(address + path)
        page.locator(drawn).first.wait_for()
        if name == "sql":
            page.get_by_role("button", name="Run", exact=True).click()
            page.locator("tbody tr[data-at]").first.wait_for()
        if drawn == ".plot":  # a chart asks for its curve when it comes into sight
            for panel in page.locator(".plot").all():
                panel.scroll_into_view_if_needed()
                page.wait_for_function("plot => plot.dataset.points", arg=panel.element_handle())
        page.screenshot(path=folder / f"{name}.png", caret="initial", full_page=True)


def main() -> None:
    """Train, look, keep."""
    if CHROMIUM is None:
        sys.exit(f"There is no Chromium: {HOW_TO_GET}")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="runwire-shots-") as made:
        home = Path(made) / "home"
        runs = [train(home, rate) for rate in RATES]
        with ConsumerProcess(f"dir:{home / 'topic'}", home=home) as consumer, chromium() as browser:
            wait_until(
                lambda: consumer.sql("SELECT count(*) AS n FROM runs WHERE state = 'finished'")[0]["n"] == len(runs),
                timeout_seconds=60.0,
                what="the end of all runs",
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce", locale="en-US")
            page.goto(f"http://{consumer.address}")
            log_in(page, consumer.token)
            shoot(page, f"http://{consumer.address}", runs, folder)


if __name__ == "__main__":
    main()
