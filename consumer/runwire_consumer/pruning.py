"""Topic files in the consumer's own home go when every snapshot holds what is in them, and nobody can miss them.

A topic file may go only when all of this is true:

1. It lies in the topic folder of the consumer's own home: never a folder that others share.
2. At least SNAPSHOTS_MIN snapshots exist, and in *each* of them the source's offset stands at the file's end; in the
   open database too. So whichever is restored, the replay needs nothing of this file.
3. No dead letter came from it whose message isn't kept whole: a newer version may be able to read the original.
4. It hasn't grown for QUIET_SECONDS, as long as Kafka keeps a log by default. A sender that lives writes a
   heartbeat every few seconds.

A writer may still wake up (a laptop that slept, a stopped process) between the look and the removal. No row of it
is lost, by two orders that interlock. Ours: R rename to a hidden name, L look at the size through the open file; grown,
it is put back, else removed. The writer's, at each block (`runwire/_directory.py`): W write, C check that its
name still leads to its file, and only then acknowledge. If C came before R then W came before L, and L sees the growth.
If C came after R it fails, and the writer sends the block again into a new file. Both may happen: the ledger removes
doubles. A crash between R and removal leaves a hidden file, which the next pruning puts back and judges again.

The offsets of a removed file leave the store afterwards, or it would keep one for every process that ever
sent. Should the file come back, it is read from its start and the ledger knows each row.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from runwire_consumer.database import Database, translated
from runwire_consumer.snapshot_files import listed
from runwire_consumer.snapshots import offsets_in
from runwire_consumer.store import Store
from runwire_schemas.folder import SUFFIX

QUIET_SECONDS = 7 * 86_400
SNAPSHOTS_MIN = 2

_HIDDEN_SUFFIX = ".pruned"


def prune(database: Database, snapshots_folder: Path, folder: Path, source: str, now: int) -> list[str]:
    """Remove what may go; returns the names to `forget`. Reads beside the writer, from any thread.

    Args:
        database: Open.
        snapshots_folder: Of its snapshots.
        folder: The topic folder of the consumer's own home.
        source: Under which name the store keeps the folder's offsets.
        now: Microseconds since the epoch.

    Raises:
        SnapshotFailed: A snapshot can't be read: nothing was removed.
    """
    put_back(folder)
    found = listed(snapshots_folder)
    if len(found) < SNAPSHOTS_MIN:
        return []
    with translated(), contextlib.closing(database.cursor()) as cursor:
        known = cursor.execute('SELECT "partition", next_offset FROM store.offsets WHERE source = ?', [source])
        everywhere = [dict(known.fetchall())]
        dead = {
            name
            for (name,) in cursor.execute(
                'SELECT DISTINCT "partition" FROM store.dead_letters '
                "WHERE source = ? AND status = 'dead' AND NOT whole",
                [source],
            ).fetchall()
        }
    there = files(folder)
    names = [name for name in there if _is_quiet(there[name], now)]
    # Removed before a crash kept us from forgetting them.
    gone = [name for name in everywhere[0] if not os.path.lexists(folder / name)]
    if not names and not gone:
        return []
    everywhere += [offsets_in(database, snapshot, source) for snapshot in found]
    ends = {name: end for name, end in covered(everywhere).items() if name not in dead}
    removed = [name for name in names if name in ends and remove(folder / name, ends[name], now)]
    return removed + [name for name in gone if name in ends]


def covered(everywhere: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Files whose offset is the same in all of them: how far they are read in each."""
    first, *others = everywhere
    return {name: end for name, end in first.items() if all(other.get(name) == end for other in others)}


def files(folder: Path) -> dict[str, os.stat_result]:
    """The topic files of a folder by name."""
    with os.scandir(folder) as entries:
        return {
            entry.name: entry.stat(follow_symlinks=False)
            for entry in entries
            if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False)
        }


def remove(path: Path, end: int, now: int) -> bool:
    """Remove a file that still is `end` bytes long and quiet; puts it back when it grew meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        before = os.fstat(descriptor)
        if not (stat.S_ISREG(before.st_mode) and before.st_size == end and _is_quiet(before, now)):
            return False
        hidden = path.with_name(f".{path.name}{_HIDDEN_SUFFIX}")
        path.rename(hidden)  # R
        if os.fstat(descriptor).st_size != end:  # L
            hidden.rename(path)
            return False
        hidden.unlink()
        return True
    finally:
        os.close(descriptor)


def put_back(folder: Path) -> None:
    """What a crash left under its hidden name."""
    for hidden in folder.glob(f".*{SUFFIX}{_HIDDEN_SUFFIX}"):
        hidden.rename(folder / hidden.name[1 : -len(_HIDDEN_SUFFIX)])


def forget(store: Store, source: str, names: Collection[str]) -> None:
    """The offsets of removed files leave store and memory; on the writer's thread."""
    with translated(), contextlib.closing(store.cursor()) as cursor:
        cursor.execute(
            'DELETE FROM store.offsets WHERE source = ? AND "partition" IN (SELECT unnest(?::VARCHAR[]))',
            [source, list(names)],
        )
    for name in names:
        store.catalog.positions.pop((source, name), None)


def _is_quiet(status: os.stat_result, now: int) -> bool:
    return now - status.st_mtime_ns // 1_000 >= QUIET_SECONDS * 1_000_000
