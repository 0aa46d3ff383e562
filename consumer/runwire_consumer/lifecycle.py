"""What each lifecycle record changes: the emitter it speaks of, and rows of the small tables."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from runwire_consumer.catalog import Emitter
from runwire_consumer.change import Change
from runwire_schemas import events

PROMISE_SECONDS_MIN, PROMISE_SECONDS_MAX = 0.1, 3600.0
OVERDUE_SECONDS_MAX = 1e9
INT_MAX = 2**31 - 1
STEP_MAX = 2**63 - 2  # an attempt starts at the step behind it

# What every record has; the event's row holds it in columns of its own.
_COMMON = ("run_id", "emitter_id", "rank", "seq", "time")


def write_record(change: Change, emitter: Emitter, event: events.Lifecycle) -> None:
    """Write a record that is new to the ledger."""
    key = emitter.emitter_key
    change.add(
        "lifecycle", emitter_key=key, seq=event.seq, type=type(event).__name__, time=event.time, body=to_json(event)
    )
    place = {"emitter_key": key, "seq": event.seq, "time": event.time}
    if isinstance(event, events.RunStarted):
        _write_start(change, emitter, event)
    elif isinstance(event, events.ParamsLogged):
        for name, value in event.params.items():
            text, number, kind = describe_param(value)
            change.add("params", **place, key=name, value=text, number=number, type=kind)
    elif isinstance(event, events.RunEdited):
        tags = None if event.tags is None else list(event.tags)
        change.add("edits", **place, name=event.name, group=event.group, tags=tags, notes=event.notes)
    elif isinstance(event, events.RunDeleted):
        change.deleted.setdefault(emitter.run_key, event.time)
    elif isinstance(event, events.RowsLost):
        end_seq = event.first_seq + event.count
        change.add(
            "losses",
            emitter_key=key,
            first_seq=event.first_seq,
            end_seq=end_seq,
            time=event.time,
            reason=event.reason,
        )
    elif isinstance(event, events.RunEnded):
        _write_end(change, emitter, event)


def write_signal(emitter: Emitter, event: events.Signal) -> None:
    """Take up a sign from outside the sequence; the same twice changes nothing."""
    if isinstance(event, events.Heartbeat):
        promise = event.next_in_seconds if math.isfinite(event.next_in_seconds) else 0.0
        emitter.next_in_seconds = min(max(promise, PROMISE_SECONDS_MIN), PROMISE_SECONDS_MAX)
        overdue = event.overdue_seconds if math.isfinite(event.overdue_seconds) else 0.0
        emitter.overdue_seconds = min(max(overdue, 0.0), OVERDUE_SECONDS_MAX)
        emitter.assigned_seq = max(emitter.assigned_seq, event.next_seq)
        emitter.journal_rows = max(event.journal_rows, 0)
    elif isinstance(event, events.EmitterEnded):
        emitter.next_seq = max(emitter.next_seq or 0, event.next_seq)
        # Its own word stands above what recovery concluded.
        if emitter.how != "finished":
            emitter.how = event.how
            emitter.ended_at = emitter.ended_at if emitter.status else event.time


def describe_param(value: events.Param) -> tuple[str | None, float | None, str]:
    """(text, number or None, type) of a parameter."""
    if value is None:
        return None, None, "null"
    if isinstance(value, bool):
        return str(value).lower(), None, "bool"
    if isinstance(value, int):
        return str(value), float(value), "int"
    if isinstance(value, float):
        return repr(value), value, "float"
    return value, None, "str"


def to_json(event: events.Lifecycle) -> str:
    """The record without what every record has; NaN and infinities are strings, for JSON has none."""
    body = {name: value for name, value in asdict(event).items() if name not in _COMMON}
    return json.dumps(_finite(body))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child) for child in value]
    return value


def _write_start(change: Change, emitter: Emitter, event: events.RunStarted) -> None:
    emitter.role = event.role or emitter.role
    emitter.attempt = event.attempt or emitter.attempt
    emitter.restart_count = event.restart_count
    emitter.started_at = min(emitter.started_at, event.time)  # it is said again when more is known
    resumed = event.resumed_from_step
    emitter.resumed_from_step = None if resumed is None else min(resumed, STEP_MAX)
    emitter.world_size = min(max(event.world_size, 1), INT_MAX)
    git = event.git or events.Git()
    change.add(
        "starts",
        emitter_key=emitter.emitter_key,
        seq=event.seq,
        name=event.name,
        group=event.group,
        user=event.user,
        tags=list(event.tags),
        notes=event.notes,
        forked_from=event.forked_from,
        launched_by=event.launched_by,
        launch_id=event.launch_id,
        local_rank=event.local_rank,
        pid=event.pid,
        host=event.host.name,
        os=event.host.os,
        python=event.host.python,
        cpus=event.host.cpus,
        memory_bytes=event.host.memory_bytes,
        gpus=list(event.host.gpus),
        commit=git.commit,
        branch=git.branch,
        remote=git.remote,
        dirty=git.dirty,
        command=list(event.command),
        packages=list(event.packages.items()),
        sdk_version=event.sdk_version,
    )


def _write_end(change: Change, emitter: Emitter, event: events.RunEnded) -> None:
    emitter.status, emitter.ended_at, emitter.error = event.status, event.time, event.error
    change.add(
        "costs",
        emitter_key=emitter.emitter_key,
        wall_seconds=event.cost.wall_seconds,
        log_seconds=event.cost.log_seconds,
        sender_cpu_seconds=event.cost.sender_cpu_seconds,
        rows_dropped=event.cost.rows_dropped,
    )
