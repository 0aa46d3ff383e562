"""The process's end after the engine gave up: at once, from any thread, without closing the file.

DuckDB calls the whole database invalid after an error inside a commit or a checkpoint (`FatalException`). Then neither
writer nor reader may ask it for anything any more, not even to close: memory and file may differ. What is in the file
is true up to the last commit, so the next start reconciles. Whoever meets the error first ends the process: a query,
a scrape and a snapshot as well as the writer.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import NoReturn

import duckdb

from runwire_consumer.errors import StoreInvalidated, first_line

EXIT_INVALIDATED = 70
_INVALIDATED = "database has been invalidated"

_log = logging.getLogger(__name__)


def leave(error: BaseException) -> NoReturn:
    """Say why and end the process, whichever thread this is."""
    _log.critical("%s The process ends; start it again.", first_line(error))
    logging.shutdown()
    os._exit(EXIT_INVALIDATED)


def leave_if_invalidated(error: BaseException) -> None:
    """End the process when this error says that the engine has given up."""
    if isinstance(error, (duckdb.FatalException, StoreInvalidated)) or _INVALIDATED in str(error):
        leave(error)


@contextlib.contextmanager
def leaving_if_invalidated() -> Iterator[None]:
    """Around whatever reads or writes: the same for every error of the engine."""
    try:
        yield
    except (duckdb.Error, StoreInvalidated) as error:
        leave_if_invalidated(error)
        raise
