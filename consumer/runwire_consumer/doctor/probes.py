"""Looks at a home without touching it: lock, disk, token, snapshots, leftovers, files of a topic folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from runwire_consumer.database import wal_path
from runwire_consumer.doctor.home import DiskFacts, LockFacts, PlanFacts, SnapshotFacts, TokenFacts
from runwire_consumer.doctor.log import FileFacts
from runwire_consumer.doctor.programs import TRIED_VERSIONS
from runwire_consumer.errors import TokenRefused
from runwire_consumer.floor import free_bytes, reserve_bytes
from runwire_consumer.lock import process_state
from runwire_consumer.plans import Plan, plan_path
from runwire_consumer.snapshot_files import listed
from runwire_consumer.tokens import TOKEN_FILE, read_token
from runwire_schemas.folder import HEADER_BYTES_MAX, SUFFIX, Damage, FolderError, parse_header, split_blocks

FILES_MAX = 2_000
READ_BYTES_MAX = 8 * 2**20
_HOLDER_BYTES_MAX = 4_096
_DATABASE_SIDE_FILES = (".wal", ".lock", ".plan")
_MAGIC_AT, _MAGIC = 8, b"DUCK"


def lock_facts(database: Path) -> LockFacts:
    """Who holds a database's lock file; it is not made where it is missing."""
    path = database.with_name(database.name + ".lock")
    if not is_locked(path):
        return LockFacts(held=False)
    try:
        holder = json.loads(path.read_bytes()[:_HOLDER_BYTES_MAX])
        pid, host, started = int(holder["pid"]), str(holder["host"]), str(holder["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return LockFacts(held=True)
    here = host == socket.gethostname()
    return LockFacts(True, pid, host, here, started, process_state(pid) if here else "unknown")


def is_locked(path: Path) -> bool:
    """Whether another process holds a POSIX lock on a file; False where there is none.

    A shared lock is tried for a moment: who wants the file just then tries again.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(descriptor)
    return False


def disk_facts(folder: Path, kind: str, database: Path, *, is_network: bool) -> DiskFacts:
    """Room where a folder lies.

    Args:
        folder: It exists.
        kind: Its file system.
        database: The database, there or not.
        is_network: As known of the file system.
    """
    status = os.statvfs(folder)
    return DiskFacts(
        path=str(folder),
        kind=kind,
        is_network=is_network,
        writable=os.access(folder, os.W_OK | os.X_OK),
        free_bytes=free_bytes(folder),
        free_files=status.f_favail if status.f_files else None,
        database_bytes=_size(database) + _size(wal_path(database)),
        wal_bytes=_size(wal_path(database)),
        reserve_bytes=reserve_bytes(folder),
    )


def private_facts(path: Path, read: Callable[[], object]) -> TokenFacts:
    """A further file of tokens; `read` says what is wrong with it by raising."""
    try:
        status = path.stat()
    except OSError:
        return TokenFacts(exists=False)
    mode, ours = stat.S_IMODE(status.st_mode), status.st_uid == os.geteuid()
    try:
        read()
    except Exception as error:  # noqa: BLE001 - its sentence is the finding
        return TokenFacts(True, mode, ours, str(error))
    return TokenFacts(True, mode, ours)


def token_facts(home: Path) -> TokenFacts:
    """The token file of a home; its text is in nothing of this."""
    try:
        status = (home / TOKEN_FILE).stat()
    except FileNotFoundError:
        return TokenFacts(exists=False)
    mode, ours = stat.S_IMODE(status.st_mode), status.st_uid == os.geteuid()
    try:
        read_token(home)
    except TokenRefused as error:
        return TokenFacts(True, mode, ours, str(error))
    return TokenFacts(True, mode, ours)


def snapshot_facts(folder: Path) -> list[SnapshotFacts]:
    """The snapshots of a folder, newest first; whether one begins as a database is looked at."""
    return [SnapshotFacts(one.path.name, one.taken_at, one.bytes, *_begins_sound(one.path)) for one in listed(folder)]


def plan_facts(database: Path) -> PlanFacts | None:
    """The plan of a replacement that binds the next start; None without one.

    Raises:
        StoreError: It can't be read.
    """
    plan = Plan.read(database)
    if plan is not None:
        return PlanFacts(plan.reason)
    return PlanFacts(unreadable=True) if plan_path(database).exists() else None


def leftovers(database: Path) -> list[tuple[str, int]]:
    """Files whose name begins with the database's, and that it doesn't use: (name, bytes), largest first."""
    own = {database.name, *(database.name + end for end in _DATABASE_SIDE_FILES)}
    with os.scandir(database.parent) as entries:
        found = [
            (entry.name, entry.stat(follow_symlinks=False).st_size)
            for entry in entries
            if entry.name.startswith(database.name) and entry.name not in own and entry.is_file(follow_symlinks=False)
        ]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def newest_file_micros(home: Path, names: tuple[str, ...]) -> int | None:
    """Newest time that the file system gave one of these files of a home, microseconds."""
    times = []
    for name in names:
        try:
            times.append((home / name).stat().st_mtime_ns // 1_000)
        except OSError:
            continue
    return max(times, default=None)


def folder_facts(folder: Path, offsets: Mapping[str, int]) -> list[FileFacts]:
    """The files of a topic folder that reach beyond their offsets, the latest FILES_MAX of them.

    Args:
        folder: It exists.
        offsets: By file, where reading goes on.
    """
    waiting = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                if status.st_size > offsets.get(entry.name, 0):
                    waiting.append((status.st_mtime, entry.name))
    now = time.time()
    latest = sorted(waiting, reverse=True)[:FILES_MAX]
    found = [_file_facts(folder / name, offsets.get(name, 0), now - modified) for modified, name in latest]
    return [one for one in found if one is not None]


def installed_versions() -> dict[str, str | None]:
    """Version of each of TRIED_VERSIONS; None where it isn't installed."""
    found: dict[str, str | None] = {}
    for name in TRIED_VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _file_facts(path: Path, offset: int, idle_seconds: float) -> FileFacts | None:
    """What stands behind an offset, as far as one read reaches; None for a file that is none of ours, or gone."""
    try:
        with path.open("rb", buffering=0) as file:
            header = parse_header(file.read(HEADER_BYTES_MAX))
            if header is None:
                return FileFacts(path.name, 0, 0, _size(path), idle_seconds)
            sync, begin = header
            begin = max(begin, offset)
            file.seek(begin)
            data = file.read(READ_BYTES_MAX)
            rest = max(os.fstat(file.fileno()).st_size - begin - len(data), 0)
    except (OSError, FolderError):
        return None
    parts = split_blocks(data, sync)
    damaged = sum(part.end - part.start for part in parts if isinstance(part, Damage))
    whole = sum(part.end - part.start for part in parts) - damaged
    behind = len(data) - (parts[-1].end if parts else 0)
    if rest:
        whole, behind = whole + behind + rest, 0  # not looked at: most of it are blocks
    return FileFacts(path.name, whole, damaged, behind, idle_seconds)


def _begins_sound(path: Path) -> tuple[bool | None, str]:
    try:
        with path.open("rb") as file:
            head = file.read(_MAGIC_AT + len(_MAGIC))
    except OSError as error:
        return None, str(error.strerror)
    if head[_MAGIC_AT:] != _MAGIC:
        return False, "it is no DuckDB file."
    return None, ""


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
