"""`runwire snapshot`: has the consumer that runs take one, else takes it of the file; lists those there are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from runwire_cli.client import local_consumer, named_consumer
from runwire_cli.output import Form, Grid, Output, cell
from runwire_cli.settings import CommandSettings
from runwire_consumer.snapshot_files import as_json, listed


def take(settings: CommandSettings, output: Output) -> int:
    """Take a snapshot: by the consumer that runs, else of the file itself.

    Raises:
        CommandError: The consumer refuses, or there is no home.
        StoreError: No snapshot could be taken.
    """
    began = time.monotonic()
    taken = taken_now(settings, output)
    if output.form is Form.JSON:
        output.json(taken)
    else:
        output.console.print(
            f"Snapshot of {taken['taken_at']}: {taken['path']}, {taken['bytes'] / 2**20:,.1f} MiB "
            f"in {time.monotonic() - began:.1f} s",
            soft_wrap=True,
        )
    return 0


def taken_now(settings: CommandSettings, output: Output) -> Mapping[str, Any]:
    """A snapshot, as JSON tells it, by the consumer that runs, else of the file itself.

    Raises:
        CommandError: The consumer refuses, or there is no home.
        StoreError: No snapshot could be taken.
    """
    consumer = named_consumer(settings, settings.server) if settings.server else local_consumer(settings)
    if consumer is not None:
        with contextlib.closing(consumer):
            return consumer.order("snapshots", {})
    from runwire_cli.backup import take_of_file  # noqa: PLC0415 - the engine: only without a consumer

    return as_json(take_of_file(settings, output.say))


def show(settings: CommandSettings, output: Output) -> int:
    """List the snapshots, newest first."""
    found = listed(settings.home.snapshots)
    if output.form is Form.JSON:
        output.json([as_json(one) for one in found])
        return 0
    if not found:
        output.say(f"There are no snapshots in {settings.home.snapshots}: take one with `runwire snapshot`.")
        return 0
    grid = Grid("snapshot", "taken at", "MiB", right=["MiB"])
    for one in found:
        grid.add_row(cell(one.path.name), cell(one.moment), cell(f"{one.bytes / 2**20:,.1f}"))
    output.console.print(grid)
    return 0
