"""The built-in page in a real browser: what people see, do and are spared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.page.browser import log_in
from tests.page.conftest import HOSTILE, SPIKE, STEPS, Place

LIVE = """
import sys, runwire
with runwire.init("digits", name="live-run") as run:
    print(run.id, flush=True)
    for step, line in enumerate(sys.stdin):
        run.log({"train/loss": float(line), "val/new": 1.0} if step > 1 else {"train/loss": float(line)}, step=step)
"""
NAMES = ("calm-fox", "brave-owl", "quick-elk")
UNNAMED = """() => [...document.querySelectorAll("button, input, select, textarea, a[href], [role=img], table, dialog")]
    .filter((element) => element.checkVisibility())
    .filter((element) => !(element.getAttribute("aria-label") || element.textContent.trim() || element.labels?.length
        || element.caption || element.querySelector?.("[alt]")))
    .map((element) => element.outerHTML.slice(0, 200))"""


def shown_names(page: Page) -> list[str]:
    """The names in the table, from the top."""
    names: list[str] = page.locator("tbody tr[data-at] td:nth-child(3)").all_inner_texts()
    return names


def panel(page: Page, metric: str) -> Any:
    escaped = "".join(f"\\{ord(character):x} " for character in metric)
    return page.locator(f'figure[data-metric="{escaped}"] .plot')


@pytest.mark.usefixtures("shot")
def test_runs_are_sorted_filtered_and_searched_and_the_address_says_so(page: Page, place: Place) -> None:
    """Whatever is done to the table can be sent to somebody as an address."""
    page.goto(place.address)
    expect(page.get_by_text(f"{len(place.runs)} of {len(place.runs)} runs")).to_be_visible()
    page.get_by_label("Search the runs").fill("optimizer=sgd")
    expect(page.get_by_text(f"2 of {len(place.runs)} runs")).to_be_visible()
    page.get_by_role("button", name="lr", exact=True).click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("lr ↓")
    assert shown_names(page) == ["calm-fox", "quick-elk"]
    page.get_by_role("button", name="lr").click()
    assert shown_names(page) == ["quick-elk", "calm-fox"]
    assert page.url == f"{place.address}/?q=optimizer%3Dsgd&sort=param%3Alr"
    page.reload()
    expect(page.locator("tbody tr[data-at]")).to_have_count(2)
    assert shown_names(page) == ["quick-elk", "calm-fox"]
    page.get_by_label("State").select_option("finished")
    expect(page.locator("tbody tr[data-at]")).to_have_count(2)
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("dialog").get_by_label("train/grad").check()
    page.get_by_role("dialog").get_by_role("button", name="Show").click()
    expect(page.get_by_role("button", name="train/grad")).to_be_visible()


def test_who_has_no_session_is_asked_for_a_token(context: BrowserContext, place: Place) -> None:
    """A wrong token is told, a right one shows what was asked for; after logging out it is asked for again."""
    page = context.new_page()
    page.goto(f"{place.address}/runs/{place.runs['calm-fox']}")
    page.get_by_label("Token").fill("rwt_wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("The token is wrong")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_visible()
    log_in(page, place.consumer.token)
    expect(page.get_by_role("heading", name="calm-fox")).to_be_visible()
    assert context.cookies()[0]["httpOnly"]
    assert page.evaluate("() => document.cookie") == ""
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()


def test_a_session_that_ends_is_asked_for_where_people_are(context: BrowserContext, place: Place) -> None:
    """The page stays as it is behind the prompt, and goes on with what was wanted."""
    page = context.new_page()
    page.goto(f"{place.address}/sql?q=SELECT+42+AS+answer")
    log_in(page, place.consumer.token)
    context.clear_cookies()
    page.get_by_role("button", name="Run", exact=True).click()
    log_in(page, place.consumer.token)
    expect(page.get_by_role("cell", name="42")).to_be_visible()


@contextmanager
def trainer(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A training that logs each loss it is told."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], env=place.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def tell(process: subprocess.Popen[str], *losses: float) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{loss}\n" for loss in losses))
    process.stdin.flush()


@pytest.mark.usefixtures("shot")
def test_a_curve_moves_while_the_trainer_logs(page: Page, place: Place) -> None:
    """Values, new metrics and the state come by themselves, in the table and in the run, nothing is loaded again."""
    page.goto(place.address)
    expect(page.locator("tbody tr[data-at]").first).to_be_visible()
    page.evaluate("() => { globalThis.same = true; }")
    with trainer(place) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        tell(process, 3.0)
        row = page.locator("tbody tr[data-at]", has_text="live-run")
        expect(row).to_contain_text("running")
        row.get_by_role("link").click()
        expect(panel(page, "train/loss")).to_have_attribute("data-points", "1")
        tell(process, 2.0)
        expect(panel(page, "train/loss")).to_have_attribute("data-points", "2")
        expect(panel(page, "train/loss")).to_have_attribute(
            "aria-label", "train/loss. live-run: 2 points, last 2 at step 1, least 2, greatest 3"
        )
        tell(process, 1.0, 0.5)
        expect(panel(page, "val/new")).to_have_attribute("data-points", "2")
        expect(panel(page, "train/loss")).to_have_attribute("data-points", "4")
        expect(page.get_by_text("step 3", exact=True)).to_be_visible()
    expect(page.locator(".heading .badge")).to_have_text("finished")
    assert page.url == f"{place.address}/runs/{run_id}"
    assert page.evaluate("() => globalThis.same") is True


@pytest.mark.usefixtures("shot")
def test_a_run_shows_its_curves_and_everything_else(page: Page, place: Place) -> None:
    """No spike is lost in buckets, what isn't finite is counted, and a stretch is drawn at full resolution."""
    page.goto(f"{place.address}/runs/{place.runs['calm-fox']}")
    plot = panel(page, "train/loss")
    expect(plot).to_have_attribute("data-points", str(STEPS))
    assert int(plot.get_attribute("data-buckets") or 0) < STEPS / 2
    label = plot.get_attribute("aria-label") or ""
    assert f"{STEPS:,} points" in label
    assert "greatest 7.08" in label
    assert "1 not finite" in (panel(page, "train/grad").get_attribute("aria-label") or "")
    over = plot.locator(".u-over").bounding_box()
    assert over is not None
    page.mouse.move(over["x"] + 0.40 * over["width"], over["y"] + 50)
    page.mouse.down()
    page.mouse.move(over["x"] + 0.43 * over["width"], over["y"] + 60, steps=3)
    page.mouse.up()
    page.wait_for_function(
        "(plot) => Number(plot.dataset.points) < 200 && plot.dataset.points === plot.dataset.buckets",
        arg=plot.element_handle(),
    )
    first, last = (float(part) for part in page.evaluate("() => new URL(location).searchParams.get('x')").split(","))
    assert first < SPIKE < last
    page.get_by_role("button", name="Whole range").click()
    expect(plot).to_have_attribute("data-points", str(STEPS))
    page.get_by_label("Axis").select_option("relative")
    page.get_by_label("Smoothing").fill("0.9")
    page.get_by_label("Logarithmic").check()
    expect(plot).to_have_attribute("data-points", str(STEPS))
    assert "axis=relative&smooth=0.9&log=1" in page.url
    page.locator("figure[data-metric='val/acc'] summary").click()
    expect(page.get_by_role("table", name="Values of val/acc").get_by_role("row")).to_have_count(STEPS // 100 + 1)
    for tab, text in (
        ("Parameters", "optimizer"), ("Events", "RunStarted"), ("Code and host", "Command"),
        ("Receipt", "Complete: every row that was sent is accounted for."), ("Attempts", "World size"),
    ):  # fmt: skip
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel")).to_contain_text(text)
    page.reload()
    expect(page.get_by_role("tab", name="Attempts")).to_have_attribute("aria-selected", "true")


@pytest.mark.usefixtures("shot")
def test_three_runs_are_compared(page: Page, place: Place) -> None:
    """Overlaid and side by side, the best marked, and of the parameters those that differ."""
    query = urlencode([("run", place.runs[name]) for name in NAMES])
    page.goto(f"{place.address}/compare?{query}")
    params = page.get_by_role("table", name="Parameters that differ")
    expect(params).to_contain_text("optimizer")
    expect(params).not_to_contain_text("layers")
    page.get_by_label("Show all 3").check()
    expect(page.get_by_role("table", name="All parameters")).to_contain_text("layers")
    best = page.get_by_role("table", name="Values of each run").locator(".best")
    expect(best).to_have_count(1)
    expect(best).to_contain_text("0.9867")
    expect(page.get_by_role("img", name="Parallel coordinates of 3 runs")).to_be_visible()
    plot = panel(page, "train/loss")
    plot.scroll_into_view_if_needed()
    expect(plot).to_have_attribute("data-points", str(3 * STEPS))
    page.get_by_label("Curves").select_option("side")
    expect(panel(page, "train/loss")).to_have_count(3)
    page.reload()
    expect(panel(page, "train/loss")).to_have_count(3)
    page.get_by_role("link", name="Leave brave-owl out").click()
    expect(page.get_by_role("heading", name="2 runs compared")).to_be_visible()


@pytest.mark.usefixtures("shot")
def test_sql_is_answered_charted_and_kept(page: Page, place: Place) -> None:
    """A link shows its query and runs nothing; the answer is a table, a chart and a file, an error a sentence."""
    sql = "SELECT step, value FROM curves WHERE run = 'calm-fox' AND metric = 'val/acc' ORDER BY step"
    page.goto(f"{place.address}/sql?{urlencode({'q': sql})}")
    expect(page.get_by_label("One SELECT")).to_have_value(sql)
    expect(page.locator("tbody tr[data-at]")).to_have_count(0)
    page.get_by_label("One SELECT").press("Control+Enter")
    expect(page.locator("main").get_by_text(f"{STEPS // 100} rows")).to_be_visible()
    expect(page.get_by_role("img", name=f"value along step, {STEPS // 100} points")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    assert saved.value.suggested_filename == "runwire.csv"
    assert saved.value.path().read_text().splitlines()[:2] == ["step,value", "0,0.0"]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Parquet").click()
    assert saved.value.path().read_bytes()[:4] == b"PAR1"
    page.get_by_label("One SELECT").fill("SELECT repeat('x', 1000) AS x FROM range(100000)")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The answer is longer than 32 MiB")
    page.get_by_label("One SELECT").fill("SELECT nothing FROM nowhere")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("nowhere")
    page.locator("summary", has_text="curves_by_rank").click()
    expect(page.get_by_role("complementary")).to_contain_text("attempt")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_text_wherever_they_stand(page: Page, place: Place, name: str) -> None:
    """Markup, scripts, right-to-left marks, line breaks and endless names: shown, never run, nothing is broken."""
    run_id = place.runs[name]
    for address in (
        f"/runs/{run_id}?tab=params", f"/runs/{run_id}?tab=events",
        f"/compare?run={run_id}&run={place.runs['calm-fox']}",
        f"/?{urlencode({'q': name, 'sort': name, 'metric': name})}",
    ):  # fmt: skip
        page.goto(place.address + address)
        page.locator("main [data-metric], main tr[data-at], main .tabs").first.wait_for()
        assert page.title().endswith("Runwire"), address
        assert page.locator("main img, main script, main iframe, main [onerror]").count() == 0, address
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), address
    page.goto(f"{place.address}/runs/{run_id}")
    expect(panel(page, name)).to_have_attribute("data-points", "1")


def test_keys_alone_are_enough(page: Page, place: Place) -> None:
    """Search, walk, choose, compare, open, leave: without a mouse."""
    page.goto(place.address)
    expect(page.locator("tbody tr[data-at]").first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("base-or-not")
    expect(page.locator("tbody tr[data-at]")).to_have_count(0)
    page.get_by_label("Search the runs").fill("lr=")
    expect(page.locator("tbody tr[data-at]")).to_have_count(3)
    page.keyboard.press("Escape")
    for key in "jxjx":
        page.keyboard.press(key)
    expect(page.locator("tr.marked")).to_have_count(2)
    page.keyboard.press("c")
    expect(page.get_by_role("heading", name="2 runs compared")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.locator("tbody tr[data-at]").first).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Charts")).to_be_visible()
    page.get_by_role("tab", name="Charts").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="System")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.go_back()
    expect(page.get_by_label("Search the runs")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement !== document.body")


def test_dark_and_light(page: Page, place: Place) -> None:
    """As the system says, until somebody chooses; the choice is remembered."""
    page.emulate_media(color_scheme="dark")
    page.goto(place.address)
    background = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(13, 17, 23)"
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_everything_has_a_name_for_those_who_listen(page: Page, place: Place) -> None:
    """Each control, picture and table of each view says what it is; each view has one main heading."""
    run_id = place.runs["calm-fox"]
    for address in ("/", f"/runs/{run_id}", f"/compare?run={run_id}&run={place.runs['brave-owl']}", "/sql"):
        page.goto(place.address + address)
        page.locator("main h1").wait_for(state="attached")
        page.locator("main tr[data-at], main .plot, main textarea").first.wait_for()
        assert page.evaluate(UNNAMED) == [], address
        assert page.locator("main h1").count() == 1, address


def test_thousands_of_runs_are_a_few_rows_at_a_time(page: Page, place: Place) -> None:
    """Only what is in sight is there; scrolling reaches the last one."""

    def many(route: Route) -> None:
        told = route.fetch().json()
        count = 4_000
        columns = {name: [values[0]] * count for name, values in told["columns"].items()}
        columns["name"] = [f"run-{number}" for number in range(count)]
        columns["run_id"] = [f"{number:016x}" for number in range(count)]
        route.fulfill(json={**told, "metrics": {}, "params": {}, "columns": columns})

    page.route("**/api/table*", many)
    page.goto(f"{place.address}/?sort=name")
    expect(page.get_by_text("4,000 of 4,000 runs")).to_be_visible()
    assert page.locator("tbody tr[data-at]").count() < 100
    page.get_by_role("region", name="Runs").press("End")
    expect(page.get_by_text("run-3999", exact=True)).to_be_visible()
    assert page.locator("tbody tr[data-at]").count() < 100


def test_an_address_that_leads_nowhere_says_so(page: Page, place: Place) -> None:
    """A run that isn't there is a sentence and a way back."""
    with page.expect_response("**/api/runs/*"):
        page.goto(f"{place.address}/runs/zzzzzzzzzzzzzzzz")
    expect(page.get_by_role("alert")).to_contain_text("There is no run 'zzzzzzzzzzzzzzzz'")
    page.get_by_role("link", name="All runs").click()
    expect(page.get_by_label("Search the runs")).to_be_visible()
