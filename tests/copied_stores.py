"""New stores of tests begin as copies of one that was migrated once: some 30 instead of 300 milliseconds each.

Only in the tests' own process, and only from nothing to the newest version: what a consumer of its own process opens is
migrated, and so is what `tests/consumer/test_migrations.py` opens.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import duckdb
import pytest

from runwire_consumer import database
from runwire_consumer.migrations import Migration, migrate, migrations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def copied_stores(template: Path) -> Iterator[None]:
    """Until the block ends.

    Args:
        template: Where no file is; made when it is first needed.
    """
    shipped = migrations()

    def copy_or_migrate(connection: duckdb.DuckDBPyConnection, steps: tuple[Migration, ...]) -> None:
        if steps == shipped and is_empty(connection):
            if not template.exists():
                with closing(duckdb.connect(str(template))) as made:
                    migrate(made, shipped)
            copy(connection, template)
        migrate(connection, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "migrate", copy_or_migrate)
        yield


def is_empty(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether nobody has made anything here."""
    return (
        connection.execute(
            "SELECT 1 FROM duckdb_tables() UNION ALL SELECT 1 FROM duckdb_views() WHERE NOT internal "
            "UNION ALL SELECT 1 FROM duckdb_schemas() WHERE NOT internal AND schema_name <> 'main'"
        ).fetchone()
        is None
    )


def copy(connection: duckdb.DuckDBPyConnection, template: Path) -> None:
    """All that is in the template; the connection's own database is empty."""
    ((name,),) = connection.execute("SELECT current_database()").fetchall()
    connection.execute(f"ATTACH '{template}' AS template_of_tests (READ_ONLY)")
    connection.execute(f'COPY FROM DATABASE template_of_tests TO "{name}"')
    connection.execute("DETACH template_of_tests")
    connection.execute("CHECKPOINT")
