"""`runwire export` and `archive`: what is written is what is stored, in files that others read, whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_cli.entry import run
from runwire_consumer import run_archive, run_files, run_pages
from runwire_consumer.errors import RunChanged
from runwire_consumer.run_archive import Digest
from runwire_consumer.run_files import appearing, path_part
from runwire_consumer.run_pages import Line, pages
from tests.cli.data_home import ODD, ended, send, small_home
from tests.consumer.telling import Emitter

# What a reader of CSV has to be told, lest it take a text for a number.
TYPES = "{'run_id': 'VARCHAR', 'metric': 'VARCHAR', 'value': 'DOUBLE', 'emitter_id': 'VARCHAR'}"
Asking = Callable[..., tuple[int, bytes, str]]
POINTS = "SELECT metric, \"rank\", step, value, attempt, superseded, emitter_id, seq FROM metrics WHERE run_id = '{}'"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small home that nobody changes."""
    folder = tmp_path_factory.mktemp("export") / "home"
    small_home(folder)
    return folder


@pytest.fixture
def ask(
    home: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Asking:
    """Runs a command on it in a folder of the test's own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNWIRE_URL", "RUNWIRE_SERVER", "RUNWIRE_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def asking(*words: str, of: Path = home) -> tuple[int, bytes, str]:
        code = run([*words, "--home", str(of)])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return asking


def bits(value: float) -> bytes:
    """What a float is, to the last bit; every NaN is one."""
    return b"nan" if math.isnan(value) else struct.pack("d", value)


def stored(ask: Asking, run_id: str) -> list[tuple[Any, ...]]:
    """The points that SQL knows, in order."""
    rows = json.loads(ask("sql", POINTS.format(run_id), "--json")[1])
    return sorted(
        (*map(str, list(row.values())[:3]), bits(float(row["value"])), *map(str, list(row.values())[4:]))
        for row in rows
    )


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def comparable(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows of a file in the same form."""
    wanted = ("metric", "rank", "step", "value", "attempt", "superseded", "emitter_id", "seq")
    return sorted(
        tuple(bits(float(row[name])) if name == "value" else str(row[name]) for name in wanted) for row in rows
    )


def read_csv(path: Path) -> list[dict[str, Any]]:
    """By the standard library."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{**row, "superseded": row.get("superseded") == "true"} for row in csv.DictReader(file)]


@pytest.fixture(params=[250_000, 2])
def page_points(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a run takes many pages."""
    monkeypatch.setattr(run_pages, "PAGE_POINTS_MAX", request.param)
    monkeypatch.setattr(run_pages, "PAGE_EVENTS_MAX", 2 if request.param == 2 else 200)


@pytest.mark.usefixtures("page_points")
@pytest.mark.parametrize("run_id", ["whole", "../odd\n"])
def test_each_form_holds_all(ask: Asking, tmp_path: Path, run_id: str) -> None:
    """Points to the last bit, params, events, the description: by readers that are not ours."""
    points = stored(ask, run_id)
    shown = json.loads(ask("show", run_id, "--json")[1])
    assert ask("export", run_id)[0] == 0
    folder = tmp_path / path_part(run_id)
    assert names(folder) == ["events.parquet", "params.parquet", "points.parquet", "run.parquet"]
    assert comparable(pq.read_table(folder / "points.parquet").to_pylist()) == points
    about = duckdb.sql(f"FROM '{folder / 'run.parquet'}'").to_arrow_table().to_pylist()[0]
    assert (about["run_id"], about["name"], about["tags"]) == (run_id, shown["name"], shown["tags"])
    assert json.loads(about["params"]) == shown["params"]
    assert json.loads(about["receipt"])["verdict"] == "complete"
    told = pq.read_table(folder / "events.parquet").to_pylist()
    assert sorted(one["type"] for one in told) == sorted(one["type"] for one in shown["events"])
    numbers = {row["key"]: row["number"] for row in pq.read_table(folder / "params.parquet").to_pylist()}
    assert numbers == ({"lr": 0.1, "depth": 3.0, "note": None} if run_id == "whole" else {})

    assert ask("export", run_id, "--format", "csv", "-o", "as-csv")[0] == 0
    assert comparable(read_csv(tmp_path / "as-csv" / "points.csv")) == points
    again = duckdb.sql(
        f"FROM read_csv('{tmp_path / 'as-csv' / 'points.csv'}', types = {TYPES}, force_not_null = [metric])"
    )
    assert comparable(again.to_arrow_table().to_pylist()) == points
    assert read_csv(tmp_path / "as-csv" / "run.csv")[0]["name"] == shown["name"]

    assert ask("export", run_id, "--format", "json", "-o", "run.json")[0] == 0
    whole = json.loads((tmp_path / "run.json").read_bytes())
    assert comparable(whole["points"]) == points
    assert whole["run"]["name"] == shown["name"]
    assert [one["type"] for one in whole["events"]].count("RunStarted") == len(whole["receipt"]["emitters"])
    assert {row["key"]: row["number"] for row in whole["params"]} == numbers


def test_points_alone_and_to_stdout(ask: Asking, tmp_path: Path) -> None:
    """NAME.parquet says in its metadata what the run is; a pipe gets the same bytes."""
    points = stored(ask, "whole")
    for form in ("parquet", "csv"):
        code, out, _ = ask("export", "whole", "--format", form, "-o", f"alone.{form}")
        assert (code, b"15 points written" in out) == (0, True)
    alone = pq.read_table(tmp_path / "alone.parquet")
    assert comparable(alone.to_pylist()) == points
    assert json.loads(alone.schema.metadata[b"runwire.run"])["params"] == {"depth": "3", "lr": "0.1", "note": "x"}
    assert comparable(pq.read_table(pa.BufferReader(ask("export", "whole", "-o", "-")[1])).to_pylist()) == points
    assert ask("export", "whole", "--format", "csv", "-o", "-")[1] == (tmp_path / "alone.csv").read_bytes()
    assert (
        comparable(json.load(io.BytesIO(ask("export", "whole", "--format", "json", "-o", "-")[1]))["points"]) == points
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--format", "xml"), "none of parquet, csv, json"),
        (("-o", "nowhere/x"), "There is no folder nowhere"),
        (("-o", "there"), "there is there already"),
    ],
)
def test_an_export_that_cant_be(ask: Asking, tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    """One sentence; what is there stays."""
    (tmp_path / "there").write_text("mine")
    code, _, err = ask("export", "whole", *words)
    assert (code != 0, sentence in err) == (True, True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_running_run_says_so(ask: Asking) -> None:
    """It isn't whole: more may come."""
    assert "still running" in ask("export", "going", of=freshly_running(Path.cwd()))[2]


def freshly_running(folder: Path) -> Path:
    """A home whose run lives now."""
    from time import time  # noqa: PLC0415 - the only test that needs a clock

    going = Emitter("5", "going", started=time() - 1_700_000_000)
    send(folder / "home", [going.starts(name="x"), going.logs({0: {"loss": 1.0}})])
    return folder / "home"


@pytest.mark.parametrize("folder", [False, True])
def test_never_half_a_file(tmp_path: Path, folder: bool) -> None:  # noqa: FBT001 - a parameter
    """What fails in between leaves nothing, not even a draft."""

    def write(fails: bool) -> None:  # noqa: FBT001 - as above
        with appearing(tmp_path / "x", folder=folder) as draft:
            (draft / "part" if folder else draft).write_text("half")
            assert names(tmp_path) == [draft.name]
            if fails:
                raise RunChanged("gone")

    with pytest.raises(RunChanged):
        write(fails=True)
    assert names(tmp_path) == []
    write(fails=False)
    assert names(tmp_path) == ["x"]
    with pytest.raises(FileExistsError):
        write(fails=False)


def test_a_run_that_loses_points_meanwhile_is_not_written(
    ask: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted, or reduced, between two pages."""
    lines = run_pages.lines
    monkeypatch.setattr(run_pages, "lines", lambda *given: [*lines(*given), Line("more", "e" * 32, 0, 1, 0, 0)])
    code, _, err = ask("export", "whole", "-o", "x")
    assert (code, "lost points while it was read" in err, names(tmp_path)) == (1, True, [])


# -- pages ------------------------------------------------------------------------------------------------------------

LINES = st.lists(
    st.builds(
        lambda metric, emitter, points, first, spread: Line(
            metric, emitter, 0, points, first, first + points * spread - 1
        ),
        st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(1, 50), st.integers(0, 9), st.integers(1, 3),
    ),
    max_size=8, unique_by=lambda line: (line.metric, line.emitter_id),
)  # fmt: skip


@given(LINES.map(lambda found: sorted(found, key=lambda line: (line.metric, line.emitter_id))), st.integers(1, 60))
def test_pages_hold_each_row_once(found: list[Line], points_max: int) -> None:
    """Whole metrics while they are small; of a large one, ranges of rows that touch."""
    asked: dict[tuple[str, str], list[tuple[int, int]]] = {}
    whole: list[str] = []
    for page in pages("r", found, points_max):
        if "metric" in page.params:
            key = page.params["metric"], page.params["emitter_id"]
            asked.setdefault(key, []).append((page.params["first_seq"], page.params["last_seq"]))
        else:
            names = [value for name, value in page.params.items() if name.startswith("metric_")]
            assert sum(line.points for line in found if line.metric in names) <= points_max
            whole += names
    assert len(whole) == len(set(whole))
    for line in found:
        if line.metric in whole:
            assert (line.metric, line.emitter_id) not in asked
            continue
        ranges = asked[line.metric, line.emitter_id]
        assert (ranges[0][0], ranges[-1][1]) == (line.first_seq, line.last_seq)
        assert all(last + 1 == first for (_, last), (first, _) in pairwise(ranges))
        assert len(ranges) <= 4 * (line.points // points_max + 1) + 1


# -- archives ---------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    """What lies in an archive."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_archive_is_read_by_others(ask: Asking, tmp_path: Path) -> None:
    """Plain DuckDB and pyarrow, by what its README says; the manifest's numbers are the files' own."""
    code, out, _ = ask("archive", "whole", "../odd\n", "--to", "kept")
    assert (code, b"15 points" in out) == (0, True)
    points, odd = stored(ask, "whole"), stored(ask, "../odd\n")
    readme = (tmp_path / "kept" / "README.md").read_text()
    (query,) = [part.split("```")[0] for part in readme.split("```sql\n")[1:]]
    engine = duckdb.connect(config={"enable_external_access": True})
    engine.execute(f"SET file_search_path = '{tmp_path / 'kept'}'")
    rows = engine.sql(query).fetchall()
    assert [row for row in rows if row[0] == "calm-river-1" and row[1] == "loss"] == [
        ("calm-river-1", "loss", 0, 1.0), ("calm-river-1", "loss", 1, 0.25), ("calm-river-1", "loss", 2, 5e-324),
        ("calm-river-1", "loss", 3, 0.1),
    ]  # fmt: skip
    whole = ds.dataset(tmp_path / "kept" / "points", partitioning="hive").to_table(filter=ds.field("run") == "whole")
    assert comparable(whole.to_pylist()) == points
    assert set(whole.column("project").to_pylist()) == {"digits"}
    every = pq.read_table(tmp_path / "kept" / "points", partitioning="hive")
    assert comparable([row for row in every.to_pylist() if row["run_id"] == "../odd\n"]) == odd
    assert {row["project"] for row in every.to_pylist()} == {"digits", ODD}
    runs = engine.sql("SELECT project, name FROM read_parquet('runs/*.parquet') ORDER BY run_id").fetchall()
    assert runs == [(ODD, ODD), ("digits", "calm-river-1")]
    manifest = json.loads((tmp_path / "kept" / "manifests" / "whole.json").read_text())
    assert manifest["receipt"]["verdict"] == "complete"
    assert [manifest["files"][name]["rows"] for name in ("points", "params", "events", "run")] == [15, 3, 7, 1]
    for one in manifest["files"].values():
        content = (tmp_path / "kept" / one["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (one["bytes"], one["sha256"])
    assert not [name for name in files_of(tmp_path / "kept") if "/." in name or name.startswith(".")]


def test_what_is_archived_already_stays_and_what_is_damaged_is_written_again(ask: Asking, tmp_path: Path) -> None:
    """Two orders make one archive."""
    assert ask("archive", "whole", "--to", "kept")[0] == 0
    before = files_of(tmp_path / "kept")
    assert ask("archive", "whole", "--to", "kept")[0] == 0
    assert files_of(tmp_path / "kept") == before
    path = tmp_path / "kept" / "points" / "project=digits" / "run=whole" / "points.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert ask("archive", "whole", "--to", "kept")[0] == 0
    points = {name: content for name, content in files_of(tmp_path / "kept").items() if name.startswith("points")}
    assert points == {name: content for name, content in before.items() if name.startswith("points")}


def test_a_run_that_changed_is_archived_again(ask: Asking, tmp_path: Path) -> None:
    """An event more is enough; the manifest is the new one's."""
    own = tmp_path / "home"
    small_home(own)
    assert ask("archive", "whole", "--to", "kept", of=own)[0] == 0
    assert ask("edit", "whole", "--name", "renamed", of=own)[0] == 0
    assert b"renamed (whole)" in ask("archive", "whole", "--to", "kept", of=own)[1]
    (row,) = pq.read_table(tmp_path / "kept" / "runs" / "whole.parquet").to_pylist()
    assert row["name"] == "renamed"


def test_a_disk_that_lies_is_found_out(ask: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read back is compared with what came from the store, not with what was meant to be written."""
    real = run_files.write_table

    def lying(form: str, target: Any, about: Any, schema: pa.Schema, found: Iterator[pa.Table], **rest: Any) -> int:
        count = real(form, target, about, schema, found, **rest)
        if target.name.startswith(".points"):
            table = pq.read_table(target)
            values = pa.array([0.0, *table.column("value").to_pylist()[1:]])
            pq.write_table(table.set_column(table.schema.get_field_index("value"), "value", values), target)
        return count

    monkeypatch.setattr(run_files, "write_table", lying)
    code, _, err = ask("archive", "whole", "--to", "kept", "--delete", "--yes")
    assert (code, "read back is not what was written" in err) == (1, True)
    assert set(files_of(tmp_path / "kept")) == {"README.md"}
    assert stored(ask, "whole")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Name runs, or choose"),
        (("whole", "--project", "digits"), "Name runs, or choose"),
        (("--before", "yesterday"), "no date"),
        (("going", "--to", "kept"), "has not ended"),
        (("whole", "--delete"), "add --yes"),
    ],
)
def test_what_cant_be_archived(tmp_path: Path, ask: Asking, words: tuple[str, ...], sentence: str) -> None:
    """One sentence, and nothing is written."""
    of = {"of": freshly_running(tmp_path)} if words[:1] == ("going",) else {}
    code, _, err = ask("archive", *words, *(() if "--to" in words else ("--to", "kept")), **of)
    assert (code != 0, sentence in err, (tmp_path / "kept").exists()) == (True, True, False)


def test_archived_runs_are_deleted_where_they_may_be(tmp_path: Path, ask: Asking) -> None:
    """Ended before the date, of the project, with a complete receipt; the others stay and are said: exit code 1."""
    own = tmp_path / "home"
    small_home(own)
    code, out, err = ask(
        "archive", "--before", "2023-11-14T22:15:30", "--to", "kept", "--delete", "--yes", "--json", of=own
    )
    assert (code, [(one["run_id"], one["deleted"]) for one in json.loads(out)]) == (0, [("whole", True)])
    code, out, err = ask("archive", "--project", "digits", "--to", "kept", "--delete", "--yes", "--json", of=own)
    found = {one["run_id"]: (one["receipt"], one["deleted"]) for one in json.loads(out)}
    assert (code, found["died"]) == (1, ("faulty", False))
    assert "died) is not deleted: its receipt is faulty" in err
    assert "whole" not in found
    left = json.loads(ask("runs", "--json", of=own)[1])
    assert {one["run_id"] for one in left} == {"died", "going", "../odd\n"}
    removed = json.loads(ask("sql", "SELECT run_id, reason FROM removals", "--json", of=own)[1])
    assert removed == [{"run_id": "whole", "reason": "archived"}]
    assert pq.read_table(tmp_path / "kept" / "points", partitioning="hive").num_rows >= 15


# -- names and digests ------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_names_of_files(text: str) -> None:
    """One part of a path, below the limits of any file system, told apart, and read back where it isn't cut."""
    part = path_part(text)
    assert len(part) <= run_files.PART_CHARACTERS_MAX + 17
    assert not set(part) & set('/\\\0\n:*?"<>|= ')
    assert part[:1] not in {".", "_"}
    assert part.isascii()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("digits", "digits"),
        ("..", "%2E."),
        ("_a.b_", "%5Fa.b_"),
        ("a/b=c%", "a%2Fb%3Dc%25"),
        ("é", "%C3%A9"),
        ("é" * 27, "%C3%A9" * 26 + "-" + hashlib.sha256(("é" * 27).encode()).hexdigest()[:16]),
    ],
)
def test_names_of_some(text: str, part: str) -> None:
    assert path_part(text) == part


ROWS = st.lists(
    st.tuples(
        st.none() | st.floats() | st.just(-0.0), st.none() | st.text(max_size=3), st.none() | st.integers(-9, 9),
        st.none() | st.booleans(), st.none() | st.lists(st.text(max_size=2), max_size=2),
    ),
    max_size=6,
)  # fmt: skip
SCHEMA = pa.schema([
    ("value", pa.float64()), ("text", pa.string()), ("number", pa.timestamp("us")), ("flag", pa.bool_()),
    ("list", pa.list_(pa.string())),
])  # fmt: skip


def digest_of(rows: list[Any], cut: int) -> str:
    """Of rows in two pages."""
    digest = Digest(SCHEMA)
    for part in (rows[:cut], rows[cut:]):
        columns = [list(column) for column in zip(*part, strict=True)] or [[]] * len(SCHEMA)
        digest.add(
            pa.table(
                [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
            )
        )
    return digest.hexdigest()


@settings(max_examples=30, deadline=None)
@given(ROWS, ROWS, st.integers(0, 6), st.integers(0, 6))
def test_digests(one: list[Any], other: list[Any], cut: int, other_cut: int) -> None:
    """The same rows wherever they are cut, and no others."""
    assert digest_of(one, cut) == digest_of(one, other_cut)

    def told(rows: list[Any]) -> list[Any]:
        return [[None if row[0] is None else struct.pack("d", row[0]), *row[1:]] for row in rows]

    assert (digest_of(one, cut) == digest_of(other, other_cut)) == (told(one) == told(other))


def test_a_manifest_of_nobody_says_nothing(tmp_path: Path) -> None:
    """Garbage under its name, or another run's."""
    assert run_archive.read_manifest(tmp_path, "a") is None
    (tmp_path / "manifests").mkdir()
    for text in ("{}", "[]", "no", '{"files": {}}', json.dumps({"files": {"points": {}}})):
        (tmp_path / "manifests" / "a.json").write_text(text)
        assert run_archive.read_manifest(tmp_path, "a") is None


def test_the_home_has_what_it_says() -> None:
    """`ended` closes an emitter's receipt."""
    emitter = Emitter("a")
    assert [one.headers[0][1] for one in ended(emitter)] == [b"RunEnded", b"EmitterEnded"]  # type: ignore[index]
