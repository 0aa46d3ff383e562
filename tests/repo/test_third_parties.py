"""A third-party system lives where its name says: replacing one touches the modules listed here, no others."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from tests.repo.files import ROOTS, python_files, tree

CONSUMER = "consumer/runwire_consumer/"
CLI = "cli/runwire_cli/"

# Imported name -> the modules (or folders, with a slash at the end) that may import it.
HOMES: dict[str, tuple[str, ...]] = {
    "IPython": ("producer/runwire/_magic.py",),
    "aiokafka": (
        "schemas/runwire_schemas/brokers.py",
        "producer/runwire/_kafka.py",
        f"{CONSUMER}doctor/broker.py",
        f"{CONSUMER}sources/kafka.py",
        f"{CONSUMER}sources/records.py",
        f"{CONSUMER}sources/topic_facts.py",
    ),
    "aiomqtt": ("producer/runwire/_mqtt.py", f"{CONSUMER}inlet.py"),
    # The demo and the shell open a file as anybody would: it is plain DuckDB.
    "duckdb": (CONSUMER, f"{CLI}demo.py", f"{CLI}shell.py"),
    "fastavro": ("schemas/runwire_schemas/",),
    "numpy": ("schemas/runwire_schemas/", "producer/runwire/", CONSUMER, CLI),
    "pandas": ("producer/runwire/_query.py",),
    "paho": ("producer/runwire/_mqtt.py", f"{CONSUMER}inlet.py"),
    "polars": ("producer/runwire/_query.py",),
    "psutil": ("producer/runwire/_system_host.py",),
    "pynvml": ("producer/runwire/_system_gpus.py",),
    "prometheus_client": (
        f"{CONSUMER}bridge_metrics.py",
        f"{CONSUMER}exposition.py",
        f"{CONSUMER}gauges.py",
        f"{CONSUMER}http.py",
        f"{CONSUMER}notifying.py",
        f"{CONSUMER}room.py",
        f"{CONSUMER}self_metrics.py",
    ),
    "pyarrow": (CONSUMER, "producer/runwire/_query.py"),
    "rich": (CLI,),
    "h11": (f"{CONSUMER}connections.py",),
    "starlette": (
        f"{CONSUMER}answers.py",
        f"{CONSUMER}guard.py",
        f"{CONSUMER}http.py",
        f"{CONSUMER}login.py",
        f"{CONSUMER}page/routes.py",
        f"{CONSUMER}pages.py",
    ),
    "typer": (CLI,),
    "uvicorn": (f"{CONSUMER}connections.py", f"{CONSUMER}http.py"),
}
OURS = {"runwire_schemas", "runwire", "runwire_consumer", "runwire_cli"}


def third_parties(name: str) -> Iterator[tuple[int, str]]:
    """Yield (line, imported distribution's top name) of each import of a file that is not ours."""
    for node in ast.walk(tree(name)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in OURS:
                yield node.lineno, top


def test_each_third_party_stays_at_home() -> None:
    """Every import of a library stands in a module that may know it."""
    astray = [
        f"{name}:{line} imports {top}"
        for name in python_files(*ROOTS)
        for line, top in third_parties(name)
        if not any(name == home or (home.endswith("/") and name.startswith(home)) for home in HOMES.get(top, ()))
    ]
    assert astray == []


def test_no_home_stands_empty() -> None:
    """The list above holds nothing that no module imports."""
    imported = {top for name in python_files(*ROOTS) for _, top in third_parties(name)}
    assert set(HOMES) - imported == set()
