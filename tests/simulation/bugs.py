"""Planted bugs: each changes the real code as a tired person might; the simulator has to notice every one.

A bug is a function that patches; `PLANTED` names them all. What none of them needs is knowledge of the simulator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from runwire import (
    _batch,
    _delivery,
    _following,
    _fsync,
    _journal_files,
    _recovery,
    _segment_writer,
    _segments,
    _sender,
)
from runwire import _journal as journal_module
from runwire._errors import TransportError
from runwire._waiting import Waiting
from runwire_consumer import attempts, catalog, change, decode, intake, ledger, pieces, runstate, writing
from runwire_consumer import store as store_module
from runwire_consumer.errors import StoreFull
from runwire_consumer.ledger import Disposition
from runwire_consumer.sources import anchors, kafka, topic_facts
from tests.simulation import trainer
from tests.simulation.world import Patches

Plant = Callable[[Patches], None]
PLANTED: dict[str, Plant] = {}


def planted(plant: Plant) -> Plant:
    """Give a bug its name."""
    PLANTED[plant.__name__] = plant
    return plant


@contextlib.contextmanager
def with_bug(name: str | None) -> Iterator[None]:
    """The code with this bug in it; None for the code as it is."""
    with Patches() as patches:
        if name is not None:
            PLANTED[name](patches)
        yield


# The store.


@planted
def no_compare_and_set(patch: Patches) -> None:
    """Offsets are set, whoever moved them meanwhile."""
    patch.set(store_module, "_MOVE_OFFSETS", store_module._MOVE_OFFSETS.replace("AND o.next_offset = n.expected", ""))


@planted
def offsets_before_data(patch: Patches) -> None:
    """Offsets are committed in a transaction of their own, ahead of the rows."""
    move = store_module.Store._move_offsets

    def moved(self: Any, what: Any) -> None:
        move(self, what)
        self._writer.execute("COMMIT")
        self._writer.execute("BEGIN")

    patch.set(store_module.Store, "_move_offsets", moved)


@planted
def memory_before_commit(patch: Patches) -> None:
    """The catalog learns of a change that may not be committed."""
    move = store_module.Store._move_offsets

    def moved(self: Any, what: Any) -> None:
        move(self, what)
        what.apply(self.catalog)

    patch.set(store_module.Store, "_move_offsets", moved)


@planted
def points_in_their_own_transaction(patch: Patches) -> None:
    """Rows and points are committed before ledger and small tables."""
    merge = store_module.Store._merge_ledgers

    def merged(self: Any, what: Any) -> None:
        self._writer.execute("COMMIT")
        self._writer.execute("BEGIN")
        merge(self, what)

    patch.set(store_module.Store, "_merge_ledgers", merged)


@planted
def ledger_ranges_never_deleted(patch: Patches) -> None:
    """A range that became part of another one stays in the table."""
    changes = ledger.Ledger.changes_since
    patch.set(ledger.Ledger, "changes_since", lambda self, before: (changes(self, before)[0], []))


@planted
def emitter_key_given_twice(patch: Patches) -> None:
    """The first key never used isn't remembered."""
    apply = change.Change.apply

    def applied(self: Any, known: Any) -> None:
        key = known.next_emitter_key
        apply(self, known)
        known.next_emitter_key = min(key + 1, known.next_emitter_key) - (len(self.emitters) > 1)

    patch.set(change.Change, "apply", applied)


@planted
def a_full_disk_is_forgotten(patch: Patches) -> None:
    """A batch that met a full disk isn't written again."""

    def write(self: Any, messages: Any, moment: Any) -> Any:
        try:
            return self._commit([decode.decode(message) for message in messages], moment)
        except StoreFull:
            return []

    patch.set(writing.Writer, "write", write)


# Ledger and intake.


@planted
def plain_high_water_mark(patch: Patches) -> None:
    """Whatever lies below the highest number seen counts as a duplicate."""
    admit = ledger.Ledger.admit

    def admitted(self: Any, first_seq: int, count: int) -> Any:
        first = max(first_seq, self.ends[-1] if self.ends else 0)
        return admit(self, first, first_seq + count - first) if first < first_seq + count else []

    patch.set(ledger.Ledger, "admit", admitted)


@planted
def dead_rows_stay_dead(patch: Patches) -> None:
    """A row that was dead or lost isn't stored when it comes after all."""

    def not_stored(self: Any, first_seq: int, end_seq: int) -> Any:
        known = [*zip(self.firsts, self.ends, strict=True)]
        free = [seq for seq in range(first_seq, end_seq) if not any(a <= seq < b for a, b in known)]
        return [(seq, seq + 1) for seq in free]

    def admit(self: Any, first_seq: int, count: int) -> Any:
        fresh = not_stored(self, first_seq, first_seq + count)
        for first, end in fresh:
            self._paint(first, end, Disposition.STORED)
        return fresh

    patch.set(ledger.Ledger, "admit", admit)


@planted
def a_loss_hides_what_is_stored(patch: Patches) -> None:
    """A declaration paints over stored rows."""

    def declare(self: Any, first_seq: int, count: int, disposition: Any) -> Any:
        if count:
            self._paint(first_seq, first_seq + count, disposition)
        return []

    patch.set(ledger.Ledger, "declare", declare)


@planted
def whole_batch_admitted(patch: Patches) -> None:
    """A batch of which anything is new is stored whole."""
    admit = ledger.Ledger.admit
    patch.set(
        ledger.Ledger,
        "admit",
        lambda self, first, count: [(first, first + count)] if admit(self, first, count) else [],
    )


@planted
def each_message_starts_from_the_catalog(patch: Patches) -> None:
    """The ledger of a transaction doesn't know of the message before."""

    def fresh(self: Any, emitter_key: int) -> Any:
        known = self._catalog.ledgers.get(emitter_key)
        mine = self._change.ledgers[emitter_key] = known.copy() if known else ledger.Ledger()
        return mine

    patch.set(intake.Intake, "_ledger", fresh)


@planted
def part_of_a_block_from_its_start(patch: Patches) -> None:
    """Of a block whose beginning is known, the wrong columns are taken."""
    take = intake.Intake._take_block

    def taken(self: Any, emitter: Any, block: Any, *where: int) -> None:
        _, begin, _ = where
        if begin:
            values = np.asarray(block.values).reshape(len(block.keys), -1)
            values = np.concatenate([values[:, begin:], values[:, :begin]], axis=1)[:, ::-1]
            block = dataclasses.replace(block, values=values.ravel())
        take(self, emitter, block, *where)

    patch.set(intake.Intake, "_take_block", taken)


@planted
def dead_letters_move_no_offset(patch: Patches) -> None:
    """Poison is met again and again."""
    bury = intake.Intake._bury

    def buried(self: Any, letter: Any) -> None:
        bury(self, letter)
        self._change.positions.pop((letter.message.source, letter.message.partition), None)

    patch.set(intake.Intake, "_bury", buried)


@planted
def dead_rows_are_not_accounted(patch: Patches) -> None:
    """A dead letter's rows are in no ledger, and in no column either."""
    bury = intake.Intake._bury
    patch.set(
        intake.Intake,
        "_bury",
        lambda self, letter: bury(self, dataclasses.replace(letter, envelope=None)),
    )


@planted
def values_as_floats_of_32_bits(patch: Patches) -> None:
    """Half of each value is forgotten."""
    lay_out = pieces.lay_out

    def laid(found: Any) -> Any:
        return lay_out([dataclasses.replace(one, values=one.values.astype("f4").astype("f8")) for one in found])

    patch.set(store_module, "lay_out", laid)


# States and attempts.


@planted
def every_end_is_a_good_one(patch: Patches) -> None:
    """Crashed emitters count as finished."""
    state = runstate._rank_state
    patch.set(
        runstate,
        "_rank_state",
        lambda signs, *rest: state(dataclasses.replace(signs, how=signs.how and "finished"), *rest),
    )


@planted
def attempts_by_token_alone(patch: Patches) -> None:
    """The order of attempts is that of their names."""

    def numbered(senders: Any) -> dict[str, int]:
        tokens = {sender.attempt for sender in senders if sender.role == attempts.TRAIN}
        return {token: number for number, token in enumerate(sorted(tokens, reverse=True), start=1)}

    patch.set(attempts, "number_attempts", numbered)


# The source.


@planted
def no_anchor(patch: Patches) -> None:
    """A log that was made anew is read on from the old offset."""
    patch.set(anchors.Anchor, "is_of", lambda *_: True)
    patch.set(anchors.Anchor, "is_elsewhere", lambda *_: False)


@planted
def read_is_sure(patch: Patches) -> None:
    """After a change of leaders only the record that was read last is compared, not what was read before the look."""
    doubt = kafka.KafkaSource._doubt

    def doubted(self: Any, consumer: Any, number: int) -> None:
        known = self._partitions[number]
        known.sure = (known.next_offset, known.anchor)
        doubt(self, consumer, number)

    patch.set(kafka.KafkaSource, "_doubt", doubted)


@planted
def leaders_are_not_looked_at(patch: Patches) -> None:
    """A log that was cut under a live connection is read on."""
    ask = topic_facts.ask_topic

    async def asked(client: Any, topic: str) -> Any:
        facts = await ask(client, topic)
        return facts and dataclasses.replace(facts, leaders=dict.fromkeys(facts.leaders, (0, 0, None)))

    patch.set(kafka, "ask_topic", asked)


@planted
def keys_of_letters_are_given_twice(patch: Patches) -> None:
    """The first key of a letter that was never used isn't remembered."""
    apply = change.Change.apply

    def applied(self: Any, known: Any) -> None:
        key = known.next_letter_key
        apply(self, known)
        known.next_letter_key = key

    patch.set(change.Change, "apply", applied)


@planted
def names_of_the_store_are_not_read(patch: Patches) -> None:
    """A run that this process doesn't know is a new one."""
    patch.set(catalog.Catalog, "fetch_names", lambda *_: None)


@planted
def out_of_range_means_the_end(patch: Patches) -> None:
    """Where the wanted offset is gone, reading goes on at the end."""

    async def recover(self: Any, consumer: Any, error: Any) -> None:
        wanted = error.args[0]
        for where, end in (await consumer.end_offsets(list(wanted))).items():
            self._partitions[where.partition].next_offset = end
            self._partitions[where.partition].doubted = False
            consumer.seek(where, end)

    patch.set(kafka.KafkaSource, "_recover_offsets", recover)


@planted
def retention_takes_silently(patch: Patches) -> None:
    """Records that expired unread leave no trace."""
    patch.set(kafka.KafkaSource, "_take_lost", lambda _: [])


# Sending.


@planted
def acknowledge_first(patch: Patches) -> None:
    """Rows count as delivered when they are handed over."""
    fill = _delivery.Window._fill

    def filled(self: Any, found: Any) -> None:
        fill(self, found)
        for message in self._window:
            self._origin_of(message).acknowledge(message)
        self._on_acknowledged()

    patch.set(_delivery.Window, "_fill", filled)


@planted
def a_failed_window_is_dropped(patch: Patches) -> None:
    """After an error the next messages go."""
    send = _delivery.Window.send

    async def sent(self: Any, transport: Any, found: Any) -> None:
        try:
            await send(self, transport, found)
        except TransportError as error:
            if not error.refused:
                self._window.clear()
            raise

    patch.set(_delivery.Window, "send", sent)


@planted
def the_second_half_is_forgotten(patch: Patches) -> None:
    """A refused message is halved, and one half goes."""
    halve = _batch.halve
    patch.set(_delivery, "halve", lambda message, header: halve(message, header)[:1])


@planted
def refused_rows_are_not_declared(patch: Patches) -> None:
    """What the broker never takes just goes."""
    patch.set(_sender.Sender, "_new_delivery", _silent(_sender.Sender._new_delivery))


def _silent(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(self: Any, acknowledged_seq: int) -> Any:
        delivery = make(self, acknowledged_seq)
        delivery.declare_loss = lambda *_: None
        return delivery

    return made


@planted
def trimmed_as_read(patch: Patches) -> None:
    """Segments are deleted when they are read, not when they are acknowledged."""

    def trim(self: Any) -> None:
        while len(self._readers) > 1:
            self._readers.pop(0).close()
        if self._readers and not self._abandoned:
            self._journal.trim(self._readers[0].header.number, self.acknowledged_seq)

    patch.set(_sender.Sender, "_trim", trim)


@planted
def the_rest_is_not_sent(patch: Patches) -> None:
    """What found no room until the end is taken, and forgotten."""
    take = journal_module.Journal.take_rest

    def taken(self: Any) -> Any:
        take(self)
        return []

    patch.set(journal_module.Journal, "take_rest", taken)


@planted
def an_end_too_early(patch: Patches) -> None:
    """EmitterEnded names what was there before the last records."""
    ended = trainer.Speaker.ended
    patch.set(trainer.Speaker, "ended", lambda self, next_seq, how: ended(self, max(next_seq - 1, 0), how))


# The journal.


@planted
def torn_tail_accepted(patch: Patches) -> None:
    """Check sums are not looked at, and any bytes behind the last record are one."""

    def whole(data: bytes, seq: int) -> tuple[int, int]:
        at = 0
        while at + _segments.RECORD_BYTES <= len(data):
            _, _, length, kind, number, _, _ = _segments.RECORD.unpack_from(data, at)
            end = at + _segments.RECORD_BYTES + length
            if end > len(data) or kind & 0xFF not in range(1, 5):
                break
            seq = number + 1 if kind & 0xFF in (_segments.ROW, _segments.EVENT) else seq
            at = end + (-length % 8)
        return at, seq

    patch.set(_segments, "_whole", whole)


@planted
def a_drop_is_not_declared(patch: Patches) -> None:
    """At the cap a segment just goes."""
    add = Waiting.add_loss
    patch.set(Waiting, "add_loss", lambda self, loss: None if "reached" in loss.reason else add(self, loss))


@planted
def records_go_with_their_segment(patch: Patches) -> None:
    """At the cap lifecycle records are not copied forward."""
    patch.set(_segment_writer.SegmentWriter, "_hold", lambda *_: None)


@planted
def copied_records_keep_their_number(patch: Patches) -> None:
    """A record that is copied forward has two numbers, one in its place and one in its payload."""
    hold = _segment_writer.SegmentWriter._hold

    def held(self: Any, seq: int, payload: bytes) -> None:
        before, self._renumber = self._renumber, lambda payload, _: payload
        try:
            hold(self, seq, payload)
        finally:
            self._renumber = before

    patch.set(_segment_writer.SegmentWriter, "_hold", held)


@planted
def rows_read_over_a_missing_number(patch: Patches) -> None:
    """What the simulator found first: rows of one key set are taken as consecutive."""
    same = _segments._same_rows

    def taken(data: bytes, at: int, length: int, kind: int, rows_max: int) -> Any:
        first = same(data, at, length, kind, 1)
        rows = np.frombuffer(data, first.dtype, min((len(data) - at) // first.dtype.itemsize, rows_max), at)
        wrong = (rows["kind"] != kind) | (rows["length"] != length) | (rows["commit"] != _segments.COMMIT)
        return rows[: int(wrong.argmax())] if wrong.any() else rows

    patch.set(_segments, "_same_rows", taken)


@planted
def a_late_refusal_dies_with_the_process(patch: Patches) -> None:
    """Found second: a loss that is declared behind the seal is in memory alone."""
    declare = journal_module.Journal.declare_loss

    def declared(self: Any, *loss: Any) -> None:
        keep, self._keep_rest = self._keep_rest, lambda: None
        try:
            declare(self, *loss)
        finally:
            self._keep_rest = keep

    patch.set(journal_module.Journal, "declare_loss", declared)


@planted
def reused_emitter_id(patch: Patches) -> None:
    """A process that starts again in the same place goes on as the emitter that died."""
    ids: list[str] = []

    def new_id(world: Any) -> str:
        free = [one for one in ids if not (world.journals / one).exists() and one in world.truths]
        ids.append(free[-1] if free else f"{world.rng.getrandbits(128):032x}")
        return ids[-1]

    patch.set(trainer, "new_emitter_id", new_id)


@planted
def full_segments_are_not_synced(patch: Patches) -> None:
    """fsync="each" forgets what was written before the segment was full."""
    patch.set(_fsync.SyncedJournal, "_sync_open", lambda _: None)


@planted
def names_are_not_synced(patch: Patches) -> None:
    """fsync="each" brings bytes to the disk, and not the names of new segments."""
    patch.set(_fsync.SyncedJournal, "_sync_names", lambda _: None)


# Recovery and relay.


@planted
def deleted_though_not_sent(patch: Patches) -> None:
    """Recovery removes what it couldn't deliver."""
    deliver = _recovery._deliver

    async def delivered(*args: Any, **kwargs: Any) -> str:
        await deliver(*args, **kwargs)
        return ""

    patch.set(_recovery, "_deliver", delivered)


@planted
def recovery_says_no_end(patch: Patches) -> None:
    """A dead emitter's receipt stays open."""
    patch.set(_recovery.DeadJournal, "closing", lambda _: iter(()))


@planted
def holes_are_not_declared(patch: Patches) -> None:
    """Recovery passes over what is damaged without a word."""
    account = _recovery.DeadJournal._account

    def accounted(self: Any, next_seq: int, _: Any, pending: Any) -> None:
        account(self, next_seq, [], pending)

    patch.set(_recovery.DeadJournal, "_account", accounted)


@planted
def the_living_are_recovered(patch: Patches) -> None:
    """Nobody asks whether a journal's owner lives."""
    patch.set(_journal_files, "claim", lambda _: True)
    patch.set(_recovery, "claim", lambda _: True)
    patch.set(_recovery, "_lock", lambda folder: os.open(folder / "owner", os.O_RDWR))


@planted
def the_mark_runs_ahead(patch: Patches) -> None:
    """A relay marks what it has read, not what is acknowledged."""
    take = _following.LiveJournal.take

    def taken(self: Any, count: int) -> Any:
        found = take(self, count)
        self.acknowledged_seq = max(self.acknowledged_seq, self.next_seq)
        self.settle()
        return found

    patch.set(_following.LiveJournal, "take", taken)


@planted
def rest_of_the_lock_file_is_not_read(patch: Patches) -> None:
    """Recovery doesn't declare what the journal itself couldn't."""
    patch.set(_recovery, "unpack_rest", lambda _: (0, []))
