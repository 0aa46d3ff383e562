"""Checks of the log: broker and topic with their settings, the folder's files, and how much waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runwire_consumer.doctor import Finding, error, note, ok, warning
from runwire_consumer.doctor.home import NAMES_SHOWN_MAX, many, names, size, span
from runwire_consumer.doctor.topic import BrokerFacts, PartitionFacts
from runwire_schemas.topics import TOPIC_CONFIG

RETENTION_SECONDS_MIN = 86_400.0
MESSAGE_BYTES_MIN = 1_000_000
TORN_TAIL_SECONDS = 60.0

_FOREVER = -1


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of a topic folder that reaches beyond its stored offset.

    Attributes:
        name: Of the file.
        complete_bytes: Whole blocks that are not stored yet.
        damaged_bytes: What is no block, with blocks behind it.
        torn_bytes: What is no block, at the end.
        idle_seconds: Since it was last written to.
    """

    name: str
    complete_bytes: int
    damaged_bytes: int
    torn_bytes: int
    idle_seconds: float


def check_broker(facts: BrokerFacts, url: str) -> list[Finding]:
    """Whether the broker answers, and its topic is one that nothing is lost in."""
    if facts.trouble:
        return [
            error("broker", facts.trouble, url, "Journals wait meanwhile; start the broker or correct RUNWIRE_URL.")
        ]
    if not facts.exists:
        text = "The topic doesn't exist yet: the first process that sends, or `runwire up`, makes it."
        return [note("topic", text, url)]
    found = [*_check_partitions(facts, url), *_check_settings(facts, url)]
    kept = "for ever" if (seconds := facts.retention_seconds) is None else f"for {span(seconds)}"
    sound = f"{many(len(facts.partitions), 'partition')}, replication {facts.replicas}, kept {kept}."
    return [ok("broker", f"The topic is there ({many(facts.brokers, 'broker')})."), *(found or [ok("topic", sound)])]


def _check_partitions(facts: BrokerFacts, url: str) -> list[Finding]:
    found = []
    if leaderless := [one for one in facts.partitions if not one.has_leader]:
        text = f"Partitions {_numbers(leaderless)} have no leader: nothing can be written to or read from them."
        found.append(error("topic", text, url, "Start the brokers that hold their replicas."))
    if thin := [one for one in facts.partitions if one.has_leader and one.in_sync < one.replicas]:
        text = f"Replicas of partitions {_numbers(thin)} are not in sync."
        found.append(warning("topic", text, url, "See why a broker lags or is away, before another one fails."))
    if facts.replicas == 1 and facts.brokers > 1:
        text = f"Records have one copy only, though there are {facts.brokers} brokers: one that dies takes them along."
        found.append(warning("topic", text, url, "Reassign the partitions with 3 replicas."))
    elif facts.replicas == 1:
        text = "Records have one copy only: power loss of the broker may take the newest, which senders have let go of."
        found.append(note("topic", text, url, "Where that matters use 3 brokers."))
    in_sync_min = facts.number("min.insync.replicas")
    if facts.replicas > 1 and in_sync_min == 1:
        text = f"min.insync.replicas is 1: a record counts as safe when one of {facts.replicas} replicas has it."
        found.append(warning("topic", text, url, f"Set it to {facts.replicas - 1}."))
    return found


def _check_settings(facts: BrokerFacts, url: str) -> list[Finding]:
    if not facts.config:
        return [note("topic", "The broker doesn't tell the topic's settings: they are not checked.", url)]
    found = []
    for name, wanted in TOPIC_CONFIG.items():
        if facts.config.get(name, wanted) != wanted:
            text = (
                f"{name} is {facts.config[name]}, not {wanted}: lag and run states are told by other machines' clocks, "
                "and a broker may refuse records. Somebody else made the topic, or the broker did by itself."
            )
            found.append(warning("topic", text, url, f"Set it: kafka-configs.sh --alter --add-config {name}={wanted}."))
    policy = facts.config.get("cleanup.policy", "delete")
    if "compact" in policy:
        text = f"cleanup.policy is {policy}: the broker deletes all but the newest record of each run."
        found.append(error("topic", text, url, "Set cleanup.policy=delete now; what is deleted can't be had back."))
    seconds = facts.retention_seconds
    if seconds is not None and seconds < RETENTION_SECONDS_MIN:
        text = f"Records are kept for {span(seconds)} only: an outage of the consumer that lasts longer loses rows."
        found.append(warning("topic", text, url, "Raise retention.ms to some days."))
    retained_bytes = facts.number("retention.bytes")
    if retained_bytes is not None and retained_bytes != _FOREVER:
        text = f"A partition keeps {size(retained_bytes)} at most (retention.bytes): busy days shorten what is kept."
        found.append(note("topic", text, url))
    message_bytes = facts.number("max.message.bytes")
    if message_bytes is not None and message_bytes < MESSAGE_BYTES_MIN:
        text = f"Records of more than {size(message_bytes)} are refused: messages of wide rows may be set aside."
        found.append(warning("topic", text, url, f"Set max.message.bytes to {MESSAGE_BYTES_MIN:,} or more."))
    return found


def check_bridge(trouble: str, url: str) -> list[Finding]:
    """Whether rows that go by an MQTT broker get on; `trouble` says why not, "" where a bridge answers."""
    if trouble:
        return [error("broker", trouble, url, "Journals wait meanwhile, and nothing is lost.")]
    return [ok("broker", "The MQTT broker takes messages, and a bridge answers behind it.")]


def check_lag(facts: BrokerFacts, offsets: Mapping[str, int] | None) -> list[Finding]:
    """Stored offsets against the log's ends; `offsets` by partition, None where the store couldn't be asked."""
    if offsets is None or facts.trouble or not facts.exists:
        return []
    found, waiting, late = [], 0, []
    for one in facts.partitions:
        at = offsets.get(str(one.number), 0)
        if at > one.end:
            text = f"Partition {one.number} ends at {one.end}, {at} records of it are stored: the topic was made anew."
            found.append(error("lag", text, facts.topic, "`runwire up` reads the new one from its start: see its log."))
            continue
        if at < one.begin and str(one.number) in offsets:
            text = f"Records {at} to {one.begin - 1} of partition {one.number} expired before they were stored."
            found.append(
                error("lag", text, facts.topic, "They are lost. Keep the consumer running; raise retention.ms.")
            )
        waiting += one.end - max(at, one.begin)
        if one.half_kept is not None and at < one.half_kept:
            late.append(one)
    if late:
        text = f"What waits in partitions {_numbers(late)} is older than half of what the log keeps."
        found.append(error("lag", text, facts.topic, "Start `runwire up` now, before the log deletes it."))
    if waiting:
        text = f"The log holds {many(waiting, 'message')} that the store hasn't."
        found.append(note("lag", text, facts.topic, "`runwire up` reads them; see that the number falls."))
    return found or [ok("lag", "Everything in the log is stored.")]


def check_folder(files: Sequence[FileFacts], folder: str, *, exists: bool) -> list[Finding]:
    """Files of a `dir:` topic that reach beyond what is stored."""
    if not exists:
        text = "The topic folder doesn't exist yet: nobody has sent there, or RUNWIRE_URL is wrong."
        return [note("folder", text, folder)]
    found = []
    torn = [one for one in files if one.torn_bytes and one.idle_seconds > TORN_TAIL_SECONDS]
    if torn:
        shown = names([(one.name, one.torn_bytes) for one in torn])
        text = f"The end of {many(len(torn), 'file')} is no block: {shown}. Their writers died in the middle of it."
        found.append(note("folder", text, folder, "Nothing is lost: their journals are sent into files of their own."))
    if damaged := [one for one in files if one.damaged_bytes]:
        shown = names([(one.name, one.damaged_bytes) for one in damaged])
        text = f"{many(len(damaged), 'file')} damaged before the end: {shown}."
        advice = "Look after that disk. Rows that are lost show as gaps: runwire verify RUN."
        found.append(error("folder", text, folder, advice))
    if waiting := sum(one.complete_bytes for one in files):
        count = sum(one.complete_bytes > 0 for one in files)
        found.append(note("lag", f"{size(waiting)} wait in {many(count, 'file')} of the topic folder.", folder))
    else:
        found.append(ok("lag", "Everything in the topic folder is stored."))
    return found


def _numbers(partitions: Sequence[PartitionFacts]) -> str:
    listed = ", ".join(str(one.number) for one in partitions[: 3 * NAMES_SHOWN_MAX])
    return listed + (", …" if len(partitions) > 3 * NAMES_SHOWN_MAX else "")
