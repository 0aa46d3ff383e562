"""The public face is one table: names, arguments, types and defaults, docstrings, and what importing it costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import runwire
import runwire.testing
from tests.producer import typed_sample

HEAVY = (
    "numpy", "aiokafka", "duckdb", "asyncio", "fastavro", "multiprocessing", "concurrent", "subprocess", "mmap",
    "psutil", "pynvml", "ctypes",
)  # fmt: skip

# Each function by what it takes and returns; a new one, or a new argument, takes its place here and in typed_sample.py.
FACE: dict[str, tuple[str, ...]] = {
    "init": (
        "project: str | None = None",
        "*, params: object = None",
        "*, config: object = None",
        "*, name: str | None = None",
        "*, group: str | None = None",
        "*, tags: Sequence[str] | None = None",
        "*, notes: str | None = None",
        "*, user: str | None = None",
        "*, run_id: str | None = None",
        "*, resume: bool | str | None = None",
        "*, role: str = 'train'",
        "*, resumed_from_step: int | None = None",
        "*, forked_from: str | None = None",
        "*, url: str | None = None",
        "*, home: str | os.PathLike[str] | None = None",
        "*, mode: str | None = None",
        "*, auto_metrics: bool | None = None",
        "*, sender: str | None = None",
        "*, fsync: str | None = None",
        "-> Run",
    ),
    "current_run": ("-> Run | None",),
    "load_ipython_extension": ("ipython: Any", "-> None"),
    "query": ("sql: str", "params: Mapping[str, object] | Sequence[object] | None = None", "-> Query"),
    "run": ("run: str", "-> StoredRun"),
    "runs": ("project: str | None = None", "-> Query"),
    "Query.arrow": ("-> pa.Table",),
    "Query.pandas": ("-> pd.DataFrame",),
    "Query.polars": ("-> pl.DataFrame",),
    "Query.rows": ("-> list[dict[str, Any]]",),
    "Run.curve": ("metric: str", "-> Query"),
    "StoredRun.curve": ("metric: str", "-> Query"),
    "Run.log": ("metrics: Mapping[str, Any]", "*, step: int | None = None", "-> None"),
    "Run.log_params": ("params: object", "-> None"),
    "Run.define": ("metric: str", "*, unit: str | None = None", "*, best: str | None = None", "-> None"),
    "Run.alert": (
        "title: str",
        "text: str = ''",
        "*, level: str = 'warning'",
        "*, step: int | None = None",
        "-> None",
    ),
    "Run.finish": (
        "status: str | None = None",
        "*, exit_code: int | None = None",
        "*, error: str | None = None",
        "-> bool",
    ),
    "Run.progress": ("*, expect_next_in: float | EllipsisType | None = Ellipsis", "-> None"),
    "Run.time": ("name: str", "-> Section"),
    "Run.fail": ("error: BaseException", "-> bool"),
    "Run.step": ("-> int",),
    "Run.__enter__": ("-> Self",),
    "Run.__exit__": (
        "kind: type[BaseException] | None",
        "error: BaseException | None",
        "trace: TracebackType | None",
        "-> None",
    ),
    "testing.capture": ("-> Iterator[Captured]",),
    "testing.Captured.messages": ("-> list[Message]",),
    "testing.Captured.events": ("-> list[Event]",),
    "testing.Captured.points": ("-> list[tuple[str, int, float]]",),
    "testing.Captured.fail_next": ("*errors: Exception", "-> None"),
}
# Of the module: the same calls of the current run.
OF_THE_CURRENT_RUN = ("alert", "define", "finish", "log", "log_params", "progress", "time")
ATTRIBUTES = ("id", "name", "project", "rank", "url")
ERRORS: dict[str, tuple[str, ...]] = {
    "JournalError": ("RunwireError",),
    "QueryError": ("RunwireError",),
    "ServerError": ("RunwireError",),
    "RunwireError": ("Exception",),
    "SettingsError": ("RunwireError",),
    "TransportError": ("RunwireError",),
    "UsageError": ("RunwireError",),
    "UsageTypeError": ("UsageError", "TypeError"),
    "UsageValueError": ("UsageError", "ValueError"),
}
# Between our own modules, not in the documentation.
INTERNAL = {
    "accompany", "after_fork_in_child", "calls", "end_by_signal", "has_emitter", "highest_step", "log_automatic",
    "log_flat_params",
}  # fmt: skip


def function(name: str) -> Callable[..., Any]:
    """What stands behind a name of the table."""
    found: Any = runwire
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    return cast("Callable[..., Any]", inspect.unwrap(getattr(found, "fget", found)))


def face(name: str) -> tuple[str, ...]:
    """Its arguments and what it returns, in the table's words."""
    signature = inspect.signature(function(name))
    lines = []
    for argument in signature.parameters.values():
        star = (
            "*, " if argument.kind is argument.KEYWORD_ONLY else "*" if argument.kind is argument.VAR_POSITIONAL else ""
        )
        default = "" if argument.default is argument.empty else f" = {argument.default!r}"
        if argument.name != "self":
            lines.append(f"{star}{argument.name}: {argument.annotation}{default}")
    return (*lines, f"-> {signature.return_annotation}")


@pytest.mark.parametrize("name", FACE)
def test_arguments_types_and_defaults(name: str) -> None:
    """Nothing a caller relies on changes unseen."""
    assert face(name) == FACE[name]


@pytest.mark.parametrize("name", OF_THE_CURRENT_RUN)
def test_the_module_has_the_runs_calls(name: str) -> None:
    """With the same arguments."""
    assert face(name) == FACE[f"Run.{name}"]


@pytest.mark.parametrize("name", ERRORS)
def test_the_tree_of_errors(name: str) -> None:
    assert tuple(base.__name__ for base in getattr(runwire, name).__bases__) == ERRORS[name]


def test_the_table_is_the_face() -> None:
    """Nothing public is missing from it or from `__all__`, nothing more is in them."""
    functions = {name for name in FACE if "." not in name} | set(OF_THE_CURRENT_RUN)
    public = functions | set(ERRORS) | {"Query", "Run", "StoredRun", "__version__"}
    assert set(runwire.__all__) == public
    assert runwire.__all__ == sorted(public)
    there = {name for name, value in vars(runwire).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert there | {"__version__"} == public
    of_run = {name.partition(".")[2] for name in FACE if name.startswith("Run.")}
    assert {name for name in vars(runwire.Run) if not name.startswith("_")} | {
        "__enter__",
        "__exit__",
    } == of_run | INTERNAL
    of_captured = {name.rpartition(".")[2] for name in FACE if name.startswith("testing.Captured.")}
    captured = runwire.testing.Captured
    assert {name for name in vars(captured) if not name.startswith("_")} - {"url"} == of_captured


@pytest.mark.parametrize("name", [*FACE, *OF_THE_CURRENT_RUN])
def test_docstrings_say_what_a_caller_needs(name: str) -> None:
    """Each argument, what comes back, and errors; a call of the current run points at the run's."""
    text = inspect.getdoc(function(name)) or ""
    assert re.match(r"[A-Z`(].*\.$", text.splitlines()[0]), text
    if name in OF_THE_CURRENT_RUN:
        assert text.startswith(f"`Run.{name}` of the current run")
        return
    if name.startswith("Run.__") or len(FACE[name]) == 1:
        return  # the language says what a context manager takes; a noun says what it gives
    names = re.findall(r"(?:^|\s|\*)(\w+):", " ".join(line.partition("=")[0] for line in FACE[name][:-1]))
    sections: dict[str, str] = dict(re.findall(r"(?ms)^(\w+):\n(.*?)(?=^\w|\Z)", text))
    if name != "testing.Captured.fail_next":  # its one argument is in its only sentence
        assert re.findall(r"(?m)^    (\w+): ", sections.get("Args", "")) == names
        assert ("Returns" in sections) == (FACE[name][-1] != "-> None")
        assert "Raises" in sections or name == "Run.fail"


@pytest.mark.parametrize("name", [*ERRORS, "Run"])
def test_classes_say_what_they_are(name: str) -> None:
    text = inspect.getdoc(getattr(runwire, name)) or ""
    assert text.strip().endswith(".")
    if name == "Run":
        assert tuple(re.findall(r"(?m)^    (\w+): ", text)) == ATTRIBUTES


def test_a_typed_program_uses_all_of_it(tmp_path: Path) -> None:
    """`make check` has looked at its types; here it runs."""
    source = Path(typed_sample.__file__).read_text()
    calls = [name.rpartition(".")[2] for name in (*FACE, *OF_THE_CURRENT_RUN) if "__" not in name]
    assert [name for name in calls if not re.search(rf"\b{name}\b", source)] == []
    assert [name for name in (*ERRORS, *ATTRIBUTES, "__version__") if name not in source] == []
    typed_sample.main(tmp_path)


def test_importing_costs_nothing_that_is_not_needed() -> None:
    """`import runwire` loads no number crunching, no network and no event loop."""
    program = f"import sys, runwire; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
