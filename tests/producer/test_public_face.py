"""The public face is one list: names, docstrings, and what importing it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import runwire

HEAVY = (
    "numpy",
    "aiokafka",
    "duckdb",
    "asyncio",
    "fastavro",
    "multiprocessing",
    "concurrent",
    "subprocess",
    "mmap",
    "psutil",
    "pynvml",
    "ctypes",
)
PUBLIC = [
    "JournalError", "Run", "RunwireError", "SettingsError", "TransportError", "UsageError", "UsageTypeError",
    "UsageValueError", "__version__", "alert", "current_run", "define", "finish", "init", "log", "log_params",
    "progress", "time",
]  # fmt: skip
METHODS = {"alert", "define", "fail", "finish", "log", "log_params", "progress", "step", "time"}
# Between our own modules, not in the documentation.
INTERNAL = {
    "accompany",
    "after_fork_in_child",
    "calls",
    "end_by_signal",
    "has_emitter",
    "highest_step",
    "log_automatic",
    "log_flat_params",
}


def test_the_list_is_the_face() -> None:
    """Nothing public is missing from `__all__`, nothing more is in it."""
    assert runwire.__all__ == PUBLIC
    there = {name for name, value in vars(runwire).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert there | {"__version__"} == set(PUBLIC)
    assert {name for name in vars(runwire.Run) if not name.startswith("_")} == METHODS | INTERNAL


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_public_name_says_what_it_is(name: str) -> None:
    value = getattr(runwire, name)
    assert (inspect.getdoc(value) or "").strip().endswith((".", "log."))


@pytest.mark.parametrize("name", ["init", "log", "log_params", "define", "alert", "progress", "finish"])
def test_docstrings_name_every_argument_and_the_errors(name: str) -> None:
    """Of the run's methods and `init`; the module's functions point at the methods and have the same arguments."""
    method = getattr(runwire.Run, name, None) or getattr(runwire, name)
    text = inspect.getdoc(method) or ""
    for argument in inspect.signature(method).parameters:
        assert argument == "self" or f"{argument}: " in text
    assert "Raises:" in text
    if method is not getattr(runwire, name):
        own = list(inspect.signature(method).parameters.values())[1:]
        assert own == list(inspect.signature(getattr(runwire, name)).parameters.values())


def test_importing_costs_nothing_that_is_not_needed() -> None:
    """`import runwire` loads no number crunching, no network and no event loop."""
    program = f"import sys, runwire; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
