"""Tells people what happened, by a webhook: for those who run no Alertmanager. Ingest never waits for it.

A thread of its own looks at the store every LOOK_SECONDS and sends what is new:

1. What has a key is told once, over restarts too: a file in the home keeps the keys. It is written after the endpoint
   took the message, so a crash in between tells it twice, and never not at all.
2. The first look of a home, and one whose file is unreadable, tells nothing: what is there then is no news.
3. One message holds all that waits, LINES_MAX lines of it and the number of others; there are at most BURST messages
   at once and one more every REFILL_SECONDS.
4. What fails is tried again, ever more rarely (BACKOFF_SECONDS_MAX), for as long as it is news. At most WAITING_MAX
   wait; what is more, or too old, is counted as dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
from prometheus_client import CollectorRegistry, Counter

from runwire_consumer.leaving import leaving_if_invalidated
from runwire_consumer.news import NEWS_SECONDS, News, harmless, named, read_news
from runwire_consumer.webhook import Delivery, Webhook

LOOK_SECONDS = 2.0
LINES_MAX = 20
BURST = 10
REFILL_SECONDS = 30.0
BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 1.0, 300.0
WAITING_MAX = 1_000
KEYS_MAX = 20_000
UNREADY_SECONDS = 60.0
KEYS_FILE = "notices.json"

_log = logging.getLogger("runwire")


class NoticeMetrics:
    """How many notices there were, by what became of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """All stand at 0, so that an absence of notices is seen."""
        self._count = Counter(
            "runwire_notices", "Notices to the webhook: sent, failed tries, dropped.", ["outcome"], registry=registry
        )
        for outcome in ("sent", "failed", "dropped"):
            self._count.labels(outcome)

    def add(self, outcome: str, count: int = 1) -> None:
        """So many more notices were sent or dropped, or so many more tries failed."""
        self._count.labels(outcome).inc(count)


class Told:
    """The keys of what was told, in a file that a crash leaves whole."""

    def __init__(self, path: Path) -> None:
        """Read it; `first` says that there was nothing to be read."""
        self._path = path
        self.keys: dict[str, int] = {}
        self.first = True
        try:
            keys = json.loads(path.read_text(encoding="utf-8"))["keys"]
            self.keys = {str(key): int(at) for key, at in keys.items()}
            self.first = False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # as if nothing had been told: then what is there now is no news

    def add(self, news: list[News], now: int) -> None:
        """Remember them, forget what can't come again, and write it down.

        Raises:
            OSError: It can't be written; it is remembered all the same.
        """
        self.keys |= {one.key: one.time for one in news}
        oldest = now - int(2 * NEWS_SECONDS * 1e6)
        kept = sorted(((at, key) for key, at in self.keys.items() if at >= oldest), reverse=True)[:KEYS_MAX]
        self.keys = {key: at for at, key in kept}
        self.first = False
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text(json.dumps({"keys": self.keys}), encoding="utf-8")
        fresh.replace(self._path)


class Silence:
    """Stands for a notifier where nobody wants to be told."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class Notifier:
    """Looks, and tells; `step` is one turn of its thread.

    Args:
        webhook: Where notices go.
        cursors: Makes a connection of its own to the open database.
        unready: What keeps the consumer from storing, None when nothing does.
        told: What was told before.
        metrics: Counts.
        post: Sends one message.
        clock: Microseconds since the epoch.
        monotonic: Seconds of a clock that never jumps.
        spread: A number from 0 to 1, by which tries of several consumers fall apart.
    """

    def __init__(
        self,
        webhook: Webhook,
        cursors: Callable[[], duckdb.DuckDBPyConnection],
        unready: Callable[[], str | None],
        told: Told,
        metrics: NoticeMetrics,
        *,
        post: Callable[[str], Delivery] | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
        monotonic: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """Nothing runs yet."""
        self._webhook = webhook
        self._cursors = cursors
        self._unready = unready
        self._told = told
        self._metrics = metrics
        self._post = post or webhook.post
        self._clock = clock
        self._monotonic = monotonic
        self._spread = spread
        self._waiting: dict[str, News] = {}
        self._dropped = 0
        self._unready_since: int | None = None
        self._tokens, self._refilled_at = float(BURST), monotonic()
        self._failures = 0
        self._not_before = 0.0
        self._trouble = ""
        self._ended = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="runwire-notices", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        _log.info("Telling %s of runs that break.", self._webhook)
        self._thread.start()

    def stop(self) -> None:
        """No look begins any more, so the database may be closed; a message under way is not waited for."""
        self._ended.set()
        with self._looking:
            pass

    def step(self) -> None:
        """Look for news; send what waits if it may be sent now. Never raises."""
        try:
            with self._looking:
                if self._ended.is_set():
                    return
                lines = self._look()
            if lines:
                self._send(lines)
        except (duckdb.Error, OSError, ValueError) as error:
            self._say(f"Notices can't be made: {type(error).__name__}: {str(error).splitlines()[0][:200]}")

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.step()

    def _look(self) -> list[str]:
        """Take in what is new; the lines of a message that may go now."""
        now = self._clock()
        with leaving_if_invalidated():
            news = [one for one in read_news(self._cursors, now) if one.key not in self._told.keys]
            if self._told.first:
                self._told.add(news, now)
                return []
            news += self._standstill(now)
            self._keep([one for one in news if one.key not in self._told.keys], now)
            if not self._waiting or not self._may_send():
                return []
            return named(self._cursors, [*self._waiting.values()][:LINES_MAX])

    def _keep(self, news: list[News], now: int) -> None:
        begin = now - int(NEWS_SECONDS * 1e6)
        old = [key for key, one in self._waiting.items() if one.time < begin]
        for key in old:
            del self._waiting[key]
        before = len(self._waiting)
        fresh = [one for one in news if one.key not in self._waiting]
        self._waiting |= {one.key: one for one in fresh[: WAITING_MAX - before]}
        over = fresh[max(0, WAITING_MAX - before) :]
        if over:
            self._told.keys |= {one.key: one.time for one in over}  # they are only counted
        dropped = len(old) + len(over)
        if dropped:
            self._dropped += dropped
            self._metrics.add("dropped", dropped)

    def _standstill(self, now: int) -> list[News]:
        reason = self._unready()
        if reason is None:
            self._unready_since = None
            return []
        self._unready_since = self._unready_since or now
        if now - self._unready_since < UNREADY_SECONDS * 1e6:
            return []
        return [News(f"unready:{self._unready_since}", now, f"The consumer stores nothing: {harmless(reason)}")]

    def _may_send(self) -> bool:
        at = self._monotonic()
        self._tokens = min(float(BURST), self._tokens + (at - self._refilled_at) / REFILL_SECONDS)
        self._refilled_at = at
        return self._tokens >= 1 and at >= self._not_before

    def _send(self, lines: list[str]) -> None:
        sent = [*self._waiting.values()]
        more = len(sent) - len(lines) + self._dropped
        if more:
            lines.append(f"… and {more:,} more: `runwire runs`, `runwire dead-letters list`.")
        self._tokens -= 1
        delivery = self._post("\n".join(lines))
        if delivery.trouble is not None:
            self._metrics.add("failed")
            self._say(f"{str(self._webhook).capitalize()} takes no notices: {delivery.trouble}. They are kept.")
            self._failures += 1
            backoff = (
                BACKOFF_SECONDS_MAX if delivery.refused else BACKOFF_SECONDS_MIN * 2 ** min(self._failures - 1, 20)
            )
            wait = max(min(backoff, BACKOFF_SECONDS_MAX) * (1 + self._spread()) / 2, delivery.retry_after_seconds)
            self._not_before = self._monotonic() + wait
            return
        if self._trouble:
            _log.info("Notices arrive at %s again.", self._webhook)
        self._failures, self._trouble, self._dropped = 0, "", 0
        self._metrics.add("sent", len(sent))
        self._waiting = {}
        with contextlib.suppress(OSError):  # a full disk: they are remembered until the end of this process
            self._told.add(sent, self._clock())

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("%s", trouble)


def open_notifier(
    webhook: Webhook | None,
    cursors: Callable[[], duckdb.DuckDBPyConnection],
    unready: Callable[[], str | None],
    home: Path,
    registry: CollectorRegistry,
) -> Notifier | Silence:
    """What tells people from `start` to `stop`; its counts are in the registry also where there is no webhook."""
    metrics = NoticeMetrics(registry)
    return Silence() if webhook is None else Notifier(webhook, cursors, unready, Told(home / KEYS_FILE), metrics)
