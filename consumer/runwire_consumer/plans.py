"""Plans of `repair.py`: a replacement of the database file that binds the next start, and those that were made."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import duckdb

from runwire_consumer.database import need_regular
from runwire_consumer.errors import StoreError, StoreFull
from runwire_consumer.snapshot_files import micros_of, stamp_of
from runwire_consumer.snapshots import folder_to_disk

META_PREFIX = "repair."
DAMAGED, REPLACED = "damaged", "replaced"

_log = logging.getLogger("runwire")


@dataclass(frozen=True, slots=True)
class Plan:
    """One replacement of the database file.

    Attributes:
        stamp: When it was begun, as in the names of snapshots; unique beside the database.
        aside: What the old file is called: damaged, or replaced by hand.
        reason: Why, in a sentence.
        snapshot: Path of the snapshot to restore; "" takes the newest that can be read.
    """

    stamp: str
    aside: str
    reason: str
    snapshot: str = ""

    @classmethod
    def make(cls, path: Path, aside: str, reason: str, now: int, snapshot: str = "") -> Self:
        """A plan whose names beside `path` are free."""
        plan = cls(stamp_of(now), aside, reason, snapshot)
        while plan.old(path).exists() or plan.old_wal(path).exists():
            now += 1_000_000
            plan = replace(plan, stamp=stamp_of(now))
        return plan

    def old(self, path: Path) -> Path:
        """Where the old file goes."""
        return path.with_name(f"{path.name}.{self.aside}-{self.stamp}")

    def old_wal(self, path: Path) -> Path:
        """Where its WAL goes."""
        return path.with_name(f"{path.name}.{self.aside}-{self.stamp}.wal")

    def write(self, path: Path) -> None:
        """Make it binding for whoever opens the database next.

        Raises:
            StoreFull: There is no room for it.
            StoreError: It can't be written; no plan binds that didn't before.
        """
        draft = plan_path(path).with_suffix(".draft")
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(asdict(self), file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(plan_path(path))
            folder_to_disk(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise unable(path, error) from error

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The plan that binds; None where there is none. A file that is no plan binds nobody.

        Raises:
            StoreError: It can't be read.
        """
        try:
            need_regular(plan_path(path))
            found = json.loads(plan_path(path).read_text(encoding="utf-8"))
            plan = cls(**{name: str(found[name]) for name in ("stamp", "aside", "reason", "snapshot")})
            micros_of(plan.stamp)
            if plan.aside in {DAMAGED, REPLACED} and "\0" not in plan.snapshot:
                return plan
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        except OSError as error:
            raise StoreError(f"{plan_path(path)} can't be read: {error.strerror}.") from error
        _log.warning("%s is no plan of a repair: it is passed over.", plan_path(path))
        return None


@dataclass(frozen=True, slots=True)
class Repair:
    """A replacement that was made, as `store.meta` keeps it.

    Attributes:
        stamp: When, as in names of snapshots.
        aside: Name of the old file beside the database; "" where there was none.
        reason: Why, in a sentence.
        snapshot: Name of the snapshot that was restored; "" when the store began empty.
    """

    stamp: str
    aside: str
    reason: str
    snapshot: str


def plan_path(path: Path) -> Path:
    """Where the plan of a database stands."""
    return path.with_name(path.name + ".plan")


def repairs_of(cursor: duckdb.DuckDBPyConnection) -> list[Repair]:
    """Every replacement that an open store remembers, oldest first."""
    rows = cursor.execute(
        "SELECT key, value FROM store.meta WHERE starts_with(key, ?) ORDER BY key", [META_PREFIX]
    ).fetchall()
    return [Repair(key.removeprefix(META_PREFIX), **json.loads(value)) for key, value in rows]


def unable(path: Path, error: OSError) -> StoreError:
    """Why no replacement is made now."""
    kind = StoreFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StoreError
    return kind(f"The database {path} can't be replaced now: {error.strerror or error}.")
