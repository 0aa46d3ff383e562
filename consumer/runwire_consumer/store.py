"""The store: one DuckDB file that takes each batch wholly or not at all, and answers SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import duckdb

from runwire_consumer.database import Database, EngineOptions


class Store:
    """One writer of one file."""

    def __init__(self, database: Database) -> None:
        """Take over an open database; use `open`."""
        self.database = database

    @classmethod
    def open(cls, path: Path, options: EngineOptions | None = None) -> Self:
        """Open the database file; `database.MEMORY` is one without a file.

        Raises:
            StoreLocked: Another process holds it.
            StoreNewer: A newer version wrote it.
            StoreDamaged: It won't open.
        """
        return cls(Database.open(path, options))

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for reading beside the writer; one a thread, the caller closes it."""
        return self.database.cursor()

    def close(self) -> None:
        """Checkpoint, close the file, give the lock back."""
        self.database.close()
