"""One consumer and one browser for all tests of the page; what they complain of fails the test that made them."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from playwright.sync_api import Error as PlaywrightError

import runwire
from tests.page.browser import CHROMIUM, HOW_TO_GET, Complaints, chromium, log_in
from tests.services.consumer import ConsumerProcess
from tests.services.process import wait_until
from tests.tiers import require_service

SHOTS = Path(__file__).parents[2] / ".cache" / "page"
TIMEOUT_MS = 30_000  # a browser on a busy machine takes its time
expect.set_options(timeout=TIMEOUT_MS)
STEPS = 3_000
SPIKE = 1_234
HOSTILE = (
    '<img src=x onerror="document.title=1">"\'`&lt;</script><script>document.title=2</script>',
    "\u202eevil\u202c \u2066rtl\u2069 name",
    "line\nbreak\ttab",
    "x" * 1_000,
    "javascript:alert(1)",
    "${7*7}{{7*7}}%00%2e",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what its page says."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.failed and isinstance(page, Page) and not page.is_closed():
        try:
            report.sections.append((page.url[:200], page.locator("body").inner_text(timeout=5_000)[:2_000]))
        except PlaywrightError as error:
            report.sections.append((page.url[:200], f"It doesn't answer: {error}"))
    return report


@dataclass(frozen=True)
class Place:
    """A consumer with runs: three trained ones and one a hostile name."""

    consumer: ConsumerProcess
    runs: dict[str, str]

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{self.consumer.address}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a trainer that logs there."""
        return {**self.consumer.environment, "RUNWIRE_AUTO_METRICS": "off"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_service("Chromium", CHROMIUM is not None, HOW_TO_GET)
    home = tmp_path_factory.mktemp("page") / "home"
    url = f"dir:{home / 'topic'}"
    runs = dict(_trained(home, url))
    consumer = ConsumerProcess(url, home=home).start()
    try:
        wait_until(
            lambda: consumer.sql("SELECT count(*) AS n FROM runs WHERE state = 'finished'")[0]["n"] == len(runs),
            what="the end of all runs",
        )
        yield Place(consumer, runs)
    finally:
        consumer.stop()


def _trained(home: Path, url: str) -> Iterator[tuple[str, str]]:
    """(name, id) of each run that was logged."""
    for number, name in enumerate(("calm-fox", "brave-owl", "quick-elk")):
        params: dict[str, object] = {"lr": 10.0**-number, "layers": 2, "optimizer": ("sgd", "adam")[number % 2]}
        with _begun(home, url, name, params) as run:
            run.define("val/acc", best="max")
            for step in range(STEPS):
                loss = math.exp(-step / (500 * (number + 1))) + (7.0 if step == SPIKE else 0.0)
                row = {"train/loss": loss, "train/grad": math.nan if step == STEPS // 2 else 1.0}
                run.log(row | ({"val/acc": step / STEPS + number / 100} if step % 100 == 0 else {}), step=step)
            yield name, run.id
    for name in HOSTILE:
        with _begun(home, url, name, {name: 10 * name}, tags=[name], notes=10 * name) as run:
            run.log({name: 1.0, f"a/{name}": 2.0})
            run.alert(name, text=name)
            yield name, run.id


def _begun(home: Path, url: str, name: str, params: dict[str, object], **given: object) -> runwire.Run:
    return runwire.init("digits", name=name, params=params, home=home, url=url, auto_metrics=False, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A module's: while one runs, its thread has an event loop, and no coroutine of another test could run."""
    require_service("Chromium", CHROMIUM is not None, HOW_TO_GET)
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def session(browser: Browser, place: Place) -> list[dict[str, object]]:
    """The cookies of somebody who has logged in."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(place.address)
    log_in(page, place.consumer.token)
    cookies = context.cookies()
    context.close()
    return [dict(cookie) for cookie in cookies]


@pytest.fixture
def context(browser: Browser, place: Place) -> Iterator[BrowserContext]:
    """A browser window that nobody has logged in with; at the end it must have complained of nothing."""
    made = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", locale="en-US")
    made.set_default_timeout(TIMEOUT_MS)
    complaints = Complaints(made, place.address)
    yield made
    made.close()
    assert complaints.found == []


@pytest.fixture
def page(context: BrowserContext, session: list[dict[str, object]]) -> Page:
    """A page of somebody who is logged in."""
    context.add_cookies(session)  # type: ignore[arg-type]
    return context.new_page()


@pytest.fixture
def shot(request: pytest.FixtureRequest, page: Page) -> Iterator[None]:
    """Keep what the page looks like at the end of the test, in .cache/page."""
    yield
    SHOTS.mkdir(parents=True, exist_ok=True)
    # Playwright would hide the caret by a style that the policy forbids.
    page.screenshot(path=os.fspath(SHOTS / f"{request.node.name}.png"), caret="initial")
