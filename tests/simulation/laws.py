"""The laws: what has to hold after each commit, whenever a journal's bytes are deleted, and when all is quiet.

Safety (checked at every step, faults or not):

S1. No row is stored twice, none that was never logged, and each with the values, step and time it was logged with.
S2. The ledger's stored ranges are the rows and records that are stored; ranges never overlap.
S3. Offsets never go back, but where an older database was put back, or a connection broke or a leader changed: what was
    read since the last look isn't trusted then, and read again.
S4. A row whose bytes are deleted from the journal is in the log, or declared lost for a cause.

Liveness and the whole (after healing, in bounded virtual time):

L1. Journals are gone, offsets stand at the end of each partition.
L2. Each row whose log() returned is in exactly one of: stored, dead letter, declared loss. A loss has a cause that the
    simulator knows; so has a dead letter. What is whole in the log is stored, whatever was said of it before. What the
    log itself lost after acknowledging is excused, and never told wrong.
L3. Each lifecycle record is stored, once (one that was copied forward at the cap may be there under both numbers).
L4. Every emitter's end is known, nothing is behind it, and its receipt is complete.
L5. Each run's state, and the order of its attempts, are those of a naive model.
L6. Dead letters have a key each, and those that are whole have their payload, nobody else.
"""

from __future__ import annotations

import json
import struct
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runwire_consumer.attempts import number_attempts
from runwire_consumer.ledger import Disposition, Ledger, Range

if TYPE_CHECKING:
    from tests.simulation.trainer import Logged, Truth
    from tests.simulation.world import World

STATES = ("failed", "crashed", "preempted", "finished")


class Violation(Exception):
    """A law is broken."""


class Laws:
    """The laws of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stored: set[tuple[int, int]] = set()
        self._positions: dict[str, int] = {}
        self._rewinds: Counter[str] = Counter()
        self._intact: set[tuple[str, int]] = set()
        self.commits = 0
        self.rows = 0

    def restored(self) -> None:
        """The database is an older one now."""
        self._stored = {
            (row["emitter_key"], row["seq"])
            for name in ("rows", "lifecycle")
            for row in self._world.engine.contents()[name]
        }
        self._positions.clear()

    # Safety.

    def committed(self, inserted: dict[str, list[dict[str, Any]]]) -> None:
        """After each COMMIT of the model engine."""
        self.commits += 1
        tables = self._world.engine.database.tables  # type: ignore[union-attr]
        emitters = tables["emitters"]
        values = self._points_of(inserted)
        names: dict[int, str] | None = None
        touched = set()
        for kind in ("rows", "lifecycle"):
            for row in inserted.get(kind, ()):
                key = (row["emitter_key"], row["seq"])
                touched.add(row["emitter_key"])
                if key in self._stored:
                    self._fail(f"S1: row {key} is stored twice")
                self._stored.add(key)
                if kind == "rows":
                    if names is None:
                        names = {metric["metric_key"]: metric["name"] for metric in tables["metrics"]}
                    self.rows += 1
                    emitter = emitters.get((row["emitter_key"],))
                    if emitter is None:
                        self._fail(f"S1: row {key} has no emitter")
                        continue
                    found = {names.get(metric, "?"): value for metric, value in values[key].items()}
                    self._is_true(emitter["emitter_id"], row, found)
        for key, emitter_id in ((one["emitter_key"], one["emitter_id"]) for one in emitters.values()):
            if key in touched:
                self._ledger_is(key, emitter_id, tables)
        self._offsets_rise(tables["offsets"])

    def _points_of(self, inserted: dict[str, list[dict[str, Any]]]) -> dict[tuple[int, int], dict[int, float]]:
        values: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
        for point in inserted.get("points", ()):
            place = values[point["emitter_key"], point["seq"]]
            if point["metric_key"] in place:
                self._fail(f"S1: a point is there twice: {point}")
            place[point["metric_key"]] = point["value"]
        return values

    def _is_true(self, emitter_id: str, row: dict[str, Any], found: dict[str, float]) -> None:
        truth = self._world.truths.get(emitter_id)
        if truth is None:
            self._fail(f"S1: a row of an emitter that never was: {emitter_id}")
            return
        logged = truth.rows.get(row["seq"])
        candidates = [logged] if logged is not None else truth.maybe
        if not any(_same(one, row, found) for one in candidates):
            self._fail(f"S1: row {row['seq']} of {emitter_id[:4]} isn't what was logged: {row} {found} {logged}")

    def _ledger_is(self, key: int, emitter_id: str, tables: Any) -> None:
        ranges = sorted(
            (one["first_seq"], one["end_seq"], one["disposition"])
            for one in tables["ledger"].values()
            if one["emitter_key"] == key
        )
        end_before, stored = 0, 0
        for first, end, what in ranges:
            if first < end_before or first >= end:
                self._fail(f"S2: ledger ranges of {emitter_id[:4]} overlap: {ranges}")
            end_before = end
            if what == "stored":
                stored += end - first
                if any((key, seq) not in self._stored for seq in range(first, end)):
                    self._fail(f"S2: the ledger of {emitter_id[:4]} names rows that are not stored: {ranges}")
        if stored != sum(owner == key for owner, _ in self._stored):
            self._fail(f"S2: the ledger of {emitter_id[:4]} doesn't name all rows that are stored: {ranges}")

    def _offsets_rise(self, offsets: Any) -> None:
        for (_, partition), row in offsets.items():
            before = self._positions.get(partition, 0)
            if row["next_offset"] < before:
                self._rewinds[partition] += 1
                # Each consumer that lives then may notice it for itself.
                # Of each break: back to where it was sure, and to the start, where that record is another one.
                if self._rewinds[partition] > 2 * self._world.broker.breaks * len(self._world.consumers):
                    self._fail(f"S3: partition {partition} went back from {before} to {row['next_offset']}")
            self._positions[partition] = row["next_offset"]

    def deleted(self, truth: Truth, where: Callable[[Logged], bool]) -> None:
        """A journal's bytes are going: S4."""
        broker = self._world.broker
        for seq, row in truth.rows.items():
            if (
                where(row)
                and (truth.emitter_id, seq) not in broker.appended
                and seq not in truth.may_lose
                and seq not in truth.excused
                and (truth.emitter_id, seq) not in broker.refused
            ):
                self._fail(f"S4: row {seq} of {truth.emitter_id[:4]} was deleted and is not in the log")

    # The whole.

    def is_quiet(self) -> str:
        """What still has to happen; "" when nothing."""
        world = self._world
        if world.broker.late_waiting:
            return "late requests are on their way"
        waiting = [name for name in world.waiting_journals() if not world.truths[name].may_stay]
        if waiting:
            return f"journals wait: {[name[:4] for name in waiting]}"
        contents = world.engine.contents()
        offsets = {int(row["partition"]): row["next_offset"] for row in contents["offsets"]}
        for number, part in enumerate(world.broker.partitions):
            if part.records and offsets.get(number, 0) != part.end:
                return f"L1: partition {number} is read up to {offsets.get(number)} of {part.end}"
        return ""

    def hold(self) -> None:
        """All laws of a quiet world."""
        contents = self._world.engine.contents()
        emitters = {row["emitter_id"]: row for row in contents["emitters"]}
        self._intact = {
            (record.emitter, seq)
            for part in self._world.broker.partitions
            for record in part.records
            if not record.is_damaged
            for seq in range(record.first_seq, record.first_seq + record.count)
        }
        rows: dict[tuple[int, int], list[Any]] = defaultdict(list)
        for row in (*contents["rows"], *contents["lifecycle"]):
            rows[row["emitter_key"], row["seq"]].append(row)
        ledgers: dict[int, list[Range]] = defaultdict(list)
        for one in contents["ledger"]:
            ledgers[one["emitter_key"]].append(Range(one["first_seq"], one["end_seq"], Disposition(one["disposition"])))
        dead: dict[str, set[int]] = defaultdict(set)
        for letter in contents["dead_letters"]:
            if letter["emitter_id"] is not None and letter["count"]:
                dead[letter["emitter_id"]].update(range(letter["first_seq"], letter["first_seq"] + letter["count"]))
        for truth in self._world.truths.values():
            emitter = emitters.get(truth.emitter_id)
            key = -1 if emitter is None else emitter["emitter_key"]
            try:
                ledger = Ledger(ledgers[key])
            except ValueError as error:
                self._fail(f"S2: {error}")
                continue
            self._rows_are_somewhere(truth, key, ledger, rows, dead[truth.emitter_id])
            if emitter is not None:
                self._end_is_known(truth, emitter, ledger)
        self._records_are_there(contents, emitters)
        self._states_are(contents, emitters)
        self._expired_is_said(contents)
        self._letters_are_whole(contents)

    def _rows_are_somewhere(
        self, truth: Truth, key: int, ledger: Ledger, rows: dict[tuple[int, int], list[Any]], dead: set[int]
    ) -> None:
        """L2."""
        broker, name = self._world.broker, truth.emitter_id[:4]
        intact = self._intact
        places = {seq: one.disposition for one in ledger.ranges() for seq in range(one.first_seq, one.end_seq)}
        for seq in truth.rows:
            what = places.get(seq)
            stored = len(rows.get((key, seq), ()))
            place = (truth.emitter_id, seq)
            if stored > 1 or (stored == 1) != (what is Disposition.STORED):
                self._fail(f"L2: row {seq} of {name} is stored {stored} times, the ledger says {what}")
            elif what is not Disposition.STORED and place in intact:
                self._fail(f"L2: row {seq} of {name} is in the log, whole, and {what} in the ledger")
            elif what is None:
                if seq not in dead and place not in broker.gone and seq not in truth.excused:
                    self._fail(f"L2: row {seq} of {name} is nowhere")
            elif what is Disposition.LOST:
                if seq not in truth.may_lose and seq not in truth.excused and place not in broker.refused:
                    self._fail(f"L2: row {seq} of {name} is declared lost without a cause")
            elif what is Disposition.DEAD and place not in broker.damaged:
                self._fail(f"L2: row {seq} of {name} is a dead letter without a cause")

    def _end_is_known(self, truth: Truth, emitter: dict[str, Any], ledger: Ledger) -> None:
        """L4."""
        broker, name = self._world.broker, truth.emitter_id[:4]
        if truth.emitter_id in broker.gone_ends or truth.may_stay:
            return
        if emitter["next_seq"] is None:
            self._fail(f"L4: the end of {name} is unknown")
            return
        # A last record that was damaged after it was sent looks to recovery as if it had never been.
        behind = set(range(emitter["next_seq"], ledger.ends[-1] if ledger.ends else 0))
        if not behind <= truth.excused:
            self._fail(f"L4: {name} ends at {emitter['next_seq']}, and its ledger at {ledger.ends[-1]}")
        if emitter["next_seq"] <= max(truth.rows.keys() - truth.excused, default=-1):
            self._fail(f"L4: {name} ends at {emitter['next_seq']}, behind rows that were logged")
        lost = {seq for emitter_id, seq in broker.gone | broker.damaged if emitter_id == truth.emitter_id}
        holes = {seq for first, end in ledger.missing(emitter["next_seq"]) for seq in range(first, end)}
        if not holes <= lost | truth.excused:
            self._fail(f"L4: {name} misses {sorted(holes - lost)[:5]} below its end {emitter['next_seq']}")

    def _records_are_there(self, contents: Any, emitters: Any) -> None:
        """L3."""
        broker = self._world.broker
        found: dict[int, list[str]] = defaultdict(list)
        for row in contents["lifecycle"]:
            found[row["emitter_key"]].append(_name_of(row))
        for truth in self._world.truths.values():
            emitter = emitters.get(truth.emitter_id)
            here = found[emitter["emitter_key"]] if emitter else []
            hurt = any(
                emitter_id == truth.emitter_id for emitter_id, _ in broker.gone | broker.damaged | broker.refused
            )
            for text, is_certain in truth.texts.items():
                count = here.count(text)
                if count == 0 and is_certain and not hurt:
                    self._fail(f"L3: record {text!r} of {truth.emitter_id[:4]} is nowhere")
                if count > 1 and not truth.has_moved:
                    self._fail(f"L3: record {text!r} of {truth.emitter_id[:4]} is there {count} times")
            if not set(here) <= truth.texts.keys() | {"RowsLost"} | ({"RunEnded"} if truth.killed else set()):
                self._fail(f"L3: {truth.emitter_id[:4]} never said {sorted(set(here) - truth.texts.keys())}")

    def _states_are(self, contents: Any, emitters: Any) -> None:
        """L5."""
        world = self._world
        run_keys = {row["run_id"]: row["run_key"] for row in contents["runs"]}
        states = {row["run_key"]: row["state"] for row in contents["run_states"]}
        by_run: dict[str, list[Truth]] = defaultdict(list)
        for truth in world.truths.values():
            by_run[truth.run_id].append(truth)
        for run_id, truths in by_run.items():
            members = [emitters.get(truth.emitter_id) for truth in truths]
            hurt = any(one is None for one in members) or any(
                truth.emitter_id in world.broker.gone_ends
                or truth.may_stay
                or not all(truth.texts.values())
                or any(
                    emitter_id == truth.emitter_id
                    for emitter_id, _ in world.broker.gone | world.broker.damaged | world.broker.refused
                )
                for truth in truths
            )
            if hurt:
                continue
            places: dict[str, tuple[int, int]] = {}
            for truth in truths:
                count, start = places.get(truth.attempt, (truth.restart_count, truth.started_at))
                places[truth.attempt] = (max(count, truth.restart_count), min(start, truth.started_at))
            order = sorted(places, key=lambda token: (*places[token], token))
            senders = [_Sender(one) for one in members]
            numbers = number_attempts(senders)  # type: ignore[arg-type]
            if sorted(numbers, key=numbers.__getitem__) != order:
                self._fail(f"L5: attempts of {run_id} are ordered {numbers}, not {order}")
            newest: dict[int, Truth] = {}
            for truth in sorted(truths, key=lambda one: (one.started_at, one.emitter_id)):
                if truth.attempt == order[-1]:
                    newest[truth.rank] = truth
            ranks = [truth.status or "crashed" for truth in newest.values()]
            expected = min(ranks, key=STATES.index)
            if states.get(run_keys[run_id]) != expected:
                self._fail(f"L5: run {run_id} is {states.get(run_keys[run_id])}, not {expected} ({ranks})")

    def _expired_is_said(self, contents: Any) -> None:
        world = self._world
        if world.broker.expired_unread and not world.broker.anomalies and not world.restores:
            said = [one for one in contents["dead_letters"] if "retention" in one["reason"]]
            if not said:
                self._fail(f"L2: retention took {world.broker.expired_unread} unread records, and nobody says so")

    def _letters_are_whole(self, contents: Any) -> None:
        """L6."""
        payloads = {one["letter_key"]: one for one in contents["letter_payloads"]}
        keys = [one["letter_key"] for one in contents["dead_letters"]]
        if len(set(keys)) != len(keys):
            self._fail(f"L6: dead letters share a key: {sorted(keys)}")
        whole = {one["letter_key"] for one in contents["dead_letters"] if one["whole"]}
        if whole != payloads.keys():
            self._fail(f"L6: payloads are kept of {sorted(payloads)}, and not of {sorted(whole)}")
        for letter in contents["dead_letters"]:
            kept = payloads.get(letter["letter_key"])
            if kept is not None and len(kept["payload"]) != letter["bytes"]:
                self._fail(f"L6: of dead letter {letter['letter_key']} only a part is kept")

    def _fail(self, text: str) -> None:
        self._world.fail(text)


class _Sender:
    def __init__(self, row: dict[str, Any]) -> None:
        self.__dict__.update(row)


def _same(logged: Logged, row: dict[str, Any], found: dict[str, float]) -> bool:
    return (
        row["step"] == logged.step
        and row["time"] == logged.time
        and found.keys() == set(logged.keys)
        and all(_bits(found[key]) == _bits(value) for key, value in zip(logged.keys, logged.values, strict=True))
    )


def _bits(value: float) -> bytes:
    return struct.pack("<d", value)


def _name_of(row: dict[str, Any]) -> str:
    if row["type"] == "TextLogged":
        return str(json.loads(row["body"])["text"])
    return str(row["type"])
