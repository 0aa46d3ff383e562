"""Opens the store whatever state its file is in: a damaged one is set aside, a snapshot takes its place.

A replacement is a plan, written beside the database (`runwire.duckdb.plan`) before the first effect, so that a crash
anywhere leaves what the next start finishes. The order of effects, never another:

1. the plan, with fsync; 2. the file is renamed to `runwire.duckdb.<aside>-<stamp>`, 3. its WAL to the same name with
`.wal`: neither is ever deleted, and no WAL is left beside a file that isn't its own; 4. a snapshot is copied to
a hidden draft, opened, read through, brought to the disk and renamed into place; where none is left, the store begins
empty; 5. the store opens and is told of the replacement (`store.meta`, key `repair.<stamp>`); 6. the plan goes.

What the steps leave tells how far they came: the name of step 2 exists, so the file that is there now is the new one.
Offsets lie in the file, so the log is replayed from the moment of the snapshot by itself, and the ledger removes what
comes twice; what the log no longer holds is recorded as lost by the sources.

A WAL without a file is damage too: the engine would throw it away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from runwire_consumer.damage import INTERNAL
from runwire_consumer.database import EngineOptions, lock_beside, wal_path
from runwire_consumer.errors import SnapshotFailed, StoreDamaged
from runwire_consumer.floor import free_bytes
from runwire_consumer.lock import LockFile
from runwire_consumer.plans import DAMAGED, META_PREFIX, Plan, Repair, plan_path, unable
from runwire_consumer.snapshot_files import Snapshot, listed
from runwire_consumer.snapshots import folder_to_disk, open_and_read, settle, take_in_wal
from runwire_consumer.store import Store

_log = logging.getLogger("runwire")


def open_store(
    path: Path,
    options: EngineOptions,
    now: Callable[[], int],
    say: Callable[[str], None] = _log.warning,
    lock: LockFile | None = None,
) -> tuple[Store, list[Repair]]:
    """Open the store, after as many replacements as that takes; all of them are said and marked in it.

    Args:
        path: The file; snapshots are those of `options.snapshots_folder`.
        options: Limits of the engine.
        now: Microseconds since the epoch.
        say: Gets every sentence.
        lock: Held by the caller, who hands it over.

    Raises:
        StoreLocked: Another process holds it.
        StoreNewer: A newer version wrote it.
        StoreError: It can't be opened now; nothing was set aside.
    """
    lock = lock or lock_beside(path, options.lock_wait_seconds)
    unusable: set[str] = set()  # snapshots that could be read, and still made no store
    try:
        while True:
            repair = _go_on(path, options, now, say, unusable)
            try:
                store = Store.open(path, options, lock)
            except StoreDamaged as error:
                if repair is not None and repair.snapshot in unusable | {""}:
                    raise
                if repair is not None:
                    unusable.add(repair.snapshot)
                reason = str(error) if repair is None else f"{repair.reason} Then: {error}"
                Plan.make(path, DAMAGED, reason, now()).write(path)
                continue
            if repair is None:
                return store, []
            _mark(store, repair)
            plan_path(path).unlink(missing_ok=True)
            return store, [repair]
    except BaseException:
        lock.release()
        raise


def doubt(path: Path, reason: str, now: int) -> bool:
    """Have the next start set the open file aside: its blocks can't be read; returns whether that will happen.

    An internal error of the engine may be its own fault, which a restored file would meet again: then the next start
    only opens the file, and sets it aside when that fails.
    """
    if INTERNAL in reason:
        return False
    Plan.make(path, DAMAGED, reason, now).write(path)
    return True


def _go_on(
    path: Path, options: EngineOptions, now: Callable[[], int], say: Callable[[str], None], unusable: Collection[str]
) -> Repair | None:
    """Effects 2 to 4 of the plan that binds, as far as they aren't done."""
    try:
        plan = Plan.read(path)
        if plan is None:
            if path.exists() or not wal_path(path).exists():
                if not path.exists() and options.snapshots_folder and listed(options.snapshots_folder):
                    say("There is no database: it begins empty; `runwire restore` brings the newest snapshot back.")
                return None
            plan = Plan.make(path, DAMAGED, f"{wal_path(path).name} is there without {path.name}.", now())
            plan.write(path)
        chosen = Path(plan.snapshot).name
        if _set_aside(path, plan, say):
            folder = options.snapshots_folder
            chosen = _restore(path, plan, [] if folder is None else listed(folder), say, unusable)
    except OSError as error:
        raise unable(path, error) from error
    return Repair(plan.stamp, plan.old(path).name if plan.old(path).exists() else "", plan.reason, chosen)


def _set_aside(path: Path, plan: Plan, say: Callable[[str], None]) -> bool:
    """Effects 2 and 3; returns whether another file must take the place."""
    old, old_wal = plan.old(path), plan.old_wal(path)
    if path.exists():
        if old.exists() or old_wal.exists():
            return False  # a crash after 4: this is the other file already
        say(f"{plan.reason.rstrip('.')}. The file is set aside as {old.name}.")
        path.rename(old)
    if wal_path(path).exists():
        wal_path(path).rename(old_wal)
    folder_to_disk(path.parent)
    return True


def _restore(
    path: Path, plan: Plan, snapshots: Sequence[Snapshot], say: Callable[[str], None], unusable: Collection[str]
) -> str:
    """Put a snapshot in place, the plan's own or the newest; returns its name, "" when none can be read."""
    wanted = [Snapshot(Path(plan.snapshot), 0, 0)] if plan.snapshot else []
    for snapshot in [*wanted, *snapshots]:
        if snapshot.path.name in unusable:
            continue
        draft = path.with_name(f".{path.name}.restore")
        try:
            copy_checked(snapshot.path, draft)
        except (SnapshotFailed, FileNotFoundError) as error:
            say(f"The snapshot {snapshot.path} is passed over: {error}")
            continue
        replace(plan, snapshot=str(snapshot.path)).write(path)  # a crash behind the rename still knows it
        settle(draft, path)
        say(f"The snapshot {snapshot.path.name} is in its place; the log is replayed from that moment.")
        return snapshot.path.name
    say("No snapshot can be read: the store begins empty, and the log is replayed from its start.")
    replace(plan, snapshot="").write(path)
    return ""


def copy_checked(snapshot: Path, draft: Path) -> None:
    """Copy a snapshot and read the copy through: what it says is what will be used.

    Raises:
        SnapshotFailed: It can't be read.
        OSError: It can't be copied, for lack of room say.
    """
    for left in (draft, wal_path(draft)):
        left.unlink(missing_ok=True)
    need_room(snapshot, draft.parent)
    shutil.copyfile(snapshot, draft)
    try:
        if wal_path(snapshot).exists():  # a file that was set aside, on its way back
            shutil.copyfile(wal_path(snapshot), wal_path(draft))
            take_in_wal(draft)
        open_and_read(draft)
    except SnapshotFailed:
        draft.unlink()
        wal_path(draft).unlink(missing_ok=True)
        raise


def need_room(snapshot: Path, folder: Path) -> None:
    """Look whether a copy of a snapshot has room in a folder.

    Raises:
        OSError: It has none.
    """
    size = snapshot.stat().st_size
    if free_bytes(folder) < size:
        raise OSError(errno.ENOSPC, f"{size // 2**20 + 1:,} MiB are needed to restore {snapshot.name}", str(folder))


def _mark(store: Store, repair: Repair) -> None:
    values: dict[str, Any] = asdict(repair)
    key = META_PREFIX + values.pop("stamp")
    with contextlib.closing(store.cursor()) as cursor:
        if not cursor.execute("SELECT 1 FROM store.meta WHERE key = ?", [key]).fetchall():
            cursor.execute("INSERT INTO store.meta VALUES (?, ?)", [key, json.dumps(values)])
