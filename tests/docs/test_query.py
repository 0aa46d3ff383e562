"""The page about asking: its Python, its requests, its shell and its magics run as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.commands import train
from tests.cli.face import TOKEN, served
from tests.consumer.small_store import small_store
from tests.docs.blocks import GUIDES, blocks, run_code
from tests.docs.guides import shell_blocks, start_block
from tests.producer.test_notebooks import Notebook
from tests.services.process import PATIENCE_SECONDS

GUIDE = "query.md"
PAGE = f"guides/{GUIDE}"
_MAGICS = re.compile(r"^```\n(%.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A consumer's address."""
    database = small_store()
    with served(database) as port:
        yield f"http://127.0.0.1:{port}"
    database.close()


@pytest.fixture
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of somebody who asks it."""
    monkeypatch.setenv("RUNWIRE_SERVER", server)
    monkeypatch.setenv("RUNWIRE_TOKEN", TOKEN)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("number", range(3))
def test_its_python(number: int, tmp_path: Path) -> None:
    """Each block by itself."""
    found = run_code(blocks(GUIDE)[number], tmp_path, {})
    match number:
        case 0:
            assert len(found["frame"]) == 4
            assert found["rows"] == [{"runs": 2}]
        case 1:
            assert len(found["chosen"]) == 2
        case _:
            assert list(found["curve"]["step"]) == [0, 1]


@pytest.mark.usefixtures("environment")
def test_its_magics(server: str, tmp_path: Path) -> None:
    """In a real kernel."""
    notebook = Notebook(tmp_path)
    try:
        set_up = (
            f"import os\nos.environ.update(RUNWIRE_SERVER={server!r}, RUNWIRE_TOKEN={TOKEN!r})\n"
            "project, chosen = 'digits', ['aaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbb']"
        )
        assert notebook.cell(set_up).status == "ok"
        line, cell = _MAGICS.findall((GUIDES / GUIDE).read_text(encoding="utf-8"))
        shown = notebook.cell(line)
        assert shown.data.get("text/html", "").count("<tr>") == 3, shown
        shown = notebook.cell(cell)
        assert "<td>0</td>" in shown.data.get("text/html", ""), shown
        assert notebook.cell("len(found)").data["text/plain"] == "6"
        assert notebook.cell("%runwire_sql DROP VIEW runs").error == "QueryError"
    finally:
        notebook.client.stop_channels()
        notebook.manager.shutdown_kernel(now=True)
        notebook.manager.cleanup_resources()


@pytest.mark.usefixtures("environment")
def test_its_requests(tmp_path: Path) -> None:
    """JSON, CSV and a Parquet file."""
    (block,) = shell_blocks(PAGE)["HTTP"]
    asking = start_block(block, tmp_path, {"$RUNWIRE_TOKEN": TOKEN, "$RUNWIRE_SERVER": _server_of_the_environment()})
    printed, _ = asking.communicate(timeout=PATIENCE_SECONDS)
    assert asking.returncode == 0, printed
    assert printed.count('"name": "brave-fox-1"') == 2
    assert "run_id,run,metric" in printed
    assert pq.read_table(tmp_path / "metrics.parquet").num_rows == 14


def _server_of_the_environment() -> str:
    import os  # noqa: PLC0415 - here only

    return os.environ["RUNWIRE_SERVER"]


def test_its_shell(tmp_path: Path) -> None:
    """Where nobody has the store open."""
    home = tmp_path / ".runwire"
    home.mkdir()
    train(home, "first")
    up = start_block("runwire up --once", tmp_path, {})
    up.communicate(timeout=PATIENCE_SECONDS)
    (block,) = shell_blocks(PAGE)["Shell"]
    asking = start_block(block, tmp_path, {})
    printed, _ = asking.communicate(timeout=PATIENCE_SECONDS)
    assert asking.returncode == 0, printed
    assert printed.count("s old, read-only") == 2
    assert "finished" in printed
