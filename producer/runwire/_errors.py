"""Every error that the producer raises, drawn as a tree.

RunwireError
├── UsageError             a call was wrong, its author's fault: names the argument and what to do
│   ├── UsageTypeError     ... by the type of an argument (also a TypeError)
│   └── UsageValueError    ... by its value (also a ValueError)
├── SettingsError          a setting can't be used: an unknown URL, a folder that can't be written
├── ServerError            no consumer gives an answer: none runs, it refuses the token, the answer broke off
├── QueryError             the consumer refuses a query, or it failed: its author's fault
├── TransportError         a destination didn't take events: says whether to retry, or to set records aside
└── JournalError           the local journal can't be used: the disk's or the file's fault

After a successful `init` only UsageError reaches training; the others are caught inside and counted. ServerError and
QueryError are for who reads: `runwire.query` and its siblings.
"""

from __future__ import annotations


class RunwireError(Exception):
    """Something went wrong in Runwire's producer."""


class UsageError(RunwireError):
    """A call was wrong; the sentence names the argument and what to do."""

    def __init__(self, argument: str, problem: str) -> None:
        """Keep the argument's name: `UsageError("tags", "must be a list of strings, not 3")`."""
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument}: {self.problem}"


class UsageTypeError(UsageError, TypeError):
    """An argument has a type that can't be taken."""


class UsageValueError(UsageError, ValueError):
    """An argument has a value that can't be taken."""


class SettingsError(RunwireError):
    """A setting can't be used; the sentence names it and what to do."""


class ServerError(RunwireError):
    """No consumer gives an answer; the sentence says what to start or set."""


class QueryError(RunwireError):
    """A query gave no result; the sentence is for its author."""


class TransportError(RunwireError):
    """A destination didn't take what was sent.

    Attributes:
        retriable: The same send may succeed later.
        refused: The destination saw the records and will never take them as they are.
        delivered: How many of the messages, from the first on, are durable all the same.
    """

    def __init__(self, message: str, *, retriable: bool = True, refused: bool = False, delivered: int = 0) -> None:
        """A refused send is never retriable, whatever `retriable` says."""
        super().__init__(message)
        self.retriable = retriable and not refused
        self.refused = refused
        self.delivered = delivered


class JournalError(RunwireError):
    """The journal on the local disk can't be made, read or written."""
