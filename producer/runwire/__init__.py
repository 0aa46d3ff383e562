"""Runwire: what a training run tells the world while it runs.

import runwire
with runwire.init(project="digits", params={"lr": 3e-4}) as run:
run.define("val/acc", best="max")
for step, batch in enumerate(loader):
run.log({"train/loss": train(batch)}, step=step)
"""

from runwire._errors import (
    JournalError,
    QueryError,
    RunwireError,
    ServerError,
    SettingsError,
    TransportError,
    UsageError,
    UsageTypeError,
    UsageValueError,
)
from runwire._magic import load_ipython_extension
from runwire._module import alert, define, finish, log, log_params, progress, time
from runwire._query import Query, StoredRun, query, run, runs
from runwire._run import Run
from runwire._start import current_run, init
from runwire._version import __version__

__all__ = [
    "JournalError",
    "Query",
    "QueryError",
    "Run",
    "RunwireError",
    "ServerError",
    "SettingsError",
    "StoredRun",
    "TransportError",
    "UsageError",
    "UsageTypeError",
    "UsageValueError",
    "__version__",
    "alert",
    "current_run",
    "define",
    "finish",
    "init",
    "load_ipython_extension",
    "log",
    "log_params",
    "progress",
    "query",
    "run",
    "runs",
    "time",
]
