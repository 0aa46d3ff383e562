"""Errors of the contract, drawn as a tree.

SchemaError
├── DecodeError          the bytes are no record of ours: the writer's or the wire's fault; a retry gives the same
│   └── UnknownFingerprint   a schema this version doesn't know: upgrade the reader, then replay
├── EnvelopeError        headers missing or garbled: the writer's fault
├── DestinationError     a RUNWIRE_URL that can't be understood: the caller's fault
└── SecurityError        a password, key or certificate that a connection needs and that can't be used
"""

from __future__ import annotations


class SchemaError(Exception):
    """Something on the wire or in an address breaks the contract."""


class DecodeError(SchemaError):
    """The payload is no valid record; `str(error)` says why in one sentence."""


class UnknownFingerprint(DecodeError):
    """The payload names a schema that this version doesn't know."""

    def __init__(self, fingerprint: bytes) -> None:
        """Keep the fingerprint (8 bytes, little-endian as on the wire)."""
        super().__init__(
            f"Schema fingerprint {fingerprint.hex()} is unknown here, a newer version wrote it: "
            "upgrade the consumer, then `runwire dead-letters replay --all`."
        )
        self.fingerprint = fingerprint


class EnvelopeError(SchemaError):
    """The envelope is missing, incomplete or garbled."""


class DestinationError(SchemaError, ValueError):
    """A URL names no destination that Runwire can send to."""


class SecurityError(SchemaError):
    """A connection lacks what makes it secure; half a sentence that says what, where and what to do."""
