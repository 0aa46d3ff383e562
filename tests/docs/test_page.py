"""docs/guides/page.md says what the page does: its addresses, what they carry, keys and limits."""

from __future__ import annotations

import re

from runwire_consumer.page.feed import INTERVAL_SECONDS
from runwire_consumer.page.files import VIEWS, page_files
from runwire_consumer.page.table import ROWS_MAX
from runwire_consumer.sessions import CODE_SECONDS_MAX, SESSION_SECONDS_MAX
from tests.docs.blocks import GUIDES

PAGE = (GUIDES / "page.md").read_text(encoding="utf-8")
SCRIPTS = {page.path: page.content.decode() for page in page_files() if page.path.endswith(".js")}


def test_every_view_and_what_its_address_carries() -> None:
    """Each name that a script reads from an address or writes there is in the guide."""
    listed = re.findall(r"^\| `(/[^`?]*)", PAGE.partition("## Curves")[0], re.MULTILINE)
    assert listed == [view.replace("{wanted:path}", "RUN") for view in VIEWS]
    named = {
        name
        for path, text in SCRIPTS.items()
        if "/vendor/" not in path
        for name in re.findall(r'(?:query\.(?:get|getAll|set|append)|this\.(?:note|remember))\(\s*"(\w+)"', text)
    }
    assert named >= {"q", "sort", "tab", "axis", "smooth"}
    assert {name for name in named if f"`{name}`" not in PAGE and f"{name}=" not in PAGE} == set()


def test_every_key() -> None:
    """Those that a view or the shell tells of itself."""
    told = {
        key
        for text in SCRIPTS.values()
        for key in re.findall(r'^  \["(g \w|[/xct?]|j k|Enter)", "', text, re.MULTILINE)
    }
    assert told >= {"/", "j k", "Enter", "x", "c", "g r", "t", "?"}
    assert {
        part for key in told for part in ([key] if key != "j k" else ["j", "k"]) if f"`{part}`" not in PAGE
    } == set()


def test_its_figures_are_those_of_the_code() -> None:
    assert (ROWS_MAX, INTERVAL_SECONDS, CODE_SECONDS_MAX, SESSION_SECONDS_MAX) == (5_000, 0.25, 120, 86_400)
    for said in (
        "at most 5,000",
        "at most four a second",
        "within two minutes",
        "A session lasts a day",
        "up to 20 runs",
    ):
        assert said in PAGE
    assert "RUNS_MAX = 20;" in SCRIPTS["/static/compare.js"]
