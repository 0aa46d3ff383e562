"""What hostile messages cost the consumer: random ones by the hundred thousand, and some made to cost all they can.

The random ones (tests/pipeline/poison.py) go through decode and the writer into a real store, in batches, on one core.
Then every dead letter is replayed once, in vain. The collector of garbage is off while one message is timed: what it
does is the whole batch's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.measuring import scratch
from bench.report import rounded, show
from runwire_consumer.decode import DeadLetter, decode
from runwire_consumer.replay import Directly, replay
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.writing import Moment, Writer
from runwire_schemas import events
from runwire_schemas.envelope import Envelope
from tests.pipeline.poison import TIME, Poison, bombs

BATCH_MESSAGES = 20_000
MOMENT = Moment(TIME + 10**12, at_tail=False, judged_at=TIME + 10**12)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000, help="how many random ones")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    figures = {"random": measure(options.messages, options.seed)}
    if options.json:
        figures |= {name: one_bomb(payload) for name, payload in bombs().items()}
        show("", figures, as_json=True)
        return
    show(f"{options.messages:,} hostile messages", figures, as_json=False)
    for name, payload in bombs().items():
        bomb = one_bomb(payload)
        print(f"  {name}: {bomb['bytes']:,} bytes, {bomb['decode_ms']} ms, {bomb['peak_mib']} MiB, {bomb['became']}")


def measure(messages: int, seed: int) -> dict[str, Any]:
    """Figures of random messages, and of the vain replay of their letters."""
    with scratch() as folder:
        path = folder / "runwire.duckdb"
        writer = Writer(Store.open(path))
        source = Poison(seed).messages(messages)
        done, offset, spent, slowest = [], 0, 0.0, 0.0
        while sent := list(itertools.islice(source, BATCH_MESSAGES)):
            batch = [
                Message("memory:poison", "0", at, at + 1, TIME, headers, payload)
                for at, (headers, payload, _) in enumerate(sent, offset)
            ]
            offset += len(batch)
            slowest = max(slowest, *(_cpu(lambda one=message: decode(one)) for message in batch))  # type: ignore[misc]
            spent += _cpu(lambda batch=batch: done.extend(writer.write(batch, MOMENT)))  # type: ignore[misc]
        letters = sum(counts.dead_letters for counts in done)
        replayed = _cpu(lambda: asyncio.run(replay(Directly(writer), {"all": True})))
        writer.store.database.checkpoint()
        size = path.stat().st_size
        writer.close()
    return {
        "messages": offset,
        "stored_rows": sum(counts.rows for counts in done),
        "duplicate_rows": sum(counts.duplicates for counts in done),
        "dead": letters,
        "cpu_us_per_message": rounded(1e6 * spent / offset),
        "slowest_decode_ms": rounded(1e3 * slowest),
        "replay_cpu_us_per_letter": rounded(1e6 * replayed / letters),
        "file_bytes_per_letter": round(size / letters),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def one_bomb(payload: bytes) -> dict[str, Any]:
    """What one message costs decode."""
    message = Message("memory:poison", "0", 0, 1, TIME, (), payload)
    named = Message("memory:poison", "0", 0, 1, TIME, _envelope(), payload)
    seconds = min(_cpu(lambda: decode(named)) for _ in range(3))
    tracemalloc.start()
    found = decode(named)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "bytes": len(message.payload),
        "decode_ms": rounded(1e3 * seconds),
        "peak_mib": rounded(peak / 2**20),
        "became": "dead letter" if isinstance(found, DeadLetter) else "event",
    }


def _envelope() -> list[tuple[str, bytes]]:
    batch = events.MetricBatch("a" * 16, "a" * 32, 0, 0, ())
    return Envelope.of(batch, "poison", "one").to_headers()


def _cpu(work: Callable[[], object]) -> float:
    gc.disable()
    began = time.process_time()
    work()
    seconds = time.process_time() - began
    gc.enable()
    return seconds


if __name__ == "__main__":
    main()
