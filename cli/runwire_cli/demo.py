"""`runwire demo`: real training, live, with a rank killed half-way, and the proof that nothing was lost.

digits ──┬─ run 1: 4 ranks ─┬─ dir: or kafka:// ── consumer process ── DuckDB ── SQL over HTTP ── live view
         └─ run 2: 4 ranks ─┘
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runwire._settings import read_settings
from runwire_cli.client import HttpReader, rows_of
from runwire_cli.demo_ranks import (
    KILLED_RANK,
    WORLD_SIZE,
    DemoError,
    Training,
    ended_with_us,
    last_line,
    prepare,
    start_training,
    variables_of,
    watch,
)
from runwire_cli.live import LiveView, of_group
from runwire_cli.settings import DEFAULT_HOST, DEFAULT_PORT
from runwire_schemas.topics import need_no_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from runwire_cli.live import Query
    from runwire_schemas.topics import Destination

STEPS = 12_000
LEARNING_RATES = (0.02, 0.3)
SETTLE_TIMEOUT_SECONDS = 30.0


@contextmanager
def consumer(home: Path, destination: Destination) -> Iterator[str]:
    """A consumer process of its own for `destination`: yields its address, stops it at the end.

    Raises:
        DemoError: It doesn't come up.
    """
    port = free_port()
    environment = {**os.environ, **variables_of(destination), "RUNWIRE_HOME": str(home), "RUNWIRE_HOST": "127.0.0.1"}
    environment["RUNWIRE_PORT"] = str(port)
    home.mkdir(parents=True, exist_ok=True)
    log = home / "demo-consumer.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "runwire_cli", "up"], env=environment, stdout=file, stderr=file
        )
    address = f"http://127.0.0.1:{port}"
    reader = HttpReader(address, None)
    try:
        wait_for(lambda: process.poll() is not None or not reader.unready(), SETTLE_TIMEOUT_SECONDS)
        if process.poll() is not None:
            raise DemoError(f"The consumer ended with code {process.returncode}: {last_line(log)}")
        if reason := reader.unready():
            raise DemoError(f"The consumer isn't ready after {SETTLE_TIMEOUT_SECONDS:.0f} s: {reason}")
        yield address
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(SETTLE_TIMEOUT_SECONDS)
        process.kill()
        process.wait()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll until it holds: whether it did in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run_demo(url: str | None, *, keep: bool, console: Console) -> None:
    """The whole demo; see the module's docstring.

    Args:
        url: Where the trainers send; by default the home's topic folder.
        keep: Leave the consumer running at the end, until Ctrl-C.
        console: Where it is shown.

    Raises:
        DemoError: It can't go on.
    """
    started = time.monotonic()
    need_no_password(url, "--url")
    settings = read_settings(url=url)
    home, destination = settings.home.create(), settings.destination
    stamp = time.strftime("%m%d-%H%M%S")
    group = f"demo-{stamp}"
    scratch = home.path / group
    trainings = [
        prepare(scratch / f"run-{at}", lr=lr, steps=STEPS, group=group, job=f"{group}-{at}")
        for at, lr in enumerate(LEARNING_RATES, 1)
    ]
    console.print(
        f"Two runs of {WORLD_SIZE} ranks train on scikit-learn's digits and log to [bold]{destination}[/]; "
        f"a consumer in its own process materializes them into [bold]{home.database}[/]."
    )
    with ended_with_us(trainings):
        # The first ranks and the consumer start together: the first curve comes sooner.
        start_training(trainings[0], destination, home.path)
        with consumer(home.path, destination) as address:
            query = rows_of(HttpReader(address, home.token.read_text().strip()))
            view = LiveView(query, of_group(group), ["train/loss", "train/acc"], started=started)
            _train_all(trainings, view, destination, home.path, console)
            settled = wait_for(lambda: _is_settled(query, group), SETTLE_TIMEOUT_SECONDS)
            console.print()
            console.print(_proof(query, trainings[0], settled=settled))
            if keep:
                _keep(address, view, home.path, console)
    _report(home.database, group, console)
    _say_where_next(view, home.path, console)


def _train_all(
    trainings: list[Training], view: LiveView, destination: Destination, home: Path, console: Console
) -> None:
    """The first run is under way; a rank of it is killed half-way, then comes the second run."""
    with Live(view, console=console, refresh_per_second=4, vertical_overflow="visible"), view.following():
        for at, training in enumerate(trainings):
            if at:
                start_training(training, destination, home)
            watch(training, view, kill_at=0.5 if at == 0 else None, destination=destination, home=home)
        wait_for(lambda: view.is_over, SETTLE_TIMEOUT_SECONDS)
    view.refresh()


def _is_settled(query: Query, group: str) -> bool:
    """Whether every emitter of the group has ended and every row of it is accounted for."""
    sql = """
        SELECT count(*) AS emitters, count(*) FILTER (NOT complete) AS open FROM emitters
        WHERE run_id IN (SELECT run_id FROM runs WHERE "group" = $group)
    """
    row = query(sql, {"group": group})[0]
    return bool(row["emitters"] > 2 * WORLD_SIZE and row["open"] == 0)


def _proof(query: Query, training: Training, *, settled: bool) -> str:
    """What the killed rank handed to `log()`, by its own count, against what SQL finds."""
    sql = """
        SELECT count(*) AS stored, count(*) - count(DISTINCT (emitter_id, metric, seq)) AS twice,
               count(DISTINCT emitter_id) AS lives
        FROM metrics
        WHERE "rank" = $rank AND split_part(metric, '/', 1) NOT IN ('system', 'time')  -- these came by themselves
          AND run_id IN (
            SELECT run_id FROM events WHERE type = 'RunStarted' AND (body->>'launch_id') = $job
        )
    """
    row = query(sql, {"rank": KILLED_RANK, "job": f"torchrun:{training.job}"})[0]
    given, returned = training.progress[KILLED_RANK]
    stored, twice = row["stored"], row["twice"]
    # SIGKILL may hit inside log(): that one row was given, and may be kept though log() never returned.
    sent = stored if returned <= stored <= given else returned
    style = "bold green" if sent == stored and not twice and settled else "bold red"
    return (
        f"[{style}]rank {KILLED_RANK} killed -9: sent {sent:,} = stored {stored:,}, "
        f"missing {max(0, sent - stored):,}, twice {twice:,}[/]  (its own count of what log() took, against SQL)"
    )


def _report(database: Path, group: str, console: Console) -> None:
    """What the database file says, with the SQL that asked it."""
    questions = (
        (
            "The runs",
            """SELECT name, state, params['lr'] AS lr, best['val/acc'] AS acc, ranks, points,
       round(duration_seconds, 1) AS seconds
FROM runs WHERE project = 'digits' AND "group" = $1 ORDER BY acc DESC""",
        ),
        (
            "Which code and parameters produced the best model",
            """SELECT name, "commit"[:10] AS "commit", dirty, params, best['val/acc'] AS acc
FROM runs WHERE project = 'digits' AND "group" = $1 ORDER BY acc DESC LIMIT 1""",
        ),
        (
            "What tracking cost, of the time of the ranks",
            """SELECT name, round(100 * tracking_share, 2) AS percent FROM runs WHERE "group" = $1 ORDER BY name""",
        ),
    )
    connection = duckdb.connect(str(database), read_only=True)
    try:
        for title, sql in questions:
            result = connection.execute(sql, [group])
            table = Table(*(column[0] for column in result.description or ()), title_justify="left", title=title)
            for row in result.fetchall():
                table.add_row(*(_cell(value) for value in row))
            console.print()
            console.print(table)
            console.print(Text(sql.replace("$1", f"'{group}'"), style="dim"), soft_wrap=True)
    finally:
        connection.close()


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} = {item}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _say_where_next(view: LiveView, home: Path, console: Console) -> None:
    name = view.shown[-1].row["name"] if view.shown else "NAME"
    program = Path(sys.argv[0]).name
    if shutil.which(program) is None:
        program = sys.argv[0]
    console.print(f"\nLook further (home: {home}):")
    for command in (
        "runs",
        f"show {name}",
        f"verify {name}",
        "sql \"SELECT metric, step, value FROM curves WHERE metric = 'val/acc' LIMIT 5\"",
        "up --open",
    ):
        console.print(f"  {program} {command}", highlight=False, markup=False, soft_wrap=True)
    if view.first_curve_seconds is not None:
        console.print(
            f"\nThe first curve was on the screen {view.first_curve_seconds:.1f} s after the start.", style="dim"
        )
    served = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    console.print(f"\nThe page, once `{program} up --open` runs: {_compared(served, view)}", soft_wrap=True)


def _compared(address: str, view: LiveView) -> str:
    """Where the page shows the demo's runs beside each other."""
    return f"{address}/compare?{'&'.join('run=' + str(shown.row['run_id']) for shown in view.shown)}"


def _keep(address: str, view: LiveView, home: Path, console: Console) -> None:
    console.print("The consumer stays up; Ctrl-C ends it.")
    console.print(f"The page: [bold]{_compared(address, view)}[/] (token: {home / 'token'})", soft_wrap=True)
    with suppress(KeyboardInterrupt):
        signal.pause()
