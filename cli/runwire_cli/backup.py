"""How a home's store is opened, with a repair where it needs one; backups taken and put in place without a consumer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from runwire_cli.client import LOCK_WAIT_SECONDS
from runwire_cli.errors import CommandError
from runwire_cli.output import Output
from runwire_cli.settings import CommandSettings
from runwire_consumer import snapshots
from runwire_consumer.database import lock_beside
from runwire_consumer.errors import SnapshotFailed, StoreDamaged, StoreLocked
from runwire_consumer.keeping import Keeper
from runwire_consumer.plans import REPLACED, Plan, Repair
from runwire_consumer.repair import doubt, need_room, open_store
from runwire_consumer.self_metrics import KeepingMetrics
from runwire_consumer.service import Service
from runwire_consumer.snapshot_files import Snapshot, listed, rotate
from runwire_consumer.snapshots import open_and_read
from runwire_consumer.store import Store


def open_home_store(
    settings: CommandSettings, lock_wait_seconds: float, say: Callable[[str], None]
) -> tuple[Store, list[Repair]]:
    """The home's store; a damaged file is set aside and replaced, which `say` is told.

    Raises:
        StoreLocked: Another process holds it.
        StoreError: It can't be opened now.
    """
    options = snapshots.options_for(settings.home.snapshots, lock_wait_seconds)
    return open_store(settings.home.database, options, _now, say)


@contextlib.contextmanager
def condemning(database: Path) -> Iterator[None]:
    """Have the next start replace a file that turned out to be damaged while it was open."""
    try:
        yield
    except StoreDamaged as error:
        if doubt(database, str(error), _now()):
            raise StoreDamaged(f"{error} Start again: the file is then set aside and a snapshot restored.") from error
        raise


def open_keeper(
    settings: CommandSettings,
    service: Service,
    store: Store,
    metrics: KeepingMetrics,
    repairs: Sequence[Repair],
) -> Keeper:
    """What keeps the store of a running consumer safe."""
    metrics.repaired(len(repairs))
    home, destination = settings.home, settings.destination
    is_own = destination.kind == "dir" and Path(destination.path).resolve() == home.topic.resolve()
    topic = (home.topic, str(destination)) if is_own else None
    return Keeper(service, store, home.snapshots, metrics, topic=topic)


def take_of_file(settings: CommandSettings, say: Callable[[str], None]) -> Snapshot:
    """Take a snapshot of the home's database, which nobody else has open.

    Raises:
        CommandError: There is no database.
        StoreError: No snapshot could be taken.
    """
    if not settings.home.database.exists():
        raise CommandError(
            f"There is no database {settings.home.database} yet: `runwire up` or `runwire up --once` makes it."
        )
    store, _ = open_home_store(settings, LOCK_WAIT_SECONDS, say)
    try:
        with condemning(settings.home.database):
            snapshot = snapshots.take(store.database, settings.home.snapshots, _now())
        rotate(settings.home.snapshots, snapshot)
    finally:
        store.close()
    return snapshot


def restore(settings: CommandSettings, output: Output, wanted: str | None) -> int:
    """Put a snapshot in the database's place; the present file is kept beside it.

    Raises:
        StoreLocked: A consumer has the database open.
        CommandError: There is no such snapshot.
        SnapshotFailed: It can't be read; nothing was changed.
    """
    path, found = settings.home.database, listed(settings.home.snapshots)
    chosen = _choose(settings, found, wanted)
    try:
        lock = lock_beside(path)
    except StoreLocked as error:
        raise StoreLocked(f"{error} Stop it first: a database is restored while nobody has it open.") from None
    try:
        try:
            open_and_read(chosen.path)
        except SnapshotFailed as error:
            raise SnapshotFailed(f"{chosen.path} is not restored. {error}") from None
        when = f"a snapshot of {chosen.moment}" if chosen.taken_at else str(chosen.path)
        try:
            need_room(chosen.path, path.parent)
        except OSError as error:
            raise SnapshotFailed(f"{chosen.path} is not restored: {error.strerror}. Nothing was changed.") from None
        plan = Plan.make(path, REPLACED, f"{when} is restored by hand", _now(), str(chosen.path.absolute()))
        plan.write(path)
        # The lock isn't let go of between: who comes then would have the present file open, and be told to restore it.
        options = snapshots.options_for(settings.home.snapshots, 0.0)
        store, _ = open_store(path, options, _now, output.say, lock)
        store.close()
    finally:
        lock.release()
    if found and chosen.taken_at < found[-1].taken_at:
        output.say(
            "It is older than the oldest snapshot of this home: what was removed from the log since then stays missing."
        )
    return 0


def _choose(settings: CommandSettings, found: Sequence[Snapshot], wanted: str | None) -> Snapshot:
    if wanted is None:
        if not found:
            raise CommandError(f"There are no snapshots in {settings.home.snapshots}: nothing was changed.")
        return found[0]
    for one in found:
        if wanted in {one.path.name, one.path.stem, str(one.path)}:
            return one
    path = Path(wanted)
    if not path.is_file():
        raise CommandError(f"There is no snapshot {wanted}: `runwire snapshot --list` shows those there are.")
    if path.resolve() == settings.home.database.resolve():
        raise CommandError(f"{wanted} is the database itself: name a snapshot.")
    return Snapshot(path, 0, path.stat().st_size)


def _now() -> int:
    return time.time_ns() // 1_000
