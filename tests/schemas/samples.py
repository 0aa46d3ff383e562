"""One event of every type, with every field set and each odd value somewhere: what tests and golden files use."""

from __future__ import annotations

from runwire_schemas import events

RUN_ID = "abcdefghij234567"
EMITTER_ID = "0123456789abcdef" * 2
TIME = 1_763_900_000_123_456

_IDENT = (RUN_ID, EMITTER_ID, 3)
_RECORD = (*_IDENT, 7, TIME)

SAMPLES: tuple[events.Event, ...] = (
    events.MetricBatch(
        *_IDENT,
        first_seq=41,
        blocks=(
            events.Block(
                ("train/loss", "lr", "metrics/mAP50(B)"),
                [0, -1, 2**62],
                [TIME, TIME + 1, 0],
                [0.5, -0.0, 5e-324, 1e308, float("inf"), float("-inf"), 1.0, 2.0**53 + 1, 3.0],
            ),
            events.Block(("läuft\0\u202e", ""), [5], [TIME], [1.0, 2.0]),
            events.Block((), [6], [TIME], []),
        ),
    ),
    events.MetricBatch(*_IDENT, first_seq=0, blocks=()),
    events.RunStarted(
        *_RECORD,
        project="digits",
        name="brave-otter-7",
        attempt="torchrun:job:1",
        host=events.Host("node-1", "Linux 6.1", "3.11.7", 2, 24 * 2**30, ["H200"]),
        group="sweep",
        user="ada",
        tags=["base", "ünïcode"],
        notes="first",
        role="eval",
        restart_count=1,
        resumed_from_step=100,
        forked_from="abcdefghij234567@50",
        launched_by="torchrun",
        launch_id="job",
        world_size=8,
        local_rank=3,
        pid=4711,
        git=events.Git("a" * 40, "main", "https://example.org/r.git", dirty=True),
        command=["python", "train.py"],
        packages={"numpy": "2.0"},
        sdk_version="0.1.0",
    ),
    events.RunStarted(*_RECORD, project="p", name="n", attempt="t", host=events.Host("h")),
    events.ParamsLogged(*_RECORD, params={"lr": 3e-4, "layers": 12, "amp": True, "note": "x", "none": None}),
    events.MetricDefined(*_RECORD, metric="val/acc", unit="%", best="max"),
    events.ArtifactLogged(
        *_RECORD,
        name="best",
        uri="file:///best.pt",
        kind="model",
        size_bytes=9,
        sha256="0" * 64,
        metadata={"k": "v"},
    ),
    events.TextLogged(*_RECORD, key="sample", text="hello", step=3),
    events.AlertRaised(*_RECORD, title="loss is NaN", text="at step 3", level="error", step=3),
    events.RowsLost(*_RECORD, first_seq=1, count=5, reason="the journal's cap"),
    events.RunEdited(*_RECORD, name="better", group=None, tags=["a"], notes=None),
    events.RunDeleted(*_RECORD, reason="a mistake"),
    events.RunEnded(
        *_RECORD,
        status="failed",
        exit_code=1,
        error="ValueError: no",
        cost=events.Cost(30.0, 0.02, 0.1, 10, 100, 1),
    ),
    events.Heartbeat(
        *_IDENT, TIME, next_in_seconds=5.0, next_seq=42, journal_rows=3, journal_bytes=8_388_608, overdue_seconds=1.5
    ),
    events.EmitterEnded(*_IDENT, TIME, next_seq=42, how="crashed"),
)
