"""Prometheus' text format: series with labels of any text, and the one answer that all who scrape at a time share.

A label's value is the text itself, in UTF-8, up to LABEL_BYTES_MAX bytes. A longer one is cut, never inside a
character, and ends with a digest of the whole; so does a text with lone surrogates, which are no UTF-8, and one that
only looks as if it had been cut. So two texts are never one value.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest, gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LABEL_BYTES_MAX = 256
DIGEST_CHARACTERS = 32
RENDERING_SHARE_MAX = 0.2
REUSED_SECONDS_MAX = 1.0
GZIP_BYTES_MIN = 16_384
GZIP_LEVEL = 1

_MARK = "…-"
_KEPT_BYTES = LABEL_BYTES_MAX - len(_MARK.encode()) - DIGEST_CHARACTERS
_LOOKS_CUT = re.compile(rf"{_MARK}[0-9a-f]{{{DIGEST_CHARACTERS}}}\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")


def label(text: str) -> str:
    """A label's value for a text: the text where it can be, never the same for two texts."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= LABEL_BYTES_MAX and not _SURROGATE.search(text) and not _LOOKS_CUT.search(text):
        return text
    kept = _SURROGATE.sub("\ufffd", text).encode()[:_KEPT_BYTES].decode("utf-8", "ignore")
    return f"{kept}{_MARK}{hashlib.sha256(data).hexdigest()[:DIGEST_CHARACTERS]}"


def pair(name: str, text: str) -> str:
    """`name="value"` with the label's value for a text."""
    value = label(text).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{value}"'


def number(value: float) -> str:
    """A value as Prometheus reads it."""
    text = repr(float(value))
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)


class Lines(Metric):
    """A gauge whose lines are ready: ten times cheaper a series than a sample of the client library.

    `render` shows them; to the library's own renderer it is a family without samples.

    Attributes:
        lines: Each with its newline.
    """

    def __init__(self, name: str, documentation: str) -> None:
        """No line yet."""
        super().__init__(name, documentation, "gauge")
        self.lines: list[str] = []

    def add(self, labels: str, value: float) -> None:
        """One more series; `labels` are pairs with commas in between."""
        self.lines.append(f"{self.name}{{{labels}}} {number(value)}\n")


class _One(Collector):
    """A registry of one family, for the library's renderer."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def render(registry: CollectorRegistry) -> bytes:
    """Everything that is registered, in the text format 0.0.4; without the moments at which counters began."""
    parts: list[bytes] = []
    for family in registry.collect():
        family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        parts.append(generate_latest(_One(family)))
        if isinstance(family, Lines):
            parts.append("".join(family.lines).encode())
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Answer:
    """What /metrics answers: the text, and gzipped where that is smaller by far; else None."""

    text: bytes
    gzipped: bytes | None

    def suiting(self, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """Body and headers for a client that accepts this. Prometheus takes gzip, a tenth of the text."""
        headers = {"content-type": CONTENT_TYPE_PLAIN_0_0_4, "vary": "accept-encoding"}
        if self.gzipped is None or not gzip_accepted(accept_encoding):
            return self.text, headers
        return self.gzipped, {**headers, "content-encoding": "gzip"}


class Exposition:
    """Renders a registry for everyone who scrapes, on at most RENDERING_SHARE_MAX of one thread's time.

    An answer is given again for as long as it took to make, times `1 / RENDERING_SHARE_MAX - 1`: milliseconds where
    little is shown, a quarter of a second with 10,000 series, never more than REUSED_SECONDS_MAX.

    Args:
        registry: What is rendered.
        clock: Seconds, from any point on.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nothing is rendered yet."""
        self._registry = registry
        self._clock = clock
        self._lock = threading.Lock()
        self._answer = Answer(b"", None)
        self._fresh_until = float("-inf")

    def answer(self) -> Answer:
        """The present one, or a new one; for any thread."""
        with self._lock:
            began = self._clock()
            if began < self._fresh_until:
                return self._answer
            text = render(self._registry)
            self._answer = Answer(text, gzip.compress(text, GZIP_LEVEL) if len(text) >= GZIP_BYTES_MIN else None)
            ended = self._clock()
            reused_seconds = (ended - began) * (1 / RENDERING_SHARE_MAX - 1)
            self._fresh_until = ended + min(reused_seconds, REUSED_SECONDS_MAX)
            return self._answer
