"""`runwire up --open`: a browser that is logged in, and nothing about it that another user could take."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.process import ServiceProcess, wait_until


def test_the_browser_opens_logged_in(browser: Browser, tmp_path: Path) -> None:
    """By a file of the user's own with a code that works once; no token is in it, and it goes with the consumer."""
    home, opened = tmp_path / "home", tmp_path / "opened"
    home.mkdir()
    consumer = ConsumerProcess(f"dir:{home / 'topic'}", home=home)
    script = tmp_path / "browser.py"
    script.write_text(f"import pathlib, sys; pathlib.Path({str(opened)!r}).write_text(sys.argv[1])")
    environment = {**consumer.environment, "BROWSER": f"{sys.executable} {script} %s"}
    process = ServiceProcess("runwire up", [RUNWIRE, "up", "--open"], log=home / "up.log", environment=environment)
    try:
        address = wait_until(lambda: opened.exists() and opened.read_text(), what="a browser")
        path = Path(str(address).removeprefix("file://"))
        assert path == home / "open.html"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        assert consumer.token not in text
        code = text.partition("#code=")[2].partition('"')[0]
        assert code not in str(address)
        context = browser.new_context()
        page = context.new_page()
        page.goto(str(address))
        expect(page.get_by_text("Nothing is tracked yet")).to_be_visible()
        assert page.url == f"http://{consumer.address}/"
        other = browser.new_context().new_page()
        other.goto(str(address))
        expect(other.get_by_label("Token")).to_be_visible()
        other.context.close()
        context.close()
    finally:
        process.stop()
    assert not path.exists()
