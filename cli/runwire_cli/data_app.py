"""The commands about a run's data: edit, delete, export, archive; each imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from runwire_cli.options import AsJson, HomeOption, Read, RunArgument, help_of


def add_data_commands(app: typer.Typer, read: Read) -> None:
    """Add them to the command line; those that read use `read`."""
    _add_edit(app, read)
    _add_delete(app, read)
    _add_export(app, read)
    _add_archive(app, read)


def _add_edit(app: typer.Typer, read: Read) -> None:
    @app.command(help=help_of("edit"))
    def edit(
        run: RunArgument,
        *,
        name: Annotated[str | None, typer.Option(metavar="NAME", help="Its new name.", show_default=False)] = None,
        group: Annotated[
            str | None, typer.Option(metavar="NAME", help="Its new group; '' for none.", show_default=False)
        ] = None,
        tag: Annotated[
            list[str] | None,
            typer.Option(
                metavar="[+-]TAG",
                help="+x adds a tag, -x removes one, x replaces all; '' removes all. May be given again.",
                show_default=False,
            ),
        ] = None,
        note: Annotated[
            str | None, typer.Option(metavar="TEXT", help="Its new note; '' for none.", show_default=False)
        ] = None,
        json: AsJson = False,
        home: HomeOption = None,
    ) -> None:
        from runwire_cli import editing  # noqa: PLC0415 - --help needs none of it
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        settings = read_command_settings(home=home)
        read(
            home,
            json,
            False,
            lambda reader, output: editing.edit(
                settings, reader, output, run, name=name, group=group, tags=tag or (), notes=note
            ),
        )


def _add_delete(app: typer.Typer, read: Read) -> None:
    @app.command(help=help_of("delete"))
    def delete(
        runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, begins of ids, or names.")],
        *,
        yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
        json: AsJson = False,
        home: HomeOption = None,
    ) -> None:
        from runwire_cli import editing  # noqa: PLC0415 - --help needs none of it
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        settings = read_command_settings(home=home)
        read(home, json, False, lambda reader, output: editing.delete(settings, reader, output, runs, yes=yes))


def _add_export(app: typer.Typer, read: Read) -> None:
    @app.command(help=help_of("export"))
    def export(
        run: RunArgument,
        *,
        form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="parquet, csv or json.")] = "parquet",
        to: Annotated[
            str | None,
            typer.Option(
                "--output",
                "-o",
                metavar="PATH",
                help="A folder for all (json: a file), NAME.parquet or NAME.csv for the points alone, - for stdout.",
                show_default="the run's id",
            ),
        ] = None,
        home: HomeOption = None,
    ) -> None:
        from runwire_cli import export as exporting  # noqa: PLC0415 - --help needs none of it

        read(home, False, False, lambda reader, output: exporting.export(reader, output, run, form, to))


def _add_archive(app: typer.Typer, read: Read) -> None:
    @app.command(help=help_of("archive"))
    def archive(
        runs: Annotated[
            list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids, begins of ids, or names.")
        ] = None,
        *,
        to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="The archive; it may hold runs already.")],
        project: Annotated[
            str | None, typer.Option(metavar="NAME", help="All ended runs of this project.", show_default=False)
        ] = None,
        before: Annotated[
            str | None,
            typer.Option(metavar="DATE", help="All runs that ended before, as 2026-01-31, UTC.", show_default=False),
        ] = None,
        delete: Annotated[bool, typer.Option("--delete", help="Then delete those with a complete receipt.")] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Don't ask before --delete.")] = False,
        json: AsJson = False,
        home: HomeOption = None,
    ) -> None:
        from runwire_cli import archive as archiving  # noqa: PLC0415 - --help needs none of it
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        settings = read_command_settings(home=home)
        wanted = archiving.Wanted(tuple(runs or ()), project, before)
        read(
            home,
            json,
            False,
            lambda reader, output: archiving.archive(settings, reader, output, wanted, to, delete=delete, yes=yes),
        )
