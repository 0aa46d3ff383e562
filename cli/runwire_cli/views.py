"""Tables of runs, of one run, of a receipt and of any query's result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runwire_cli.output import ROWS_SHOWN_MAX, Grid, cell
from runwire_cli.text import clean, duration, event_phrase, moment, number, pairs, short

if TYPE_CHECKING:
    from runwire_consumer.queries import EmitterReceipt, Receipt

Row = dict[str, Any]

STATE_STYLES = {
    "running": "cyan",
    "finished": "green",
    "preempted": "yellow",
    "lost": "yellow",
    "stuck": "yellow",
    "crashed": "red",
    "failed": "red",
}
# From which width of the terminal on a column is shown.
_RUN_COLUMNS = {
    "run": 0, "id": 0, "project": 120, "state": 0, "started": 70, "took": 140, "points": 160, "commit": 170,
    "params": 100, "best": 0, "last": 130,
}  # fmt: skip
_RUN_DROP = ("commit", "points", "took", "last", "project", "params", "started", "best")
EVENTS_SHOWN_MAX = 15
COMMIT_CHARACTERS = 8
_AUTOMATIC = ("system/", "time/")


def runs_table(rows: Sequence[Row], now: datetime, width: int) -> Grid:
    """A line a run, with as many columns as fit; of the parameters those in which the runs differ come first."""
    columns = [name for name, width_min in _RUN_COLUMNS.items() if width >= width_min]
    drop = [name for name in _RUN_DROP if name in columns]
    table = Grid(*columns, right=("took", "points"), wrap=("run", "params", "best", "last"), drop=drop)
    differing = differing_keys(row["params"] for row in rows)
    for row in rows:
        params = {key: row["params"][key] for key in (*differing, *row["params"]) if key in row["params"]}
        cells = {
            "run": cell(short(row["name"], 32), "bold"),
            "id": cell(row["run_id"], "dim"),
            "project": cell(short(row["project"], 24)),
            "state": cell(row["state"], STATE_STYLES.get(row["state"], "")),
            "started": cell(moment(row["started_at"], now)),
            "took": cell(duration(row["duration_seconds"])),
            "points": cell(number(row["points"])),
            "commit": cell(_commit(row)),
            "params": cell(pairs(params)),
            "best": cell(pairs(row["best"])),
            "last": cell(pairs({key: row["last"][key] for key in _own_first(row["last"]) if key not in row["best"]})),
        }
        table.add_row(*(cells[name] for name in columns))
    return table


def result_table(columns: Sequence[str], rows: Sequence[Row]) -> Grid:
    """Any query's result; numbers stand right."""
    numeric = [name for name in columns if rows and isinstance(rows[0][name], (int, float))]
    table = Grid(*columns, right=numeric, wrap=None)
    for row in rows[:ROWS_SHOWN_MAX]:
        table.add_row(*(cell(_value(row[name])) for name in columns))
    return table


def run_view(run: Row, receipt: Receipt, now: datetime) -> RenderableType:
    """Everything about one run, section by section; empty sections are left out."""
    sections = [
        _facts(run, now),
        _params(run),
        _metrics(run, now),
        _attempts(run, now),
        _emitters(run, now),
        _alerts(run, now),
        _events(run, now),
    ]
    shown: list[RenderableType] = []
    for section in sections:
        if section is not None:
            shown += [section, Text()]
    return Group(*shown, Text(receipt_line(receipt), style=verdict_style(receipt.verdict)))


def receipt_table(receipt: Receipt) -> Grid:
    """A line an emitter: what became of its rows."""
    counts = ("sent", "stored", "dead", "lost", "missing", "twice")
    columns = ("rank", "attempt", "role", "ended", *counts, "verdict", "emitter")
    # Whose row it is, rank and attempt say; --json prints the emitters' ids at any width.
    table = Grid(*columns, right=("rank", "attempt", *counts), drop=("emitter", "role", "ended", "verdict"))
    for emitter in receipt.emitters:
        verdict = "faulty" if emitter.faulty else "open" if emitter.open else "complete"
        table.add_row(
            cell(emitter.rank),
            cell("" if emitter.attempt is None else emitter.attempt),
            cell(emitter.role),
            cell(emitter.ended or "-"),
            cell("open" if emitter.sent is None else number(emitter.sent)),
            *(cell(number(getattr(emitter, name))) for name in counts[1:]),
            cell(verdict, verdict_style(verdict)),
            cell(emitter.emitter_id, "dim"),
        )
    return table


def receipt_line(receipt: Receipt) -> str:
    """The receipt of the whole run in one sentence."""
    totals = {name: _total(receipt.emitters, name) for name in ("stored", "dead", "lost", "missing", "twice")}
    sent = sum(emitter.sent or 0 for emitter in receipt.emitters)
    still = sum(emitter.open for emitter in receipt.emitters)
    equal = "=" if not still and sent == totals["stored"] else "/"
    parts = [f"sent {sent:,} {equal} stored {totals['stored']:,}"]
    if still:
        parts = [f"stored {totals['stored']:,} so far", f"{still} of {len(receipt.emitters)} emitters open"]
    parts += [f"{name} {totals[name]:,}" for name in ("dead", "lost", "missing", "twice")]
    if receipt.ranks_unseen:
        parts.append(f"never heard of rank {', '.join(map(str, receipt.ranks_unseen[:10]))}")
    return f"{clean(receipt.name)}: {receipt.verdict}: {', '.join(parts)}"


def _facts(run: Row, now: datetime) -> Table:
    dirty = {True: " with uncommitted changes", False: ""}.get(run["dirty"], "")
    world = f"{run['ranks']} of {run['world_size']}" if run["world_size"] else str(run["ranks"])
    share = run["tracking_share"]
    facts: dict[str, object] = {
        "id": run["run_id"],
        "project": run["project"],
        "group": run["group"],
        "user": run["user"],
        "tags": ", ".join(run["tags"] or ()),
        "notes": run["notes"],
        "state": f"{run['state']}" + (f": {run['state_reason']}" if run["state_reason"] else ""),
        "started": moment(run["started_at"], now),
        "ended": moment(run["ended_at"], now),
        "took": duration(run["duration_seconds"]),
        "commit": f"{run['commit']}{dirty}" if run["commit"] else None,
        "branch": run["branch"],
        "remote": run["remote"],
        "host": run["host"],
        "command": " ".join(run["command"] or ()),
        "ranks": world,
        "attempts": run["attempts"],
        "points": number(run["points"]),
        "reduced": "; ".join(f"{moment(one['time'], now)}: {one['reason']}" for one in run["removals"]),
        "tracking": None if not isinstance(share, float) else f"{share:.2%} of the time",
    }
    table = Table(title=Text(clean(run["name"])), title_style="bold", title_justify="left", box=None, show_header=False)
    for name, value in facts.items():
        if value not in {None, ""}:
            style = STATE_STYLES.get(run["state"], "") if name == "state" else ""
            table.add_row(cell(name, "dim"), cell(value, style))
    return table


def _params(run: Row) -> Grid | None:
    if not run["params"]:
        return None
    table = Grid("parameter", "value", "type", title="parameters", wrap=("parameter",), prose=("value",))
    for key, value in run["params"].items():
        table.add_row(cell(key), cell("" if value is None else value), cell(run["param_types"].get(key, ""), "dim"))
    return table


def _metrics(run: Row, now: datetime) -> Grid | None:
    if not run["metrics"]:
        return None
    columns = ("metric", "last", "best", "step", "ranks", "changed")
    table = Grid(
        *columns, title="metrics", right=("last", "best", "step"), prose=("metric",), drop=("ranks", "changed")
    )
    lines = {line["metric"]: line for line in run["metrics"]}
    for name in _own_first(lines):
        line = lines[name]
        table.add_row(
            cell(name),
            cell(number(run["last"].get(name, ""))),
            cell(number(run["best"].get(name, ""))),
            cell(number(line["last_step"])),
            cell(line["ranks"]),
            cell(moment(line["last_time"], now), "dim"),
        )
    return table


def _attempts(run: Row, now: datetime) -> Grid | None:
    if len(run["attempt_list"]) < 2:  # noqa: PLR2004 - one attempt is no news
        return None
    table = Grid("attempt", "started", "resumed from step", "ranks", "restart", title="attempts", drop=("restart",))
    for line in run["attempt_list"]:
        resumed = "" if line["resumed_from_step"] is None else number(line["resumed_from_step"])
        table.add_row(
            cell(line["attempt"]),
            cell(moment(line["started_at"], now)),
            cell(resumed),
            cell(f"{line['ranks']} of {line['world_size']}"),
            cell(line["restart_count"]),
        )
    return table


def _emitters(run: Row, now: datetime) -> Grid | None:
    if not run["emitters"]:
        return None
    columns = ("rank", "attempt", "role", "started", "ended", "last sign of life", "error")
    table = Grid(*columns, title="ranks", prose=("error",), drop=("role", "started"))
    for line in run["emitters"]:
        style = STATE_STYLES.get(line["ended"] or "running", "")
        table.add_row(
            cell(line["rank"]),
            cell("" if line["attempt"] is None else line["attempt"]),
            cell(line["role"]),
            cell(moment(line["started_at"], now)),
            cell(line["ended"] or "-", style),
            cell(moment(line["seen_at"], now), "dim"),
            cell(short(line["error"] or "", 200), "red"),
        )
    return table


def _alerts(run: Row, now: datetime) -> Grid | None:
    if not run["alerts"]:
        return None
    table = Grid("time", "level", "title", "text", title="alerts", prose=("title", "text"))
    for line in run["alerts"]:
        table.add_row(
            cell(moment(line["time"], now), "dim"),
            cell(line["level"]),
            cell(short(line["title"])),
            cell(short(line["text"], 200)),
        )
    return table


def _events(run: Row, now: datetime) -> Grid | None:
    if not run["events"]:
        return None
    # The units of what is measured anyway, dozens at once, would stand for all that happened.
    told = [line for line in run["events"] if not (line["type"] == "MetricDefined" and _is_automatic(line["body"]))]
    newest = told[-EVENTS_SHOWN_MAX:]
    title = "events" if len(newest) == len(told) else f"last {len(newest)} events"
    table = Grid("time", "rank", "attempt", "event", "what", title=title, prose=("what",))
    for line in newest:
        table.add_row(
            cell(moment(line["time"], now), "dim"),
            cell(line["rank"]),
            cell("" if line["attempt"] is None else line["attempt"]),
            cell(line["type"]),
            cell(short(event_phrase(line["type"], line["body"]), 100), "dim"),
        )
    return table


def _is_automatic(body: str) -> bool:
    return any(f'"{prefix}' in body for prefix in _AUTOMATIC)


def _own_first(metrics: Iterable[str]) -> list[str]:
    """What the training logged stands before what is measured anyway."""
    return sorted(metrics, key=lambda metric: metric.startswith(_AUTOMATIC))


def _commit(row: Row) -> str:
    if not row["commit"]:
        return ""
    return str(row["commit"])[:COMMIT_CHARACTERS] + ("+" if row["dirty"] else "")


def differing_keys(maps: Iterable[dict[str, Any]]) -> list[str]:
    """Keys whose values aren't the same in all maps that have them."""
    seen: dict[str, set[str]] = {}
    for params in maps:
        for key, value in params.items():
            seen.setdefault(key, set()).add(str(value))
    return [key for key, values in seen.items() if len(values) > 1]


def _total(emitters: Iterable[EmitterReceipt], name: str) -> int:
    return sum(int(getattr(emitter, name)) for emitter in emitters)


def verdict_style(verdict: str) -> str:
    """The colour of complete, open and faulty."""
    return {"complete": "green", "open": "yellow", "faulty": "bold red"}[verdict]


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
