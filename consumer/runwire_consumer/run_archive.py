"""An archive of runs: a folder of Parquet files that anybody reads, checked after writing, a manifest a run.

    README.md                                           what follows, for whoever finds the folder
    runs/ID.parquet                                     what each run is, one row
    points/project=PROJECT/run=ID/points.parquet        and params, events beside
    manifests/ID.json                                   rows, bytes and SHA-256 of each file of a run, its receipt

PROJECT and ID are percent-encoded (`run_files.path_part`); the files say both verbatim. The order, never another:

1. Each file is written under a name that no reader takes up, and brought to the disk.
2. It is read back, and every value compared with what came from the store.
3. All of the run's files take their places.
4. So does the manifest, which says that the run is there.

Whoever dies in between leaves an archive that the same command completes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from runwire_consumer import run_files, run_pages
from runwire_consumer.errors import ArchiveDamaged
from runwire_consumer.run_files import PARQUET, Description, RunSource, path_part, to_disk

FORMAT = "runwire-archive/1"
NO_PROJECT = "__HIVE_DEFAULT_PARTITION__"
READ_ROWS = 65_536
_HASH_BYTES = 2**20

README = """\
# Runs that were archived by Runwire

Plain Parquet (zstd); nothing of Runwire is needed to read it.

| path | what it holds |
|---|---|
| `points/project=P/run=ID/points.parquet` | every point: metric, rank, step, time (UTC), value, attempt, superseded … |
| `params/…/params.parquet` | parameters: key, value as text, number, type |
| `events/…/events.parquet` | what happened: type, time, body as JSON text |
| `runs/ID.parquet` | a row a run: project, name, tags, state, times; params, last, best, receipt as JSON text |
| `buckets/…/buckets.parquet` | curves in buckets, of runs whose full resolution was given up before |
| `manifests/ID.json` | rows, bytes and SHA-256 of the run's files, and its receipt |

`superseded` points were hidden by a later attempt: leave them out for a curve without zig-zag. P and ID in paths are
percent-encoded, long ones are cut: take `run_id` from the files, and the project from `runs/`.

```sql
-- DuckDB
SELECT r.name, p.metric, p.step, avg(p.value) AS value
FROM read_parquet('points/*/*/*.parquet', hive_partitioning = false) p
JOIN read_parquet('runs/*.parquet') r USING (run_id)
WHERE NOT p.superseded GROUP BY ALL ORDER BY ALL;
```

```python
pandas.read_parquet("points")                          # project and run become columns
polars.read_parquet("points/**/*.parquet")
pyarrow.dataset.dataset("points", partitioning="hive").to_table(filter=pyarrow.dataset.field("run") == "ID")
```
"""


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file of a run; `path` is inside the archive."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive holds of one run."""

    run_id: str
    project: str
    name: str
    state: str
    archived_at: str
    files: Mapping[str, ArchivedFile]
    receipt: Mapping[str, Any]
    format: str = FORMAT

    @property
    def points(self) -> int:
        """How many there are."""
        return self.files["points"].rows


def write_run(folder: Path, source: RunSource, about: Description, now: datetime | None = None) -> Manifest:
    """Add a run to an archive, or write it again; it is checked when this returns.

    Raises:
        ArchiveDamaged: What was read back is not what was written; the run is not in the archive.
        RunChanged: The run lost points meanwhile.
        OSError: The archive can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "README.md").exists():
        (folder / "README.md").write_text(README, encoding="utf-8")
    places: dict[str, tuple[Path, Path]] = {}
    files: dict[str, ArchivedFile] = {}
    try:
        for name, schema, pages in run_files.tables(source, about):
            path = folder / _place(name, about)
            draft = path.with_name(f".{path.name}.{os.getpid()}.part")
            places[name] = draft, path
            path.parent.mkdir(parents=True, exist_ok=True)
            written = Digest(schema)
            rows = run_files.write_table(PARQUET, draft, about, schema, pages, seen=written.add)  # 1
            to_disk(draft)
            read = _digest(draft, schema)  # 2
            if (read.rows, read.hexdigest()) != (rows, written.hexdigest()):
                raise ArchiveDamaged(f"{path} read back is not what was written: the disk can't be trusted.")
            relative = path.relative_to(folder).as_posix()
            files[name] = ArchivedFile(relative, rows, draft.stat().st_size, _sha256(draft))
        for draft, path in places.values():  # 3
            draft.rename(path)
            _folders_to_disk(folder, path)
    finally:
        for draft, _ in places.values():
            draft.unlink(missing_ok=True)
    manifest = Manifest(
        about.run_id, str(about.run["project"]), str(about.run["name"]), str(about.run["state"]),
        (now or datetime.now(UTC)).isoformat(timespec="seconds"), files, about.receipt,
    )  # fmt: skip
    _write_manifest(folder, manifest)  # 4
    return manifest


def read_manifest(folder: Path, run_id: str) -> Manifest | None:
    """What an archive says of a run; None where it says nothing that can be read."""
    try:
        found = json.loads((folder / _manifest_place(run_id)).read_text(encoding="utf-8"))
        files = {name: ArchivedFile(**one) for name, one in found.pop("files").items()}
        manifest = Manifest(files=files, **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if manifest.run_id == run_id and manifest.format == FORMAT else None


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Whether all of a run's files are what its manifest says; reads every byte."""
    try:
        return all(
            (folder / one.path).stat().st_size == one.bytes and _sha256(folder / one.path) == one.sha256
            for one in manifest.files.values()
        )
    except OSError:
        return False


def is_current(source: RunSource, manifest: Manifest) -> bool:
    """Whether the store has no other points and events of the run than the archive."""
    points = sum(line.points for line in run_pages.lines(source.columns, manifest.run_id))
    (row,) = source.ask("SELECT count(*) AS n FROM events WHERE run_id = $run_id", {"run_id": manifest.run_id})
    return (points, row["n"]) == (manifest.points, manifest.files["events"].rows)


class Digest:
    """Tells whether two sequences of pages hold the same rows, wherever they are cut: a hash a column, of every bit."""

    def __init__(self, schema: pa.Schema) -> None:
        """Nothing was added yet."""
        self.rows = 0
        self._hashes = {name: tuple(hashlib.sha256() for _ in range(3)) for name in schema.names}

    def add(self, page: pa.Table | pa.RecordBatch) -> None:
        """The next rows."""
        self.rows += page.num_rows
        for name, (there, lengths, data) in self._hashes.items():
            column = page.column(name)
            for array in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                _add(array, there, lengths, data)

    def hexdigest(self) -> str:
        """Of all that was added."""
        whole = hashlib.sha256()
        for of_column in self._hashes.values():
            for one in of_column:
                whole.update(one.digest())
        return whole.hexdigest()


def _add(array: pa.Array, there: Any, lengths: Any, data: Any) -> None:
    """Which values are there, how long they are, and what they are: apart, or the cuts between pages would show."""
    there.update(pc.is_valid(array).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(array.type):
        data.update("".join(f"{json.dumps(value)}\n" for value in array.to_pylist()).encode())
    elif pa.types.is_string(array.type):
        texts = array.fill_null("")
        lengths.update(pc.binary_length(texts).to_numpy(zero_copy_only=False).astype("int64").tobytes())
        data.update("".join(texts.to_pylist()).encode())
    else:
        plain = array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array
        empty = False if pa.types.is_boolean(plain.type) else 0
        data.update(plain.fill_null(empty).to_numpy(zero_copy_only=False).tobytes())


def _digest(path: Path, schema: pa.Schema) -> Digest:
    digest = Digest(schema)
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(READ_ROWS):
            digest.add(batch)
    return digest


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_HASH_BYTES):
            found.update(part)
    return found.hexdigest()


def _place(table: str, about: Description) -> Path:
    run = path_part(about.run_id)
    if table == "run":
        return Path("runs", f"{run}.parquet")
    project = path_part(str(about.run["project"])) or NO_PROJECT
    return Path(table, f"project={project}", f"run={run}", f"{table}.parquet")


def _manifest_place(run_id: str) -> Path:
    return Path("manifests", f"{path_part(run_id)}.json")


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    path = folder / _manifest_place(manifest.run_id)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.write_text(json.dumps(asdict(manifest), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    to_disk(draft)
    draft.rename(path)
    _folders_to_disk(folder, path)


def _folders_to_disk(folder: Path, path: Path) -> None:
    """Names of files, and of the folders they lie in, survive power loss when their folders are on the disk."""
    for one in _between(folder, path):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _between(folder: Path, path: Path) -> Iterable[Path]:
    for one in path.parents:
        yield one
        if one == folder:
            return
