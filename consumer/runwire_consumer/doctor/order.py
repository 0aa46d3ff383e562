"""The order `doctor` of the HTTP face: what only the running consumer can tell, looked up beside its writer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import duckdb

from runwire_consumer.doctor.audit import audit
from runwire_consumer.errors import ConsumerError, StoreError, first_line
from runwire_consumer.leaving import leaving_if_invalidated


class DoctorOrder:
    """Answers POST /api/doctor: {"deep": bool} gives {"received_at", "answered_at", "version", "trouble", "facts"}.

    Args:
        cursors: Makes a connection of its own to the open database.
        version: Version of this consumer.
        trouble: What keeps the service from following its sources, a sentence; None when nothing does.
    """

    def __init__(
        self, cursors: Callable[[], duckdb.DuckDBPyConnection], version: str, trouble: Callable[[], str | None]
    ) -> None:
        """Nothing runs yet."""
        self._cursors = cursors
        self._version = version
        self._trouble = trouble
        self._running = False
        self._stopped = False

    async def __call__(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Look through the store; one at a time.

        Raises:
            ConsumerError: One is running, or the store can't be read.
        """
        deep = asked.get("deep", False)
        if not isinstance(deep, bool):
            raise ConsumerError("'deep' is true or false.")
        if self._running:
            raise ConsumerError("The store is being looked through already: wait until that is done.")
        received_at = time.time_ns() // 1_000
        self._running = True
        try:
            facts = await asyncio.to_thread(self._audit, deep)
        finally:
            self._running = False
        return {
            "received_at": received_at,
            "answered_at": time.time_ns() // 1_000,
            "version": self._version,
            "trouble": self._trouble(),
            "facts": facts,
        }

    def stop(self) -> None:
        """End the look in progress: the database is about to close."""
        self._stopped = True

    def _audit(self, deep: bool) -> dict[str, Any]:  # noqa: FBT001 - handed to a thread
        try:
            with leaving_if_invalidated(), contextlib.closing(self._cursors()) as cursor:
                return audit(cursor, deep=deep, stopped=lambda: self._stopped).fields()
        except duckdb.Error as error:
            raise StoreError(f"The store can't be looked through: {first_line(error)}") from error
