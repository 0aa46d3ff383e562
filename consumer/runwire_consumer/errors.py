"""Errors of the consumer, drawn as a tree; each says whose fault it is and whether a retry can help.

ConsumerError
├── SettingsError        an environment variable or option can't be understood: the caller's fault
├── StoreError
│   ├── StoreLocked          another process holds the database: wait, or ask it instead
│   ├── StoreNewer           a newer version wrote the database: upgrade
│   ├── StoreDamaged         the file won't open: restore a snapshot and replay the log
│   ├── StoreFull            the disk is full: make room, then it goes on by itself
│   ├── Fenced               somebody else moved our offsets: stop, we are not the writer any more
│   └── StoreInvalidated     the engine gave up: the process must exit at once, without closing the file
└── SourceError
    └── SourceUnreachable    broker or folder can't be reached: the service retries for ever
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


class StoreFull(StoreError):
    """The disk is full; nothing of the transaction was kept."""


class Fenced(StoreError):
    """An offset was not where this writer had left it; nothing of the transaction was kept."""


class StoreInvalidated(StoreError):
    """The engine declared the database invalid; only a new process can open it again."""


class SourceError(ConsumerError):
    """A source can't be read."""


class SourceUnreachable(SourceError):
    """A broker or a folder can't be reached now."""
