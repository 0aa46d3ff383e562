"""The events of a run as frozen values: metric batches, lifecycle records and signs of life.

Times are integers in microseconds since the epoch, UTC. Every field is explained in its `.avsc` file under `avro/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Param = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows with the same keys.

    Attributes:
        keys: K metric names.
        steps: R steps.
        times: R times, microseconds.
        values: K x R values, key-major: `values[k * R + r]`.
    """

    keys: tuple[str, ...]
    steps: Sequence[int]
    times: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        """Turn away columns that don't fit each other; ValueError says how."""
        rows, keys = len(self.steps), len(self.keys)
        if len(self.times) != rows or len(self.values) != rows * keys:
            raise ValueError(
                f"block of {rows} steps and {keys} keys has {len(self.times)} times and {len(self.values)} values"
            )
        if len(set(self.keys)) != keys:
            raise ValueError("block names a key twice")


@dataclass(frozen=True, slots=True)
class MetricBatch:
    """Rows `first_seq`, `first_seq + 1`, ... of one emitter."""

    run_id: str
    emitter_id: str
    rank: int
    first_seq: int
    blocks: tuple[Block, ...]

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(len(block.steps) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Host:
    """The machine an emitter runs on."""

    name: str
    os: str = ""
    python: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    gpus: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Git:
    """The version of the code; each field is None where it can't be known."""

    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    dirty: bool | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What tracking cost one process."""

    wall_seconds: float = 0.0
    log_seconds: float = 0.0
    sender_cpu_seconds: float = 0.0
    rows: int = 0
    points: int = 0
    rows_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What every record that takes a sequence number of its own begins with."""

    run_id: str
    emitter_id: str
    rank: int
    seq: int
    time: int


@dataclass(frozen=True, slots=True)
class RunStarted(Lifecycle):
    """A process joined a run; rank 0's record describes the run."""

    project: str
    name: str
    attempt: str
    host: Host
    group: str | None = None
    user: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    role: str = "train"
    restart_count: int = 0
    resumed_from_step: int | None = None
    forked_from: str | None = None
    launched_by: str = "process"
    launch_id: str | None = None
    world_size: int = 1
    local_rank: int = 0
    pid: int = 0
    git: Git | None = None
    command: Sequence[str] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    sdk_version: str = ""


@dataclass(frozen=True, slots=True)
class ParamsLogged(Lifecycle):
    """Parameters; a later value of a key replaces an earlier one."""

    params: Mapping[str, Param]


@dataclass(frozen=True, slots=True)
class MetricDefined(Lifecycle):
    """How a metric is to be read; `best` is "min", "max" or None."""

    metric: str
    unit: str | None = None
    best: str | None = None


@dataclass(frozen=True, slots=True)
class ArtifactLogged(Lifecycle):
    """A file or folder that the run used or made."""

    name: str
    uri: str
    kind: str = ""
    size_bytes: int = 0
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextLogged(Lifecycle):
    """A text that belongs to the run."""

    key: str
    text: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class AlertRaised(Lifecycle):
    """The trainer asks for attention; `level` is info, warning or error."""

    title: str
    text: str = ""
    level: str = "warning"
    step: int | None = None


@dataclass(frozen=True, slots=True)
class RowsLost(Lifecycle):
    """Rows `first_seq` .. `first_seq + count - 1` will never come: a declared loss."""

    first_seq: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunEdited(Lifecycle):
    """What people call the run; None leaves a field as it is."""

    name: str | None = None
    group: str | None = None
    tags: Sequence[str] | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class RunDeleted(Lifecycle):
    """The run is hidden from every relation, also after a replay."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunEnded(Lifecycle):
    """This rank's part of the run ended: finished, failed or preempted."""

    status: str
    exit_code: int | None = None
    error: str | None = None
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, slots=True)
class Signal:
    """What every record outside the sequence begins with."""

    run_id: str
    emitter_id: str
    rank: int
    time: int


@dataclass(frozen=True, slots=True)
class Heartbeat(Signal):
    """The emitter lives; `next_seq` sequence numbers are assigned so far.

    `overdue_seconds` is how long its loop is past the promise of progress; 0 where there is none, or nobody can know.
    """

    next_in_seconds: float
    next_seq: int
    journal_rows: int = 0
    journal_bytes: int = 0
    overdue_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EmitterEnded(Signal):
    """No row of this emitter comes after `next_seq`; `how` is finished or crashed."""

    next_seq: int
    how: str


Event = MetricBatch | Lifecycle | Signal
