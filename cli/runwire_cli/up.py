"""`runwire up`: the consumer with its HTTP face in one process; `--once` reads what waits and ends.

The order, never another: 1. the database's lock; 2. the port; 3. the first message. On SIGTERM and Ctrl-C the
transaction in progress is finished, then port, sources, database and lock are given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import ssl
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runwire._recovery import Outcome, recover
from runwire._version import __version__
from runwire_cli.backup import condemning, open_home_store, open_keeper
from runwire_cli.browsing import close_page, open_page
from runwire_cli.client import LOCK_WAIT_SECONDS, ServerFile
from runwire_cli.errors import CommandError
from runwire_cli.output import Output
from runwire_cli.settings import CommandSettings
from runwire_cli.text import clean
from runwire_consumer.compacting import Compactor
from runwire_consumer.database import Database
from runwire_consumer.doctor.order import DoctorOrder
from runwire_consumer.errors import PortInUse, SourceUnreachable
from runwire_consumer.gauges import make_registry
from runwire_consumer.guard import Door, is_loopback
from runwire_consumer.http import Face, Order, build_app, serve
from runwire_consumer.issued import IssuedTokens
from runwire_consumer.notifying import open_notifier
from runwire_consumer.page.feed import live_feed
from runwire_consumer.page.files import page_files
from runwire_consumer.plans import Repair
from runwire_consumer.reduction import Retention
from runwire_consumer.replay import Directly, letter_orders
from runwire_consumer.room import watch_room
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.self_metrics import KeepingMetrics, SelfMetrics
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources.opening import open_source
from runwire_consumer.store import Store
from runwire_consumer.sweeping import Sweeper
from runwire_consumer.tls import Certificate, own_certificate, server_context
from runwire_consumer.token_orders import token_orders
from runwire_consumer.tokens import ensure_token, reader_token
from runwire_consumer.webhook import Webhook
from runwire_consumer.writing import Writer
from runwire_schemas.topics import mask

RECOVERY_INTERVAL_SECONDS = 15.0
READER_TIMEOUT_SECONDS = 5.0  # somebody waits at the terminal: what is stored is better than nothing
PROGRESS_DELAY_SECONDS = 1.0
PROGRESS_INTERVAL_SECONDS = 0.2

_log = logging.getLogger("runwire")


def serve_forever(settings: CommandSettings, *, opens: bool = False) -> int:
    """Run until SIGTERM or Ctrl-C; returns the exit code.

    Args:
        settings: What is read, where it is kept, where it is served.
        opens: Whether the page is opened in a browser, once it can be.

    Raises:
        SettingsError: A rule of retention can't be understood.
        StoreLocked: Another process holds the database.
        SettingsError: The webhook's address can't be one.
        PortInUse: Another program listens on the port.
        ConsumerError: The consumer can't go on.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    _log.setLevel(logging.INFO)
    retention = Retention.of(settings.retention)
    home = settings.home.create()
    token = ensure_token(home.path, settings.token)
    issued = IssuedTokens(home.path)
    reader = reader_token(token, settings.read_token)
    contact = _Contact(
        Door(token, settings.host, frozenset(settings.hosts), issued, reader, settings.metrics_open),
        issued,
        _tls(settings),
        None if settings.webhook is None else Webhook(settings.webhook),
        retention,
        opens,
    )
    store, repairs = open_home_store(settings, LOCK_WAIT_SECONDS, _log.warning)
    _spare_the_collector()
    with condemning(home.database):
        asyncio.run(_serve(settings, store, contact, repairs))
    return 0


def _spare_the_collector() -> None:
    """Have garbage collection pass over what start-up made, and come less often.

    Messages leave no cycles, but each makes objects that live until its transaction ends: left as it is, the collector
    goes through all that is imported every few thousand messages, and ingest, queries and scrapes stand still.
    """
    gc.freeze()
    gc.set_threshold(20_000)


def serve_once(settings: CommandSettings, output: Output) -> int:
    """Store what waits, let go of what is deleted, say how much came; returns the exit code.

    Raises:
        SettingsError: A rule of retention can't be understood.
        StoreLocked: Another process holds the database.
        SourceUnreachable: The log couldn't be reached.
        CommandError: The log is a folder that doesn't exist.
        ConsumerError: The consumer can't go on.
    """
    retention = Retention.of(settings.retention)
    home = settings.home.create()
    service, store = _open_service(settings, output, LOCK_WAIT_SECONDS, ServiceLimits())
    with condemning(home.database):
        asyncio.run(_once(settings, service, output))
        if store.catalog.deleted_runs or retention:
            _sweep_once(settings, output, retention)
    if (folder := _missing_folder(settings)) is not None:
        raise CommandError(
            f"There is no folder {folder}: nobody has sent there, or the URL (--url, RUNWIRE_URL) is wrong."
        )
    stats = service.stats
    output.console.print(
        f"{stats.messages:,} messages read: {stats.rows:,} rows, {stats.points:,} points stored, "
        f"{stats.duplicates:,} rows were there already, {stats.dead_letters:,} messages unreadable: {home.database}"
    )
    return 0


def open_materialized(settings: CommandSettings, output: Output, lock_wait_seconds: float) -> Database:
    """Store what waits, then open the file for reading; a log that can't be reached is said and passed over.

    Raises:
        StoreLocked: Another process holds the database.
        ConsumerError: The database can't be used.
    """
    home = settings.home.create()
    limits = ServiceLimits(once_timeout_seconds=READER_TIMEOUT_SECONDS)
    service, _ = _open_service(settings, output, lock_wait_seconds, limits)
    try:
        with condemning(home.database):
            asyncio.run(_once(settings, service, output))
    except SourceUnreachable as error:
        output.say(f"{error} Only what was stored before is shown.")
    # As every start does: somebody may have ordered another file in its place meanwhile.
    store, _ = open_home_store(settings, lock_wait_seconds, output.say)
    return store.database


def _open_service(
    settings: CommandSettings, output: Output, lock_wait_seconds: float, limits: ServiceLimits
) -> tuple[Service, Store]:
    source = open_source(settings.destination)
    store, _ = open_home_store(settings, lock_wait_seconds, output.say)
    return Service(store, [source], limits=limits), store


def _sweep_once(settings: CommandSettings, output: Output, retention: Retention) -> None:
    store, _ = open_home_store(settings, LOCK_WAIT_SECONDS, output.say)
    writer = Writer(store)
    try:
        asyncio.run(Sweeper(Directly(writer), store, retention).sweep())
    finally:
        writer.close()


def _missing_folder(settings: CommandSettings) -> Path | None:
    """The folder that is to be read and doesn't exist."""
    folder = Path(settings.destination.path)
    return folder if settings.destination.kind == "dir" and not folder.exists() else None


@dataclass(frozen=True, slots=True)
class _Contact:
    """How the service meets the world, made of the settings before anything is opened: what is wrong is said at once.

    Attributes:
        door: Who may ask.
        issued: The tokens that were made for others.
        tls: What the face speaks; None: it speaks plainly.
        webhook: Who is told what happened; None: nobody.
        retention: What full resolution is kept of.
        opens: Whether the page is opened in a browser.
    """

    door: Door
    issued: IssuedTokens
    tls: ssl.SSLContext | None
    webhook: Webhook | None
    retention: Retention
    opens: bool


def _tls(settings: CommandSettings) -> ssl.SSLContext | None:
    """What the face speaks TLS with; None where it doesn't, which is said aloud where others can listen."""
    if settings.certificate is not None and settings.key is not None:
        return server_context(Certificate(settings.certificate, settings.key))
    if not is_loopback(settings.host):
        _log.warning(
            "Listening on %s without TLS: tokens and all answers can be read and changed on the way. "
            "Give --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that speaks TLS.",
            settings.host,
        )
    return None


async def _serve(settings: CommandSettings, store: Store, contact: _Contact, repairs: Sequence[Repair]) -> None:
    registry = make_registry(store.cursor)
    watch_room(registry, settings.home.database)
    metrics = SelfMetrics(registry, __version__)
    service = Service(store, [open_source(settings.destination)], metrics=metrics)
    notifier = open_notifier(contact.webhook, store.cursor, service.unready, settings.home.path, registry)
    keeper = open_keeper(settings, service, store, KeepingMetrics(registry), repairs)
    sweeper = Sweeper(service.do, store, contact.retention)
    examined = DoctorOrder(store.cursor, __version__, service.unready)
    orders: dict[str, Order] = {"snapshots": keeper.order, "doctor": examined, **letter_orders(service.do, metrics)}
    orders |= token_orders(contact.issued)
    feed = live_feed(store.cursor, service.stats)
    face = Face(Sandbox(store.cursor), registry, service.unready, orders, page_files(), feed)

    told, stop, face_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    serving, port = await _listen(settings, face, contact, face_stop, store)
    certificate = None if settings.certificate is None else own_certificate(settings.certificate)
    address = ServerFile(settings.host, port, os.getpid(), certificate)
    address.write(settings.home.path)
    _log.info(
        "Reading %s into %s; answering at %s.", mask(str(settings.destination)), store.database.path, address.address
    )
    if contact.opens:
        await asyncio.to_thread(open_page, settings.home.path, address.address, contact.door.invite())
    if (folder := _missing_folder(settings)) is not None:
        _log.info("There is no folder %s yet: waiting for the first process that sends there.", folder)
    compactor = Compactor(service, store)

    async def close() -> None:
        for task in tending:
            task.cancel()
        await asyncio.gather(keeper.close(), compactor.close())

    beside = (_recover_again_and_again(settings), keeper.run(), sweeper.run(), compactor.run())
    tending = [asyncio.create_task(_watched(one)) for one in beside]
    notifier.start()
    running = asyncio.create_task(service.run(stop, closing=close))
    told_to_end = asyncio.create_task(told.wait())
    try:
        await asyncio.wait([running, serving, told_to_end], return_when=asyncio.FIRST_COMPLETED)
    finally:
        address.remove(settings.home.path)
        close_page(settings.home.path)
        told_to_end.cancel()
        # The database closes when the service ends: what would go on or wait for long is told so before.
        notifier.stop()
        face.sandbox.stop()
        await feed.stop()
        examined.stop()
        refusing = asyncio.create_task(close())
        face_stop.set()
        await asyncio.wait([serving])
        stop.set()
        await asyncio.wait([running, refusing, *tending])
    for task in (running, serving):
        task.result()


async def _watched(work: Coroutine[Any, Any, None]) -> None:
    """Ingest and answers go on where something beside them fails; whoever reads the log learns that it stands still."""
    try:
        await work
    except Exception:  # noqa: BLE001 - whatever it was
        _log.exception("A part of the consumer failed and stands still until the next start: a bug of Runwire.")


async def _listen(
    settings: CommandSettings, face: Face, contact: _Contact, stop: asyncio.Event, store: Store
) -> tuple[asyncio.Task[None], int]:
    """The task that serves until `stop` is set, once clients can connect, and the port; else the store is closed."""
    bound: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    app = build_app(face, contact.door)
    serving = asyncio.create_task(serve(app, settings.host, settings.port, bound.set_result, stop, tls=contact.tls))
    waiting: set[asyncio.Future[Any]] = {serving, bound}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not bound.done():
        store.close()
        try:
            await serving  # raises what kept the port from being bound
        except PortInUse as error:
            raise PortInUse(f"{str(error).rstrip('.')} with --port or RUNWIRE_PORT.") from None
    return serving, bound.result()


async def _once(settings: CommandSettings, service: Service, output: Output) -> None:
    showing = asyncio.create_task(_show_progress(service, output))
    try:
        await _recover_journals(settings)
        await service.run_once()
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


async def _show_progress(service: Service, output: Output) -> None:
    """A bar on a terminal, from the second second on."""
    await asyncio.sleep(PROGRESS_DELAY_SECONDS)
    from rich.progress import (  # noqa: PLC0415 - a start without a backlog shows none
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("Reading the log"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[points]} points"), console=output.errors, transient=True) as bar:
        task = bar.add_task("", total=None, points="0")
        most = 0
        while True:
            left = sum(service.stats.lag.values())
            most = max(most, left)
            bar.update(task, total=most or None, completed=most - left, points=f"{service.stats.points:,}")
            await asyncio.sleep(PROGRESS_INTERVAL_SECONDS)


async def _recover_again_and_again(settings: CommandSettings) -> None:
    """Send what processes of this home left that died since; a look that fails is done again."""
    told = ""
    while True:
        try:
            await _recover_journals(settings)
        except OSError as error:
            if told != (told := str(error)):
                _log.warning(
                    "Journals in %s can't be looked through: %s.", settings.home.journal, error.strerror or error
                )
        await asyncio.sleep(RECOVERY_INTERVAL_SECONDS)


async def _recover_journals(settings: CommandSettings) -> None:
    def tell(outcome: Outcome) -> None:
        if outcome.state == "sent":
            _log.info("Sent %s rows that emitter %s had left.", f"{outcome.rows:,}", clean(outcome.emitter_id))

    await recover(settings.home.journal, only=settings.destination, on_outcome=tell)
