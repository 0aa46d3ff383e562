"""The sub-commands of `runwire dead-letters`; each imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from runwire_cli.options import AsCsv, AsJson, HomeOption, Read

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of dead letters.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are dead.")]


def letters_app(read: Read) -> typer.Typer:
    """The sub-commands, of which the reading ones use `read`."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    @app.command(name="list", help="List the newest dead letters.")
    def list_letters(
        *,
        status: Annotated[str, typer.Option(metavar="STATUS", help="dead, replayed, discarded or all.")] = "dead",
        reason: Annotated[
            str | None, typer.Option(metavar="TEXT", help="Only with this in their reason.", show_default=False)
        ] = None,
        run: Annotated[
            str | None, typer.Option(metavar="ID", help="Only of this run's id.", show_default=False)
        ] = None,
        limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How many, newest first.")] = 50,
        json: AsJson = False,
        csv: AsCsv = False,
        home: HomeOption = None,
    ) -> None:
        from runwire_cli import letters  # noqa: PLC0415 - rich

        wanted = None if status == "all" else status
        read(
            home,
            json,
            csv,
            lambda reader, output: letters.list_letters(
                reader, output, status=wanted, reason=reason, run=run, limit=limit
            ),
        )

    @app.command(help="Show what is kept of one. Reason, headers, where it stood, its first bytes.")
    def show(
        letter: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the begin of it.")],
        *,
        json: AsJson = False,
        csv: AsCsv = False,
        home: HomeOption = None,
    ) -> None:
        from runwire_cli import letters  # noqa: PLC0415 - rich

        read(home, json, csv, lambda reader, output: letters.show_letter(reader, output, letter))

    @app.command(help="Decode them with this version, and store them. Those that still can't be read say why now.")
    def replay(
        ids: IdsArgument = None, *, everything: AllOption = False, json: AsJson = False, home: HomeOption = None
    ) -> None:
        from runwire_cli import letters  # noqa: PLC0415 - rich
        from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        output, settings = Output(Form.JSON if json else Form.TABLE), read_command_settings(home=home)
        raise typer.Exit(letters.replay(settings, output, ids or (), everything=everything))

    @app.command(help="Give them up. Their bytes go, their rows stay dead in the receipts.")
    def discard(
        ids: IdsArgument = None, *, everything: AllOption = False, json: AsJson = False, home: HomeOption = None
    ) -> None:
        from runwire_cli import letters  # noqa: PLC0415 - rich
        from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        output, settings = Output(Form.JSON if json else Form.TABLE), read_command_settings(home=home)
        raise typer.Exit(letters.discard(settings, output, ids or (), everything=everything))

    return app
