"""What the journal takes of a training's memory: two mapped segments, however many there are, and little beside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.producer.programs import Program

ANONYMOUS_MIB_MAX = 64

PROGRAM = """
import json, os, re, time
import numpy
from runwire import _start
_start.FINISH_TIMEOUT_SECONDS = float(os.environ["FINISH_SECONDS"])

def maps():
    with open("/proc/self/maps") as file:
        return [line.split()[-1] for line in file if os.environ["RUNWIRE_HOME"] + "/journal/" in line]

def anonymous_kib():
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"Anonymous: +([0-9]+) kB", file.read())[1])

before = anonymous_kib()
run = runwire.init()
KEYS = [f"m{i}" for i in range(100)]
most, segments, peak = 0, 0, 0
until = time.monotonic() + 60
while run._emitter.journal._spare is None and time.monotonic() < until: time.sleep(0.01)  # the sender makes it
for step in range(60_000):
    run.log(dict.fromkeys(KEYS, float(step)), step=step)
    if step % 500 == 0:
        most = max(most, len(maps()))
        peak = max(peak, anonymous_kib() - before)
        segments = run._emitter.journal.published.number
print(json.dumps([most, segments, peak / 1024]), flush=True)
run.finish()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells")
@pytest.mark.parametrize("url", [None, "kafka://127.0.0.1:1/t"], ids=["sent", "broker down"])
def test_two_segments_are_mapped_and_little_is_held(tmp_path: Path, url: str | None) -> None:
    """Six million points in bulk: the one that is written and the next one; what waits is on the disk."""
    program = Program(tmp_path, PROGRAM, url=url)
    done = program.run(FINISH_SECONDS="0.3" if url else "30")
    assert done.returncode == 0, done.stderr
    most, segments, peak_mib = json.loads(done.stdout)
    assert segments >= 5
    assert most == 2
    assert peak_mib < ANONYMOUS_MIB_MAX
