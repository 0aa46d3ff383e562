"""The mark that a relay leaves in a journal's folder: how far its rows are acknowledged, and which were refused.

    JOURNAL/<emitter id>/relayed     REST_BYTES of `_losses.pack_rest`, then the URL that acknowledged; replaced whole

The relay writes it, before it deletes a segment; the emitter reads it where it would declare relayed rows lost, and
whoever recovers the journal reads it to go on from there. Rows sent to one URL are not sent to another.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runwire._losses import REST_BYTES, Loss, pack_rest, unpack_rest

if TYPE_CHECKING:
    from pathlib import Path

RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a relay is.

    Attributes:
        url: Where the rows went.
        acknowledged_seq: Rows 0 .. this - 1 are durable there, refused, or declared lost by the journal itself.
        losses: Those that were refused; recovery declares them behind the last row.
    """

    url: str = ""
    acknowledged_seq: int = 0
    losses: tuple[Loss, ...] = ()


def write_mark(folder: Path, mark: Mark) -> None:
    """Replace the mark.

    Raises:
        OSError: The disk is full, or the folder gone; the mark before stands.
    """
    data = pack_rest(mark.acknowledged_seq, list(mark.losses)).ljust(REST_BYTES, b"\0") + mark.url.encode()
    path = folder / f".{RELAYED}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.write(fd, data) < len(data):
            raise OSError(28, os.strerror(28))
    finally:
        os.close(fd)
    path.rename(folder / RELAYED)


def read_mark(folder: Path, url: str | None = None) -> Mark:
    """How far rows are acknowledged at `url`, or anywhere; nothing is where no such mark can be read."""
    data = b""
    with contextlib.suppress(OSError):
        data = (folder / RELAYED).read_bytes()
    found = data[REST_BYTES:].decode(errors="replace")
    if url not in (None, found):
        return Mark(url)
    acknowledged_seq, losses = unpack_rest(data[:REST_BYTES])
    return Mark(found, acknowledged_seq, tuple(losses))
