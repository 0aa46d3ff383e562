"""A run in a notebook: a real Jupyter kernel, cell by cell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from runwire_schemas.events import EmitterEnded, Heartbeat, RunEnded
from tests.producer.programs import of_kind, points, read_topic
from tests.services.process import wait_until

CELL_TIMEOUT_SECONDS = 60.0


@dataclass
class Shown:
    """What a cell showed.

    Attributes:
        status: ok or error.
        text: Of standard output and error.
        data: Representations of its value, by MIME type.
        error: Name of the exception.
    """

    status: str
    text: str = ""
    data: dict[str, str] = field(default_factory=dict)
    error: str = ""


class Notebook:
    """A kernel that tracks into a folder."""

    def __init__(self, folder: Path) -> None:
        self.topic = folder / "topic"
        self.home = folder / "home"
        own = {"RUNWIRE_HOME": str(self.home), "RUNWIRE_URL": f"dir:{self.topic}", "RUNWIRE_PROJECT": "notebook"}
        environment = {**os.environ, **own, "IPYTHONDIR": str(folder / "ipython")}
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(startup_timeout=120, env=environment, cwd=str(folder))
        self.manager.shutdown_wait_time = 120  # it kills a kernel that takes longer

    def cell(self, code: str) -> Shown:
        """Run a cell to its end."""
        shown = Shown("")

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            shown.text += content.get("text", "") if message["msg_type"] == "stream" else ""
            shown.data |= content.get("data", {})
            shown.error = content.get("ename", shown.error)

        reply = self.client.execute_interactive(code, timeout=CELL_TIMEOUT_SECONDS, output_hook=collect)
        shown.status = reply["content"]["status"]
        return shown

    def begin(self) -> Shown:
        """A run, and a row of it."""
        shown = self.cell("import runwire\nrun = runwire.init(name='<b>bold</b>')\nrun.log({'a': 1.0}, step=1)")
        assert shown.status == "ok", shown
        return shown

    def endings(self) -> list[tuple[str, str | None]]:
        """(status, error) of each run that ended."""
        return [(event.status, event.error) for event in of_kind(read_topic(self.topic), RunEnded)]

    def journals(self) -> list[Path]:
        """Journals that wait."""
        return list((self.home / "journal").iterdir())


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    """A notebook that nothing ran in."""
    opened = Notebook(tmp_path)
    yield opened
    opened.client.stop_channels()
    if opened.manager.is_alive():
        opened.manager.shutdown_kernel(now=True)
    opened.manager.cleanup_resources()


def test_from_its_first_cell_to_the_kernels_shutdown(notebook: Notebook) -> None:
    """A cell's exception, exit or interrupt ends nothing; a second init does, with a notice; shutdown is a good end."""
    assert notebook.begin().text == ""
    failed = notebook.cell("run.log({'a': 2.0}, step=2)\n1 / 0")
    assert (failed.status, failed.error) == ("error", "ZeroDivisionError")
    left = notebook.cell("import sys\nsys.exit(3)")
    assert left.error == "SystemExit"

    # Again and again: an interrupt between the last instruction and a long sleep would wait for its end.
    sleeps = "import time\nprint('sleeps', flush=True)\nwhile True: time.sleep(0.01)"
    interrupt(notebook, f"run.log({{'a': 3.0}}, step=3)\n{sleeps}")
    assert notebook.cell("run.log({'a': 4.0}, step=4)\nrunwire.current_run() is run").data["text/plain"] == "True"
    assert notebook.endings() == []

    second = notebook.cell("second = runwire.init(name='second')\nsecond.log({'a': 5.0}, step=5)")
    assert "is finished, because a new one begins." in second.text
    assert "runwire: <b>bold</b>" in second.text
    assert notebook.endings() == [("finished", None)]

    notebook.cell("raise ValueError('the last cell')")
    notebook.cell("sys.exit(3)")
    notebook.manager.shutdown_kernel()
    assert notebook.endings() == [("finished", None), ("finished", None)]
    assert points(read_topic(notebook.topic)) == [("a", step, float(step)) for step in range(1, 6)]
    assert notebook.journals() == []


def interrupt(notebook: Notebook, code: str) -> None:
    """Run a cell, and press stop as soon as it prints something."""
    stopped = False

    def stop(message: dict[str, Any]) -> None:
        nonlocal stopped
        if message["msg_type"] == "stream" and not stopped:
            stopped = True
            notebook.manager.interrupt_kernel()

    reply = notebook.client.execute_interactive(code, timeout=CELL_TIMEOUT_SECONDS, output_hook=stop)
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_run_shows_itself_and_lives_between_cells(notebook: Notebook) -> None:
    """Name, id, state, how to look at it, escaped; heartbeats while idle; a killed kernel's rows come later."""
    notebook.cell("import runwire, runwire._sender\nrunwire._sender.HEARTBEAT_INTERVAL_SECONDS = 0.2")
    notebook.begin()
    shown = notebook.cell("run").data
    html = shown["text/html"]
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "<b>" not in html
    assert "running" in html
    assert "runwire show " in html
    assert shown["text/plain"].startswith("<runwire.Run <b>bold</b> (")

    def beats() -> list[Heartbeat]:
        return of_kind(read_topic(notebook.topic), Heartbeat)

    before = len(beats())
    wait_until(lambda: len(beats()) >= before + 3, what="three heartbeats of an idle notebook")
    assert {beat.next_in_seconds for beat in beats()} == {0.2}

    notebook.manager.restart_kernel(now=True)
    notebook.client.wait_for_ready(timeout=CELL_TIMEOUT_SECONDS)
    assert len(notebook.journals()) == 1
    notebook.begin()
    assert notebook.cell("run.finish()").data["text/plain"] == "True"
    assert "finished" in notebook.cell("run").data["text/html"]
    ended = of_kind(read_topic(notebook.topic), EmitterEnded)
    assert sorted(event.how for event in ended) == ["crashed", "finished"]
    assert set(points(read_topic(notebook.topic))) == {("a", 1, 1.0)}
    assert notebook.journals() == []
