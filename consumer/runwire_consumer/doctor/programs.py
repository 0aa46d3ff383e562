"""Checks of programs and connections: versions, clocks, addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from runwire_consumer.doctor import Finding, error, note, ok, warning
from runwire_consumer.doctor.home import SKEW_SECONDS_MAX, span
from runwire_schemas.security import is_local
from runwire_schemas.topics import parse_url

# What this version was tried with, as pyproject.toml asks for it: from, and below. Others have broken things before.
TRIED_VERSIONS = {
    "aiokafka": ("0.14", "0.15"),
    "duckdb": ("1.5.5", "1.5.6"),
    "prometheus-client": ("0.26", "0.27"),
}
PYTHON_MIN = (3, 11)


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What runs here.

    Attributes:
        runwire: This program.
        python: Version of the interpreter.
        installed: Version of each of TRIED_VERSIONS; None where it isn't installed.
        consumer: Version of the consumer that answers; None without one.
    """

    runwire: str
    python: tuple[int, int, int]
    installed: Mapping[str, str | None]
    consumer: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question to a consumer and its answer; microseconds, the outer two by this machine's clock, the others by its.

    Compared as NTP does (RFC 5905, section 8): how long it took to answer doesn't matter, only the way there and back.
    """

    asked_at: int
    received_at: int
    answered_at: int
    heard_at: int

    @property
    def skew(self) -> int:
        """How far the consumer's clock is ahead."""
        return (self.received_at - self.asked_at + self.answered_at - self.heard_at) // 2

    @property
    def uncertainty(self) -> int:
        """Half the time that both were on their way."""
        return max(0, self.heard_at - self.asked_at - (self.answered_at - self.received_at)) // 2


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """Clocks beside this machine's; all in microseconds, None where there is no other clock.

    Attributes:
        now: This machine's.
        consumer: The consumer's.
        newest_file: Newest time that the home's file system gave one of our files.
        newest_append: Newest time that the broker gave a record.
    """

    now: int
    consumer: Exchange | None = None
    newest_file: int | None = None
    newest_append: int | None = None


def check_versions(facts: VersionFacts) -> list[Finding]:
    """Whether this is what was tried."""
    python = ".".join(map(str, facts.python))
    found = []
    if facts.python < PYTHON_MIN:
        found.append(error("versions", f"Python {python} is too old.", advice="Use Python 3.11 or newer."))
    for name, installed in facts.installed.items():
        low, below = TRIED_VERSIONS[name]
        if installed is None:
            found.append(error("versions", f"{name} is not installed.", advice="pip install 'runwire[local]'"))
        elif not numbers(low) <= numbers(installed) < numbers(below):
            text = f"{name} {installed} is another version than runwire {facts.runwire} was tried with ({low})."
            found.append(error("versions", text, advice=f"pip install '{name}>={low},<{below}'"))
    if facts.consumer not in {None, facts.runwire}:
        text = f"The consumer is runwire {facts.consumer}, this command {facts.runwire}."
        found.append(note("versions", text, advice="Consumers are upgraded first, then everything that sends."))
    listed = ", ".join(f"{name} {installed}" for name, installed in facts.installed.items())
    return found or [ok("versions", f"runwire {facts.runwire}, Python {python}, {listed}.")]


def check_clocks(facts: ClockFacts) -> list[Finding]:
    """Whether clocks agree: run states and lag are told by them."""
    found = []
    told = facts.consumer
    if told is not None and abs(told.skew) > SKEW_SECONDS_MAX * 1e6 + told.uncertainty:
        found.append(_skewed("The consumer's clock", told.skew / 1e6))
    # Of these only the past is known: they can be seen to be ahead, never to be behind.
    for name, time in (("The file system's clock", facts.newest_file), ("The broker's clock", facts.newest_append)):
        if time is not None and (ahead := (time - facts.now) / 1e6) > SKEW_SECONDS_MAX:
            found.append(_skewed(name, ahead))
    others = [one for one in (facts.consumer, facts.newest_file, facts.newest_append) if one is not None]
    agreed = f"No clock disagrees with this machine's ({len(others)} compared)." if others else "One clock only."
    return found or [ok("clock", agreed)]


def _skewed(name: str, skew: float) -> Finding:
    text = f"{name} is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's."
    advice = "Let both machines keep time by NTP: states of runs (lost, stuck) and freshness are told by these clocks."
    return warning("clock", text, advice=advice)


def check_addresses(destination: str, server: str | None) -> list[Finding]:
    """Whether data or the token leave this machine unencrypted.

    Args:
        destination: URL of the log.
        server: Address of the consumer that is asked (RUNWIRE_SERVER).
    """
    found = []
    if server is not None and server.startswith("http://") and not is_local(urlsplit(server).netloc):
        text = "The token and all answers go to the consumer unencrypted."
        found.append(
            warning(
                "addresses", text, server, "Start it with --tls-cert and --tls-key, or put a proxy with TLS before it."
            )
        )
    log = parse_url(destination)
    if not log.tls and (remote := [broker for broker in log.servers if not is_local(broker)]):
        text = "Events travel to the broker unencrypted, and anybody who reaches it can read and write them."
        found.append(
            note("addresses", text, ", ".join(remote), "Keep the broker in a network that only its users reach.")
        )
    return found or [ok("addresses", "Nothing leaves this machine unencrypted.")]


def numbers(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: 1.5.5.dev3 is (1, 5, 5)."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)
