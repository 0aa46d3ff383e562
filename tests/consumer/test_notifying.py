"""Who is told what: news of a store, once each, to an endpoint that fails as real ones do."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from runwire_consumer import notifying
from runwire_consumer.database import Database
from runwire_consumer.news import named, read_news
from runwire_consumer.notifying import KEYS_FILE, NoticeMetrics, Notifier, Told, open_notifier
from runwire_consumer.webhook import Delivery, Webhook
from tests.consumer.endpoint import SECRET, Endpoint
from tests.consumer.small_store import DIGITS, NOW_US, OLD, OTHER, SECOND_US, small_store
from tests.services.process import wait_until

HOOK = Webhook(f"https://hooks.example.com/{SECRET}")


class Desk:
    """A notifier over a small store: its clock, its endpoint's answers, what arrived."""

    def __init__(self, folder: Path, database: Database | None = None) -> None:
        self.folder = folder
        self.database = database or small_store()
        self.now = NOW_US
        self.seconds = 0.0
        self.reason: str | None = None
        self.answers: list[Delivery] = []
        self.arrived: list[str] = []
        self.tries = 0
        self.restart()

    def restart(self) -> None:
        """A new process: what was in memory is gone."""
        self.registry = CollectorRegistry()
        self.notifier = Notifier(
            HOOK,
            self.database.cursor,
            lambda: self.reason,
            Told(self.folder / KEYS_FILE),
            NoticeMetrics(self.registry),
            post=self._post,
            clock=lambda: self.now,
            monotonic=lambda: self.seconds,
            spread=lambda: 1.0,
        )

    def _post(self, text: str) -> Delivery:
        self.tries += 1
        answer = self.answers.pop(0) if self.answers else Delivery()
        if answer.trouble is None:
            self.arrived.append(text)
        return answer

    def step(self, seconds: float = 2.0) -> list[str]:
        """Time goes on, one look; returns the lines that arrived with it."""
        self.seconds += seconds
        self.now += int(seconds * SECOND_US)
        before = len(self.arrived)
        self.notifier.step()
        return [line for text in self.arrived[before:] for line in text.splitlines()]

    def state(self, run_key: int, state: str, reason: str = "rank 0 is silent") -> None:
        """A run's state changes now."""
        cursor = self.database.cursor()
        cursor.execute(
            "UPDATE store.run_states SET state = ?, since = ?, reason = ? WHERE run_key = ?",
            [state, self.now, reason, run_key],
        )

    def alert(self, seq: int, title: str, text: str = "", rank: int = 0) -> None:
        """A rank of DIGITS raises an alert now."""
        body = json.dumps({"level": "warning", "title": title, "text": text, "step": 3})
        self.database.cursor().execute(
            "INSERT INTO store.lifecycle VALUES (?, ?, 'AlertRaised', ?, ?)", [2 + rank, seq, self.now, body]
        )

    def count(self, outcome: str) -> float:
        """What /metrics says."""
        return self.registry.get_sample_value("runwire_notices_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    assert desk.step() == []  # what is there is no news
    yield desk
    desk.database.close()


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("lost", "is lost: rank 0 is silent"),
        ("stuck", "is stuck: rank 0 is silent"),
        ("crashed", "crashed: rank 0 is silent"),
        ("failed", "failed: rank 0 is silent"),
    ],
)
def test_a_run_that_breaks_is_told_once(desk: Desk, state: str, line: str) -> None:
    """With its name, project and id; the same again only when it has recovered in between."""
    desk.state(1, state)
    assert desk.step() == [f"brave-fox-1 (digits, {DIGITS}) {line}"]
    assert desk.step() == []
    desk.state(1, "running")
    assert desk.step() == []
    desk.state(1, state)
    assert desk.step() == [f"brave-fox-1 (digits, {DIGITS}) {line}"]


@pytest.mark.parametrize("state", ["running", "finished", "preempted"])
def test_what_is_in_order_is_not_told(desk: Desk, state: str) -> None:
    """Nor what a scheduler does."""
    desk.state(1, state)
    assert desk.step() == []
    assert desk.tries == 0


def test_an_alert_of_the_trainer_is_told_once_an_hour_whichever_ranks_raise_it(desk: Desk) -> None:
    """Title and text, on one line."""
    desk.alert(10, "Loss is high", "It is\n3")
    desk.alert(10, "Loss is high", "It is\n4", rank=1)
    assert desk.step() == [f"brave-fox-1 (digits, {DIGITS}) alert, warning: Loss is high: It is 3"]
    desk.alert(11, "Loss is high")
    assert desk.step() == []
    desk.alert(12, "Another")
    assert len(desk.step()) == 1
    desk.step(3_600)
    desk.alert(13, "Loss is high")
    assert desk.step() == [f"brave-fox-1 (digits, {DIGITS}) alert, warning: Loss is high"]


def test_a_loss_that_is_no_number_is_told_also_when_it_was_one_value(desk: Desk) -> None:
    """By what the store counted, not by the last value; other metrics may be what they like."""
    cursor = desk.database.cursor()
    cursor.execute("UPDATE store.series SET nonfinite = 1, last_time = ? WHERE emitter_key = 2", [desk.now])
    assert desk.step() == [f"brave-fox-1 (digits, {DIGITS}) diverges: train/loss is NaN or infinite"]
    cursor.execute("UPDATE store.series SET nonfinite = 2, last_time = ? WHERE emitter_key = 2", [desk.now])
    assert desk.step() == []


def test_a_loss_that_stays_none_is_told_once(desk: Desk) -> None:
    """Also where it does for longer than keys of what is over are kept."""
    told = []
    for day in range(8):
        desk.now += 86_400 * SECOND_US // 2
        changed = "UPDATE store.series SET nonfinite = 1, last_time = ? WHERE emitter_key = 2 AND metric_key = 1"
        desk.database.cursor().execute(changed, [desk.now])
        desk.alert(10 + day, f"day {day}")
        told += [line for line in desk.step() if "diverges" in line]
    assert len(told) == 1


def test_dead_letters_are_told_together(desk: Desk) -> None:
    """A flood of them is one message: twenty lines, and how many more there are."""
    desk.database.cursor().execute(
        "INSERT INTO store.dead_letters SELECT 100 + i, 'new' || i, 'kafka:t', '0', i, ?, 'no Avro', NULL, NULL, "
        "NULL, NULL, NULL, NULL, 3, 'abc'::BLOB, NULL, 'dead', false, NULL FROM range(500) r(i)",
        [desk.now],
    )
    lines = desk.step()
    assert lines[0] == "A message of kafka:t could not be stored: no Avro"
    assert (len(lines), lines[-1][:14]) == (21, "… and 480 more")
    assert desk.step() == []
    assert desk.count("sent") == 500


def test_a_consumer_that_stores_nothing_is_told_after_a_minute(desk: Desk) -> None:
    """Once each time."""
    desk.reason = "The disk is almost full."
    assert desk.step() == []
    assert desk.step(61) == ["The consumer stores nothing: The disk is almost full."]
    assert desk.step(61) == []
    desk.reason = None
    desk.step()
    desk.reason = "The broker is away."
    desk.step()
    assert desk.step(61) == ["The consumer stores nothing: The broker is away."]


def test_a_restart_tells_nothing_again_and_forgets_nothing(desk: Desk) -> None:
    """What happened while nobody ran is news; what was told is not, and neither is what was under way."""
    desk.state(1, "lost")
    assert len(desk.step()) == 1
    desk.restart()
    assert desk.step() == []
    desk.state(2, "crashed")
    desk.restart()
    desk.answers = [Delivery("HTTP 503")]
    assert desk.step() == []
    desk.restart()  # killed before it was taken
    assert desk.step() == [f"brave-fox-1 (digits, {OTHER}) crashed: rank 0 is silent"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": 3}', '{"keys": {"a": "x"}}', "\0"])
def test_a_file_that_cant_be_read_tells_nothing_twice(desk: Desk, content: str) -> None:
    """As at the first start: what is there then is no news, what comes is."""
    desk.state(1, "lost")
    desk.step()
    (desk.folder / KEYS_FILE).write_text(content)
    desk.restart()
    assert desk.step() == []
    desk.state(2, "lost")
    assert len(desk.step()) == 1


def test_a_file_that_cant_be_written_stops_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """It is remembered until the end of the process."""
    (desk.folder / (KEYS_FILE + ".new")).mkdir()
    desk.state(1, "lost")
    assert len(desk.step()) == 1
    assert desk.step() == []
    assert desk.count("sent") == 1
    assert not caplog.records


def test_an_endpoint_that_fails_gets_it_later_and_ever_more_rarely(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Waits double up to five minutes; the trouble is said once, its end too, and never the address."""
    caplog.set_level(logging.INFO, "runwire")
    desk.answers = [Delivery("HTTP 500")] * 12
    desk.state(1, "lost")
    desk.step()
    for number, wait in enumerate([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300], start=1):
        assert desk.step(wait - 0.5) == []
        assert desk.tries == number
        desk.step(0.5)
        assert desk.tries == number + 1
    assert len(desk.arrived) == 1
    assert desk.count("failed") == 12
    assert [record.getMessage() for record in caplog.records] == [
        "The webhook at hooks.example.com takes no notices: HTTP 500. They are kept.",
        "Notices arrive at the webhook at hooks.example.com again.",
    ]


def test_an_endpoint_that_asks_to_wait_is_heard(desk: Desk) -> None:
    """No try before."""
    desk.answers = [Delivery("HTTP 429", retry_after_seconds=100)]
    desk.state(1, "lost")
    desk.step()
    assert desk.step(99) == []
    assert desk.tries == 1
    assert len(desk.step()) == 1


def test_a_message_that_is_refused_is_tried_rarely_and_dropped_in_the_end(desk: Desk) -> None:
    """An address that was revoked: tries every five minutes, for a day."""
    desk.answers = [Delivery("HTTP 404", refused=True)] * 1_000
    desk.state(1, "lost")
    for _ in range(30):
        desk.step(150)
    assert desk.tries == 15
    desk.step(86_400)
    assert desk.count("dropped") == 1
    desk.answers = []
    desk.state(2, "lost")
    assert desk.step(300) == [
        f"brave-fox-1 (digits, {OTHER}) is lost: rank 0 is silent",
        "… and 1 more: `runwire runs`, `runwire dead-letters list`.",
    ]


def test_news_in_a_flood_comes_in_few_messages(desk: Desk) -> None:
    """Ten at once, then two a minute, whatever happens; nothing is left untold."""
    for seq in range(60):
        desk.alert(100 + seq, f"alert {seq}")
        desk.step(3)
    desk.step(60)
    assert 10 + 180 / 30 <= len(desk.arrived) <= 10 + 180 / 30 + 2
    assert desk.count("sent") == 60


def test_what_waits_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound it is counted, and the count is told."""
    monkeypatch.setattr(notifying, "WAITING_MAX", 3)
    desk.answers = [Delivery("HTTP 500")]
    for seq in range(5):
        desk.alert(100 + seq, f"alert {seq}")
    desk.step()
    assert desk.count("dropped") == 2
    lines = desk.step(10)
    assert (len(lines), lines[-1][:12]) == (4, "… and 2 more")
    assert desk.step() == []


def test_hostile_texts_call_nobody_and_stay_one_line(desk: Desk) -> None:
    """Slack's markup, line breaks, control characters and length."""
    desk.state(3, "failed", "<!channel> & <https://evil|click>\n\x1b[31mred\u202e" + "x" * 1_000)
    (line,) = desk.step()
    assert line.startswith(
        f'odd "name" =1 (old, {OLD}) failed: &lt;!channel&gt; &amp; &lt;https://evil|click&gt; [31mred'
    )
    assert len(line) < 400
    assert "<" not in line
    assert line.isprintable()


def test_news_is_of_the_last_day(tmp_path: Path) -> None:
    """A log of months that is read into a new store tells of no run that failed long ago."""
    desk = Desk(tmp_path)
    assert [one.run_id for one in read_news(desk.database.cursor, NOW_US) if one.key.startswith("state:")] == [OLD]
    assert [one for one in read_news(desk.database.cursor, NOW_US + 1) if one.key.startswith("state:")] == []
    assert named(desk.database.cursor, []) == []
    desk.database.close()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(["alert", "look", "crash", "fails", "full"]), max_size=20))
def test_whatever_happens_each_alert_arrives(events: list[str]) -> None:
    """Any order of alerts, looks, kills and failing tries: at the end each was told, and twice only around a kill."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        desk.step()
        raised = kills = 0
        for event in events:
            match event:
                case "alert":
                    desk.alert(100 + raised, f"alert {raised}.")
                    raised += 1
                case "look":
                    desk.step(10)
                case "crash":
                    kills += 1
                    desk.restart()
                case "fails":
                    desk.answers.append(Delivery("HTTP 500"))
                case "full":
                    (Path(folder) / (KEYS_FILE + ".new")).mkdir(exist_ok=True)
        for _ in range(8):
            desk.step(300)
        text = "\n".join(desk.arrived)
        for number in range(raised):
            told = text.count(f": alert {number}.")
            assert 1 <= told <= 1 + kills * ("full" in events)
        desk.database.close()


def test_a_store_that_cant_be_read_is_said_once_and_asked_again(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A notifier never ends by itself."""
    cursors = desk.notifier._cursors

    def broken() -> duckdb.DuckDBPyConnection:
        raise duckdb.OutOfMemoryException("no memory\nmore")

    desk.notifier._cursors = broken
    desk.step()
    desk.step()
    assert [record.getMessage() for record in caplog.records] == [
        "Notices can't be made: OutOfMemoryException: no memory"
    ]
    desk.notifier._cursors = cursors
    desk.state(1, "lost")
    assert len(desk.step()) == 1


def test_the_thread_tells_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real endpoint; after `stop` the database may be closed. Without a webhook there is nothing to end."""
    monkeypatch.setattr(notifying, "LOOK_SECONDS", 0.02)
    database = small_store()  # in whose world it is later than now
    database.cursor().execute("UPDATE store.run_states SET since = epoch_us(now()) WHERE run_key = 3")
    (tmp_path / KEYS_FILE).write_text('{"keys": {}}')
    with Endpoint().serving() as endpoint:
        registry = CollectorRegistry()
        notifier = open_notifier(Webhook(endpoint.url), database.cursor, lambda: None, tmp_path, registry)
        notifier.start()
        wait_until(lambda: endpoint.texts, what="a notice")
        notifier.stop()
        database.close()
        assert isinstance(notifier, Notifier)
        notifier._thread.join(30)
        assert not notifier._thread.is_alive()
        assert [text.count("failed") for text in endpoint.texts] == [1]
    silence = open_notifier(None, database.cursor, lambda: None, tmp_path, CollectorRegistry())
    silence.start()
    silence.stop()
