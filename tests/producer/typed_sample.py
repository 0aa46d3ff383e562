"""A program that uses all of the public face; mypy, strict, says that each type is what a caller expects."""

from __future__ import annotations

import argparse
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import runwire
from runwire.testing import Captured, capture


@dataclass
class Config:
    """Parameters as many programs keep them."""

    lr: float = 3e-4


def main(home: Path) -> None:
    """Everything once."""
    with capture() as captured:
        assert_type(captured, Captured)
        track(captured.url, home)
        assert_type(captured.points(), list[tuple[str, int, float]])
        logged = [point for point in captured.points() if point[0] in {"loss", "nested/a"}]
        assert logged == [("loss", 0, 0.5), ("nested/a", 3, 1.0), ("loss", 7, 0.25)]
        assert [type(event).__name__ for event in captured.events()].count("RunEnded") == 2
        assert len(captured.messages) >= len(captured.points())
    errors(home)
    assert_type(runwire.__version__, str)


def track(url: str, home: Path) -> None:
    """Two runs, one by its methods, one by the module's calls."""
    with runwire.init(
        "typed",
        params=Config(),
        name="first",
        group="group",
        tags=["base", "small"],
        notes="notes",
        user="somebody",
        run_id="by-hand",
        role="train",
        resumed_from_step=None,
        forked_from=None,
        url=url,
        home=home,
        mode="on",
        resume=None,
        auto_metrics=False,
        sender="thread",
        fsync="none",
    ) as run:
        assert_type(run, runwire.Run)
        assert_type((run.id, run.name, run.project, run.rank, run.url), tuple[str, str, str, int, str])
        assert_type(runwire.current_run(), runwire.Run | None)
        run.log_params({"depth": 3})
        run.log_params(argparse.Namespace(width=4))
        run.define("loss", unit="nats", best="min")
        run.log({"loss": 0.5})
        metrics: Mapping[str, object] = types.MappingProxyType({"nested": {"a": 1}})
        run.log(metrics, step=3)
        run.step = 7
        assert_type(run.step, int)
        run.log({"loss": 0.25})
        run.alert("diverged", "loss is NaN", level="error", step=3)
        run.progress(expect_next_in=60.0)
        run.progress(expect_next_in=None)
        with run.time("data"):
            pass
    assert_type(run.finish("finished", exit_code=0, error=None), bool)
    second = runwire.init("typed", config={"lr": 0.1}, url=url, home=str(home))
    runwire.log({})
    runwire.log_params({"depth": 3})
    runwire.define("loss", best="min")
    runwire.alert("look")
    runwire.progress()
    with runwire.time("data"):
        pass
    assert_type(second.fail(ValueError("why")), bool)
    assert_type(runwire.finish("failed", exit_code=1, error="why"), bool)


def reading(run: runwire.Run, shell: object) -> None:
    """Who reads has data frames."""
    asked = runwire.query("SELECT $a AS a", {"a": 1})
    assert_type(asked, runwire.Query)
    assert_type(runwire.query("SELECT ?", [1]).rows(), list[dict[str, Any]])
    try:
        asked.arrow()
        asked.pandas()
        asked.polars()
        assert_type(runwire.runs("typed"), runwire.Query)
        assert_type(runwire.run("typed"), runwire.StoredRun)
        assert_type(runwire.run("typed").curve("loss"), runwire.Query)
        assert_type(run.curve("loss"), runwire.Query)
    except (runwire.QueryError, runwire.ServerError) as error:
        print(error)  # noqa: T201 - what a program does with it
    runwire.load_ipython_extension(shell)


def errors(home: Path) -> None:
    """A wrong call's error is ours and Python's; the others are for whoever starts runs or breaks networks."""
    try:
        runwire.init(url="nowhere", home=home)
    except runwire.UsageError as error:
        assert_type((error.argument, error.problem), tuple[str, str])
    except (runwire.SettingsError, runwire.JournalError) as error:
        print(error)  # noqa: T201 - what a program does with it
    with capture() as captured:
        captured.fail_next(runwire.TransportError("away", retriable=True, refused=False))
    for kind in (runwire.UsageTypeError, runwire.UsageValueError):
        assert issubclass(kind, runwire.RunwireError)
        assert issubclass(kind, TypeError | ValueError)
