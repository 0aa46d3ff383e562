"""Each tool as the worker uses it: import, open a run, log a row, end the run, and count what is readable afterwards.

Runs inside a tool's own environment, so nothing here needs more than Python and that tool. What only the counting needs
is imported there, or the memory that a tool adds would be counted as ours.
"""

# ruff: noqa: ARG001, ARG002, D102  an adapter takes what the Protocol gives, and is described there
from __future__ import annotations

import contextlib
import importlib
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, float]
LogRow = Callable[[Row, int], object]
PROJECT = "bench"
RUN = "measured"


class Adapter(Protocol):
    """One tool.

    `open` returns the function that logs a row at a step; when it is called, all that the tool does is the tool's
    documented call. `close` returns when everything logged is where the tool keeps it. `count_rows` reads, in a
    process of its own, how many complete rows the tool's own data holds after its process is gone.
    """

    module: str

    def open(self, data: Path, url: str) -> LogRow:
        """Start a run whose data goes below `data`, or to `url` where the tool takes one."""

    def close(self) -> None:
        """End the run."""

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        """Count the rows of `keys` values that can be read."""


class Runwire:
    """Runwire: `url` is a topic in Kafka or a folder; what a dead process left is sent by `runwire sync` first."""

    module = "runwire"

    sender = "thread"

    def open(self, data: Path, url: str) -> LogRow:
        runwire = importlib.import_module("runwire")
        run = runwire.init(
            project=PROJECT, name=RUN, url=url, home=data / "home", auto_metrics=False, sender=self.sender
        )
        self._finish = run.finish
        log = run.log

        def log_row(row: Row, step: int) -> None:
            log(row, step=step)

        return log_row

    def close(self) -> None:
        if not self._finish():
            raise TimeoutError("finish() gave up waiting for delivery")

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        importlib.import_module("runwire_cli.entry").run(["sync", str(data / "home")])
        schemas = importlib.import_module("runwire_schemas.topics")
        destination = schemas.parse_url(url)
        envelopes = _kafka_envelopes(destination) if destination.kind == "kafka" else _folder_envelopes(destination)
        seen: set[tuple[str, int]] = set()
        for envelope in envelopes:
            if envelope.type == "MetricBatch":
                first = envelope.first_seq
                seen.update((envelope.emitter_id, seq) for seq in range(first, first + envelope.count))
        return len(seen)


class RunwireRelay(Runwire):
    """The same without a thread: `runwire sync --follow`, a process beside it, delivers."""

    sender = "relay"

    def open(self, data: Path, url: str) -> LogRow:
        subprocess = importlib.import_module("subprocess")
        log_row = super().open(data, url)
        command = [sys.executable, "-m", "runwire_cli", "sync", "--follow", str(data / "home")]
        self._relay = subprocess.Popen(command, stdout=sys.stderr)
        self._journals = data / "home" / "journal"
        return log_row

    def close(self) -> None:
        self._finish()
        while any(not path.name.startswith(".") for path in self._journals.iterdir()):
            time.sleep(0.02)
        self._relay.terminate()
        self._relay.wait()


class RunwireWaiting(Runwire):
    """Runwire whose destination takes little or nothing: what waits at the end is sent to a folder, and counted there.

    Nothing is trimmed in the short life of a counted run: the journal still has what may have been sent.
    """

    def close(self) -> None:
        self._finish()

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        late = f"dir:{data / 'late'}"
        importlib.import_module("runwire_cli.entry").run(["sync", str(data / "home"), "--to", late])
        return super().count_rows(data, late, keys)


class RunwireFull(RunwireWaiting):
    """Runwire on a disk that gets full when the run is open, and with no room left in its journal either."""

    def open(self, data: Path, url: str) -> LogRow:
        log_row = super().open(data, url)
        with (data / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4_096))
        journal = importlib.import_module("runwire").current_run()._emitter.journal  # noqa: SLF001 - nobody else knows
        row = {f"filling/{key:03d}": 0.0 for key in range(1_000)}
        while not journal.rows_lost:
            log_row(row, -1)
        return log_row


def _folder_envelopes(destination: Any) -> Iterator[Any]:
    folder = importlib.import_module("runwire_schemas.folder")
    envelope = importlib.import_module("runwire_schemas.envelope").Envelope
    for path in sorted(Path(destination.path).glob(f"*{folder.SUFFIX}")):
        data = path.read_bytes()
        header = folder.parse_header(data)
        if header is not None:
            sync, start = header
            for block in folder.split_blocks(data[start:], sync):
                for record in folder.decode_block(block):
                    yield envelope.from_fields(record.fields)


def _kafka_envelopes(destination: Any) -> Iterable[Any]:
    import asyncio  # noqa: PLC0415 - see the top

    aiokafka = importlib.import_module("aiokafka")
    envelope = importlib.import_module("runwire_schemas.envelope").Envelope

    async def read() -> list[Any]:
        found = []
        servers = list(destination.servers)
        # Without a group it gives itself all partitions.
        async with aiokafka.AIOKafkaConsumer(
            destination.topic, bootstrap_servers=servers, auto_offset_reset="earliest"
        ) as consumer:
            partitions = list(consumer.assignment())
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(part) < ends[part] for part in partitions]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [envelope.from_headers(record.headers) for record in records]
        return found

    return asyncio.run(read())


class Wandb:
    """W&B offline. Its own reader of `.wandb` files is inside `wandb sync`, which wants a server: we scan the file."""

    module = "wandb"

    def open(self, data: Path, url: str) -> LogRow:
        wandb = importlib.import_module("wandb")
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        data.mkdir(parents=True, exist_ok=True)
        run = wandb.init(project=PROJECT, name=RUN, mode="offline", dir=str(data), settings=settings)
        self._finish = run.finish
        log = run.log

        # Without a step, each call is a row of its own at the next step: the documented way.
        def log_row(row: Row, step: int) -> None:
            log(row)

        return log_row

    def close(self) -> None:
        self._finish()

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        record_class = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
        rows = 0
        for path in data.glob("wandb/offline-run-*/*.wandb"):
            for payload in _leveldb_records(path.read_bytes()):
                record = record_class.FromString(payload)
                if record.WhichOneof("record_type") == "history":
                    names = [item.key or "/".join(item.nested_key) for item in record.history.item]
                    rows += sum(not name.startswith("_") for name in names) >= keys
        return rows


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log: blocks of 32 KiB, fragments of (crc, length, kind); 7 bytes of W&B's own before it."""
    block_bytes, head = 32_768, struct.Struct("<IHB")
    at, parts = 7, []
    while at + head.size <= len(data):
        left = block_bytes - at % block_bytes
        if left < head.size:
            at += left
            continue
        _, length, kind = head.unpack_from(data, at)
        at += head.size
        if kind == 0 or at + length > len(data):
            return
        parts.append(data[at : at + length])
        at += length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


class TensorboardX:
    """Event files: one `add_scalar` a value, as its documentation shows."""

    module = "tensorboardX"

    def open(self, data: Path, url: str) -> LogRow:
        writer = importlib.import_module("tensorboardX").SummaryWriter(str(data / "events"))
        self._close = writer.close
        add_scalar = writer.add_scalar

        def log_row(row: Row, step: int) -> None:
            for key, value in row.items():
                add_scalar(key, value, step)

        return log_row

    def close(self) -> None:
        self._close()

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        event_class = importlib.import_module("tensorboardX.proto.event_pb2").Event
        values: Counter[int] = Counter()
        for path in (data / "events").iterdir():
            for payload in _tfrecords(path.read_bytes()):
                event = event_class.FromString(payload)
                values[event.step] += len(event.summary.value)
        return sum(count >= keys for count in values.values())


def _tfrecords(data: bytes) -> Iterator[bytes]:
    """Records of a TFRecord file: length, its crc, bytes, their crc; a torn tail is left out."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            return
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


class Trackio:
    """Trackio, local: a thread writes to SQLite twice a second."""

    module = "trackio"

    def open(self, data: Path, url: str) -> LogRow:
        trackio = importlib.import_module("trackio")
        trackio.init(project=PROJECT, name=RUN, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        self._finish = trackio.finish
        log = trackio.log

        def log_row(row: Row, step: int) -> None:
            log(row, step=step)

        return log_row

    def close(self) -> None:
        self._finish()

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
        logs = storage.get_logs(PROJECT, RUN)
        return len({log["step"] for log in logs if sum(name.startswith("train/") for name in log) >= keys})


class Mlflow:
    """MLflow's asynchronous logging into SQLite."""

    module = "mlflow"

    def open(self, data: Path, url: str) -> LogRow:
        mlflow = importlib.import_module("mlflow")
        data.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{data / 'mlflow.db'}")
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=RUN, log_system_metrics=False)
        self._mlflow = mlflow
        log_metrics = mlflow.log_metrics

        def log_row(row: Row, step: int) -> None:
            log_metrics(row, step=step, synchronous=False)

        return log_row

    def close(self) -> None:
        self._mlflow.flush_async_logging()
        self._mlflow.end_run()

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        import sqlite3  # noqa: PLC0415 - see the top

        with contextlib.closing(sqlite3.connect(data / "mlflow.db")) as database:
            query = "SELECT count(*) FROM (SELECT step FROM metrics GROUP BY step HAVING count(*) >= ?)"
            (count,) = database.execute(query, (keys,)).fetchone()
        return int(count)


class Aim:
    """Aim, into a local repository."""

    module = "aim"

    def open(self, data: Path, url: str) -> LogRow:
        data.mkdir(parents=True, exist_ok=True)
        run = importlib.import_module("aim").Run(
            repo=str(data),
            experiment=PROJECT,
            system_tracking_interval=None,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        self._run = run
        track = run.track

        def log_row(row: Row, step: int) -> None:
            track(row, step=step)

        return log_row

    def close(self) -> None:
        self._run.close()

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        aim = importlib.import_module("aim")
        indexing = importlib.import_module("aim.sdk.index_manager").RepoIndexManager
        writer = aim.Repo(str(data))
        # As its server does before it shows a run.
        for run_hash in writer.list_all_runs():
            indexing.get_index_manager(writer).index(run_hash)
        repo = aim.Repo(str(data))
        values: Counter[int] = Counter()
        for run_hash in repo.list_all_runs():
            for metric in aim.Run(run_hash, repo=repo, read_only=True).metrics():
                steps, _ = metric.values.sparse_numpy()
                values.update(int(step) for step in steps)
        return sum(count >= keys for count in values.values())


class Clearml:
    """ClearML offline: one `report_scalar` a value, as its documentation shows."""

    module = "clearml"

    def open(self, data: Path, url: str) -> LogRow:
        data.mkdir(parents=True, exist_ok=True)
        task_class = importlib.import_module("clearml").Task
        task_class.set_offline(offline_mode=True)
        task = task_class.init(
            project_name=PROJECT,
            task_name=RUN,
            auto_connect_frameworks={"detect_repository": False},
            auto_connect_arg_parser=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        self._close = task.close
        report_scalar = task.get_logger().report_scalar

        def log_row(row: Row, step: int) -> None:
            for key, value in row.items():
                report_scalar(title=key, series="value", value=value, iteration=step)

        return log_row

    def close(self) -> None:
        self._close()

    def count_rows(self, data: Path, url: str, keys: int) -> int:
        import json  # noqa: PLC0415 - see the top

        values: Counter[int] = Counter()
        for path in data.rglob("metrics.jsonl"):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # a torn line
                    values.update(event["iter"] for event in json.loads(line) if "iter" in event)
        return sum(count >= keys for count in values.values())


ADAPTERS: dict[str, type[Adapter]] = {
    "runwire": Runwire,
    "runwire_relay": RunwireRelay,
    "runwire_broker_down": RunwireWaiting,
    "runwire_broker_slow": RunwireWaiting,
    "runwire_disk_full": RunwireFull,
    "wandb": Wandb,
    "tensorboardX": TensorboardX,
    "trackio": Trackio,
    "mlflow": Mlflow,
    "aim": Aim,
    "clearml": Clearml,
}
