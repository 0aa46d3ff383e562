"""Runwire: what a training run tells the world while it runs.

import runwire
with runwire.init(project="digits", params={"lr": 3e-4}) as run:
run.define("val/acc", best="max")
for step, batch in enumerate(loader):
run.log({"train/loss": train(batch)}, step=step)
"""

from runwire._errors import (
    JournalError,
    RunwireError,
    SettingsError,
    TransportError,
    UsageError,
    UsageTypeError,
    UsageValueError,
)
from runwire._module import alert, define, finish, log, log_params, progress, time
from runwire._run import Run
from runwire._start import current_run, init
from runwire._version import __version__

__all__ = [
    "JournalError",
    "Run",
    "RunwireError",
    "SettingsError",
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
    "log",
    "log_params",
    "progress",
    "time",
]
