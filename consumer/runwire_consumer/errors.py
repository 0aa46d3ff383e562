"""Errors of the consumer, drawn as a tree; each says whose fault it is and whether a retry can help.

ConsumerError
├── SettingsError        an environment variable or option can't be understood: the caller's fault
├── StoreError
│   ├── StoreLocked          another process holds the database: wait, or ask it instead
│   ├── StoreNewer           a newer version wrote the database: upgrade
│   ├── StoreDamaged         the file won't open: restore a snapshot and replay the log
│   ├── StoreForeign         the file belongs to another program: choose another path
│   ├── StoreFull            there is no room now: when there is, it goes on by itself
│   │   └── StoreCramped         no memory is left beside queries: it goes on when they have ended
│   ├── SnapshotFailed       no snapshot was taken or restored; the store is as it was
│   ├── StoreEnding          the consumer is ending: ask again when it runs
│   ├── Fenced               somebody else moved our offsets: stop, we are not the writer any more
│   └── StoreInvalidated     the engine gave up: the process must exit at once, without closing the file
├── SourceError
│   └── SourceUnreachable    broker or folder can't be reached: the service retries for ever
├── BridgeError
│   ├── InletError           the MQTT broker can't be reached: the bridge retries, unless it is final
│   └── OutletError          the target takes nothing now, or will never take a message: see `refused`
├── FaceError
│   ├── PortInUse            another program listens there: choose another port
│   └── TokenRefused         the token can't protect anything: choose another
├── LetterRefused        an order about dead letters names none: its author's fault
├── RunChanged           a run lost data while it was read: read it again, if it is there still
├── ArchiveDamaged       an archive doesn't hold what was written: keep the run, write it again
└── QueryError               a query gave no result: its author's fault, a retry fails again
    ├── SelectRefused        the text is no single SELECT or names what it may not
    ├── QueryTooLarge        the result is above a cap
    ├── QueryTimeout         it ran too long or took too much memory
    ├── RunNotFound          no run has this id or name
    └── RunAmbiguous         several runs have this name
"""

from __future__ import annotations


class ConsumerError(Exception):
    """Something the consumer can't go on with, in one sentence."""


class SettingsError(ConsumerError, ValueError):
    """An environment variable or option can't be understood."""


class StoreError(ConsumerError):
    """The database can't be used."""


class StoreLocked(StoreError):
    """Another process holds the database; the sentence names it."""


class StoreNewer(StoreError):
    """The database was written by a newer version."""


class StoreDamaged(StoreError):
    """The database file won't open."""


class StoreForeign(StoreError):
    """The database file was not made by Runwire."""


class StoreFull(StoreError):
    """The disk is full; nothing of the transaction was kept."""


class StoreCramped(StoreFull):
    """Queries have the engine's memory; nothing of the transaction was kept."""


class SnapshotFailed(StoreError):
    """A snapshot can't be taken, opened or restored; the store is as it was."""


class StoreEnding(StoreError):
    """The consumer is ending, and does nothing new with its store."""


class Fenced(StoreError):
    """An offset was not where this writer had left it; nothing of the transaction was kept."""


class StoreInvalidated(StoreError):
    """The engine declared the database invalid; only a new process can open it again."""


class SourceError(ConsumerError):
    """A source can't be read."""


class SourceUnreachable(SourceError):
    """A broker or a folder can't be reached now."""


class BridgeError(ConsumerError):
    """A bridge can't forward."""


class InletError(BridgeError):
    """The MQTT broker can't be reached.

    Attributes:
        is_final: Trying again would do harm, or nothing.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        """Worth trying again, unless said otherwise."""
        super().__init__(message)
        self.is_final = is_final


class OutletError(BridgeError):
    """The target took nothing.

    Attributes:
        refused: It saw the messages, and will never take one of them.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        """Worth trying again, unless it refused."""
        super().__init__(message)
        self.refused = refused


class FaceError(ConsumerError):
    """The HTTP face can't be put up."""


class PortInUse(FaceError):
    """Another program listens on the address."""


class TokenRefused(FaceError, ValueError):
    """The bearer token is empty, short or can't be sent."""


class LetterRefused(ConsumerError):
    """An order about dead letters can't be understood, or names a letter that isn't there."""


class RunChanged(ConsumerError):
    """A run lost points while it was read."""


class ArchiveDamaged(ConsumerError):
    """A file of an archive is not what was written."""


class QueryError(ConsumerError):
    """A query gave no result; the sentence is for its author."""


class SelectRefused(QueryError):
    """The text is no single SELECT or names what it may not."""


class QueryTooLarge(QueryError):
    """The result is above a cap."""


class QueryTimeout(QueryError):
    """The query ran too long or took too much memory."""


class RunNotFound(QueryError):
    """No run has this id or name."""


class RunAmbiguous(QueryError):
    """Several runs have this name or begin of an id; the caller has to name one by its id."""


def first_line(error: BaseException) -> str:
    """An error's first line, for a sentence; the name of its class where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
