"""`runwire archive`: runs into a folder of Parquet files, checked after they are written; then they may be deleted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from runwire_cli.client import Reader, Row
from runwire_cli.editing import need_log, order_deletion
from runwire_cli.errors import CommandError
from runwire_cli.export import source_of
from runwire_cli.output import Form, Output
from runwire_cli.settings import CommandSettings
from runwire_cli.text import clean, short
from runwire_consumer import queries, run_archive, run_files
from runwire_consumer.run_archive import Manifest
from runwire_consumer.run_files import RunSource

NOT_ENDED = ("running", "stuck")
_NAMED = "SELECT run_id, project, name, state FROM runs WHERE run_id = $run_id"
_MEANT = """
SELECT run_id, project, name, state FROM runs
WHERE state NOT IN ('running', 'stuck') AND ($project::VARCHAR IS NULL OR project = $project)
    AND ($before::TIMESTAMP IS NULL OR ended_at < $before::TIMESTAMP)
ORDER BY started_at, run_id
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which runs are meant: named ones, or all that ended of a project, before a date."""

    runs: tuple[str, ...] = ()
    project: str | None = None
    before: str | None = None

    def find(self, source: RunSource) -> list[Row]:
        """Their ids, projects, names and states.

        Raises:
            CommandError: Nothing is named, or two ways at once; a run has not ended; the date is none.
        """
        filtered = self.project is not None or self.before is not None
        if bool(self.runs) == filtered:
            raise CommandError("Name runs, or choose ended ones by --project and --before.", 2)
        if filtered:
            return list(source.ask(_MEANT, {"project": self.project, "before": moment_of(self.before)}))
        ids = dict.fromkeys(queries.find_run(source.ask, one) for one in self.runs)
        found = [source.ask(_NAMED, {"run_id": run_id})[0] for run_id in ids]
        for run in found:
            if run["state"] in NOT_ENDED:
                raise CommandError(f"Run {short(run['name'])} ({run['run_id']}) has not ended: archive it when it has.")
        return found


def archive(
    settings: CommandSettings, reader: Reader, output: Output, wanted: Wanted, to: str, *, delete: bool, yes: bool
) -> int:
    """Write runs into an archive; returns 1 where one is left undone.

    Args:
        settings: Where their log is.
        reader: Who knows them.
        output: Where it is said.
        wanted: Which.
        to: The archive's folder.
        delete: Afterwards delete those whose receipt is complete.
        yes: Don't ask before.
    """
    if delete:
        need_log(settings)
        if not yes and not sys.stdin.isatty():
            raise CommandError("Nobody can be asked here: add --yes to delete without a question.", 2)
    source, folder = source_of(reader), Path(to)
    runs = wanted.find(source)
    if not runs:
        output.say(f"No run in {reader.place} has ended that is meant.")
    manifests = []
    for at, run in enumerate(runs, start=1):
        with output.waiting(f"Writing run {at} of {len(runs)} …"):
            manifests.append(_archived(folder, source, run["run_id"]))
        if output.form is not Form.JSON:
            output.console.print(_line(manifests[-1]), soft_wrap=True)
    deleted = _delete(settings, reader, output, folder, manifests, yes=yes) if delete else []
    if output.form is Form.JSON:
        output.json([_fields(one, folder, is_deleted=one in deleted) for one in manifests])
    return 1 if delete and len(deleted) < len(manifests) else 0


def moment_of(text: str | None) -> str | None:
    """A date or time of the command line as the store's: UTC, without a zone.

    Raises:
        CommandError: It is none.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"--before {text[:40]!r} is no date: write it as 2026-01-31.", 2) from None
    return (moment.astimezone(UTC) if moment.tzinfo else moment).replace(tzinfo=None).isoformat(sep=" ")


def _archived(folder: Path, source: RunSource, run_id: str) -> Manifest:
    """The run is in the archive, whole; what is there already and still says the same is not written again."""
    known = run_archive.read_manifest(folder, run_id)
    if known is not None and run_archive.is_current(source, known) and run_archive.is_intact(folder, known):
        return known
    return run_archive.write_run(folder, source, run_files.describe(source, run_id))


def _delete(
    settings: CommandSettings, reader: Reader, output: Output, folder: Path, manifests: Sequence[Manifest], *, yes: bool
) -> list[Manifest]:
    """Delete what may be; the others are said."""
    source = source_of(reader)
    chosen = []
    for manifest in manifests:
        reason = _kept_for(source, folder, manifest)
        if reason is None:
            chosen.append(manifest)
        else:
            output.say(f"{short(manifest.name)} ({manifest.run_id}) is not deleted: {reason}.")
    if not chosen:
        return []
    if not yes and not typer.confirm(f"Delete the {len(chosen)} runs that are archived now?", err=True):
        output.say("Nothing was deleted.")
        return []
    order_deletion(
        settings, reader, output, [{"run_id": one.run_id, "project": one.project} for one in chosen], "archived"
    )
    output.say(f"{len(chosen):,} runs are deleted.")
    return chosen


def _kept_for(source: RunSource, folder: Path, manifest: Manifest) -> str | None:
    """Why a run can't be deleted; None where its archive is all there is and ever will be of it."""
    about = run_files.describe(source, manifest.run_id)
    verdict = about.receipt["verdict"]
    if about.run["state"] in NOT_ENDED:
        return "it goes on"
    if verdict != "complete":
        return f"its receipt is {verdict}, `runwire verify` says why"
    if not run_archive.is_current(source, manifest):
        return "it has changed since it was archived"
    return None if run_archive.is_intact(folder, manifest) else "its files in the archive are damaged"


def _line(manifest: Manifest) -> str:
    size = sum(one.bytes for one in manifest.files.values())
    return f"{short(manifest.name)} ({clean(manifest.run_id)}): {manifest.points:,} points, {size / 2**20:,.1f} MiB"


def _fields(manifest: Manifest, folder: Path, *, is_deleted: bool) -> dict[str, Any]:
    return {
        "run_id": manifest.run_id,
        "project": manifest.project,
        "name": manifest.name,
        "receipt": manifest.receipt["verdict"],
        "deleted": is_deleted,
        "files": {
            name: {"path": str(folder / one.path), "rows": one.rows, "bytes": one.bytes, "sha256": one.sha256}
            for name, one in manifest.files.items()
        },
    }
